"""The trials of a search: each one `bottega run` in a process and a run folder of its own, watched while it goes.

Left out: what is tried (search_space.py) and what came out (search_table.py). A process each, so that memory is measured
and a trial that dies takes nothing with it.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bottega.core import rundir
from bottega.core.errors import DiskFull, FolderInUse, Mismatch, Unsafe, UserError

STARTUP, FIRST = 3, 2
"""A trial may be ended early once so many of its group are done, from this evaluation on."""
POLL_S = 0.2
FATAL = {3: Mismatch, 4: Unsafe, 7: DiskFull, 8: FolderInUse}
"""Exit codes of a trial that end the search: the others would end in the same way."""


@dataclass(kw_only=True, slots=True)
class Trial:
    """One run. group: the method it belongs to; settings: as `KEY: value`; value: its metric at the end."""

    name: str
    group: str
    settings: dict[str, Any]
    seed: int
    command: list[str]
    state: Literal["new", "stopped", "done", "pruned", "failed"] = "new"
    value: float | None = None
    reason: str = ""
    exit_code: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As search.json holds it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """What trials are compared by: an evaluation metric of the stage; sign: 1 where smaller is better, else -1."""

    name: str
    sign: int
    best: bool

    def of(self, folder: Path, stage: str) -> float:
        """Its value in a finished run: the best one where the stage stops early by it, else the last.

        Raises:
            UserError: the stage measured no such thing.
        """
        facts = rundir.read_json(folder / "result.json")["stages"][stage]
        if self.best and "best" in facts:
            return float(facts["best"])
        if f"eval.{self.name}" not in facts:
            known = ", ".join(sorted(key.removeprefix("eval.") for key in facts if key.startswith("eval.")))
            raise UserError(
                f"stage {stage} measured no {self.name!r} on held-out rows; it measured: {known or 'nothing'}"
            )
        return float(facts[f"eval.{self.name}"])

    def curve(self, stage_folder: Path) -> list[float]:
        """Its values at the evaluations so far; a last line that is still being written is left for later."""
        path = stage_folder / "metrics.jsonl"
        if not path.is_file():
            return []
        found = []
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n") and f'"eval.{self.name}"' in line:
                found.append(float(json.loads(line)[f"eval.{self.name}"]))
        return found


def hopeless(curve: Sequence[float], others: Sequence[Sequence[float]], sign: int) -> bool:
    """The median stopping rule (Golovin et al. 2017, Google Vizier, section 3.2.2, with the best in place of the average): the best of
    `curve` so far is worse than the median of what the others had reached by as many evaluations.

    Example, smaller is better: others reached 1, 2 and 3 by their second evaluation; 2.5 as the best of two is hopeless, 2.0 is not.
    """
    k = len(curve)
    reached = [min(sign * value for value in one[:k]) for one in others if len(one) >= k]
    if k < FIRST or len(reached) < STARTUP:
        return False
    return min(sign * value for value in curve) > statistics.median(reached)


class Runner:
    """Runs trials one after the other; `save` is called after every change of one.

    Args:
        stage_folder: where, in a trial's folder, the searched stage writes its metrics.
        until: the clock (time.monotonic) at which the budget ends.
    """

    def __init__(
        self, folder: Path, stage: str, stage_folder: str, metric: Metric, save: Callable[[], None], until: float
    ) -> None:
        self.folder, self.stage, self.stage_folder, self.metric = folder, stage, stage_folder, metric
        self.save, self.until = save, until

    def place(self, trial: Trial) -> Path:
        """The run folder of a trial."""
        return self.folder / "trials" / trial.name

    def curve(self, trial: Trial) -> list[float]:
        """What the trial's metric was at its evaluations."""
        return self.metric.curve(self.place(trial) / self.stage_folder)

    @property
    def over(self) -> bool:
        """Whether the budget of time has ended."""
        return time.monotonic() >= self.until

    def run(self, trial: Trial, others: Sequence[Trial] = ()) -> None:
        """Run it to an end of some kind, or go on with it. others: of its group, by which a bad one is ended early.

        Raises:
            UserError: what would end every other trial too.
        """
        curves = [self.curve(other) for other in others if other.state == "done"]
        log = self.folder / "logs" / f"{trial.name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as said:
            child = subprocess.Popen(trial.command, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
            trial.state = "stopped"  # until it has ended by itself
            try:
                why = self._watch(child, trial, curves)
            finally:
                if child.poll() is None:
                    child.terminate()
                    child.wait()
        trial.exit_code = child.returncode
        self._judge(trial, why, log)
        self.save()

    def _watch(self, child: subprocess.Popen[bytes], trial: Trial, curves: Sequence[Sequence[float]]) -> str:
        """Wait for its end; '' or why it was asked to end."""
        seen = 0
        while child.poll() is None:
            if self.over:
                return "budget"
            curve = self.curve(trial)
            if len(curve) > seen and hopeless(curve, curves, self.metric.sign):
                return "pruned"
            seen = len(curve)
            time.sleep(POLL_S)
        return ""

    def _judge(self, trial: Trial, why: str, log: Path) -> None:
        code = trial.exit_code
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1].removeprefix("bottega: ") if lines else f"exit code {code}"
        if code == 0:
            value = self.metric.of(self.place(trial), self.stage)
            sound = math.isfinite(value)
            trial.state, trial.value = ("done", value) if sound else ("failed", None)
            trial.reason = "" if sound else f"{self.metric.name} is {value} at the end"
        elif why == "pruned":
            curve = self.curve(trial)
            trial.state, trial.value = "pruned", min(self.metric.sign * value for value in curve) * self.metric.sign
            trial.reason = f"worse than the median at evaluation {len(curve)}"
        elif why == "budget" or code in (130, 143, -2, -15):
            trial.state, trial.reason = "stopped", "the budget ended" if why else "interrupted"
        else:
            trial.state, trial.reason = "failed", last
            if code in FATAL:
                self.save()
                raise FATAL[code](f"trial {trial.name}: {last}")


def command(recipe: str, overrides: Sequence[str], out: Path) -> list[str]:
    """The words that run a trial, which a person can type too."""
    return [sys.executable, "-m", "bottega.cli", "run", recipe, *overrides, "--out", str(out), "--json", "--quiet"]
