"""`bottega demo`: from documents to an aligned, measured model, offline, with the ordinary machinery.

The output folder is a run folder: `bottega chat`, `runs show`, `runs verify` and `eval` take it as they take any other.
Left out: the data and recipes (plan.py), the probes' verdicts (checks.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core import rundir
from bottega.core.errors import CheckFailed, Mismatch, UserError
from bottega.core.textio import progress, table
from bottega.demo import checks, plan, world
from bottega.demo.plan import STAGES

if TYPE_CHECKING:
    from bottega.evals.audit import Audit
    from bottega.evals.runner import Scorecard

ROWS_AUDITED = 700
"""Company documents that the audit of privacy asks for."""
ABOUT = (
    "From documents to an aligned, measured model: a small base model reads a company's documents, learns a task, "
    "answers questions on new facts, and takes on a preferred manner. Every number is measured on unseen probes."
)
SHOWN = {
    "tickets": 3,
    "requests": 3,
    "company questions": 4,
    checks.POLITE_TASK: 3,
    "old world questions": 2,
    "old world reading": 2,
}
"""How many answers of each task stand side by side in the report."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoResult:
    """How the demo ended: every check with its interval, each audit's verdict, and what to open next."""

    folder: Path
    model: Path
    report: Path
    seconds: float
    checks: tuple[checks.Check, ...]
    risks: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As printed by `demo --json`, and written to demo.json."""
        paths = {"folder": str(self.folder), "model": str(self.model), "report": str(self.report)}
        judged = {"checks": [check.to_json() for check in self.checks], "risks": self.risks}
        return {**paths, "seconds": round(self.seconds, 1), **judged}


def demo(
    out: str | os.PathLike[str] = "demo-out",
    *,
    stages: Sequence[str] | None = None,
    seed: int = 0,
    model: str = "garzone",
    quiet: bool = False,
    split: str = "test",
    budget: float = 1.0,
) -> DemoResult:
    """Run the journey, or go on where it stopped.

    Args:
        out: the folder everything is written to. stages: the first ones of adapt, task, instruct, align; default: all.
        model: the base. split: whose probes measure: "test", or "dev" while settings are chosen.
        budget: share of steps, rows and probes; below 1 for a quick look, whose checks may well fail.

    Raises:
        CheckFailed: a stage's own check came out negative (everything is written). UserError: no such stage.
        Mismatch: the folder was made with another seed, model, split or budget.
    """
    began = time.time()
    chosen = _chosen(stages)
    folder = Path(out)
    _prepare(folder, {"seed": seed, "model": _absolute(model), "split": split, "budget": budget})
    journey = _Journey(folder, seed, quiet)
    verdicts = journey.go(chosen)
    last = stage_folder(folder, chosen[-1]) / "result"
    report = _report(folder)
    risks: dict[str, str] = {audit.risk: audit.verdict for audit in journey.audits(last)}
    result = DemoResult(
        folder=folder, model=last, report=report, seconds=time.time() - began, checks=tuple(verdicts), risks=risks
    )
    rundir.write_json(folder / "demo.json", result.to_json())
    failed = [check for check in verdicts if not check.passed]
    if failed:
        lines = ["the demo's own check failed:", *(check.line() for check in failed), f"see {report}"]
        raise CheckFailed("\n".join(lines))
    return result


def demo_text(result: DemoResult) -> str:
    """The checks and what to do next, for people."""
    rows = [(c.stage, c.check, c.value, c.low, c.high, c.bound, c.n, "passed") for c in result.checks]
    lines = [table(rows, ("stage", "check", "measured", "low", "high", "bound", "n", "")), ""]
    lines += [f"risk    {risk}: {verdict}" for risk, verdict in result.risks.items()]
    lines += [f"report  {result.report}", *(f"next    {line}" for line in commands(result.folder)[:3])]
    return "\n".join(lines)


def commands(folder: Path) -> list[str]:
    """What a person may type next."""
    return [
        f"bottega chat {folder}",
        f"bottega run {folder}/recipes/align.yaml align.objective.beta=0.3 --out runs/firmer",
        f"bottega run {folder}/recipes/journey.yaml model=YOUR_MODEL --out runs/mine",
        f"bottega eval {folder} --tasks {folder}/tasks/requests.yaml",
        f"bottega data inspect {folder}/data/instruct.jsonl",
        f"bottega runs verify {folder}",
    ]


def stage_folder(folder: Path, stage: str) -> Path:
    """stages/01-adapt ..."""
    return folder / "stages" / f"{STAGES.index(stage) + 1:02d}-{stage}"


def _chosen(stages: Sequence[str] | None) -> tuple[str, ...]:
    chosen = tuple(stages or STAGES)
    if chosen != STAGES[: len(chosen)]:
        raise UserError(
            f"--stages {','.join(chosen)} is not the beginning of {','.join(STAGES)}; each stage needs those before it"
        )
    return chosen


def _absolute(model: str) -> str:
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _prepare(folder: Path, made_of: dict[str, Any]) -> None:
    """Data, tasks and recipes, once; a folder made of something else is not touched."""
    with rundir.lock(folder), rundir.disk_errors(folder):
        path = folder / "made_of.json"
        known = rundir.read_json(path) if path.is_file() else made_of
        for key, value in made_of.items():
            if known.get(key) != value:
                raise Mismatch(f"{folder} was made with {key} {known.get(key)}, not {value}; choose another --out")
        plan.write(folder, **made_of)
        rundir.write_json(path, made_of)


class _Journey:
    """One walk through the stages: train, measure, judge."""

    def __init__(self, folder: Path, seed: int, quiet: bool) -> None:
        self.folder, self.seed, self.quiet = folder, seed, quiet

    def go(self, chosen: Sequence[str]) -> list[checks.Check]:
        from bottega.workshop import recipe, stages

        whole = recipe.to_plain(recipe.load(self.folder / "recipes" / "journey.yaml"))
        start, verdicts = str(whole["model"]), list[checks.Check]()
        base = before = self.measure("base", start, fresh=False).card
        for number, stage in enumerate(chosen):
            place = stage_folder(self.folder, stage)
            fresh = not stages.is_done(place)
            if fresh:
                first = whole["stages"][: max(number + 1, self.begun())]
                stages.run({**whole, "stages": first}, out=self.folder, quiet=self.quiet)
            result = str(place / "result")
            found = self.measure(stage, result, fresh=fresh)
            kl = checks.divergence(result, start, found.sampled, seed=self.seed) if stage == "align" else None
            judged = checks.judge(stage, before, found.card, base, kl)
            verdicts += judged
            rundir.write_json(self.folder / "checks.json", [check.to_json() for check in verdicts])
            self.tell([check.line() for check in judged])
            before, start = found.card, result
        return verdicts

    def begun(self) -> int:
        """How many stages the run's record knows."""
        path = self.folder / "run.json"
        return len(rundir.read_json(path)["stages"]) if path.is_file() else 0

    def measure(self, name: str, model: str, *, fresh: bool) -> checks.Measured:
        """The scorecard of a model, from the folder if it was made before and the model is not `fresh`."""
        from bottega.evals.runner import Scorecard

        number = 1 + STAGES.index(name) if name in STAGES else 0
        path = self.folder / "scorecards" / f"{number}-{name}.json"
        aside = self.folder / "cache" / f"sampled-{name}.json"
        if not fresh and path.is_file() and aside.is_file():
            sampled = tuple((prompt, reply) for prompt, reply in rundir.read_json(aside))
            return checks.Measured(card=Scorecard.from_json(rundir.read_json(path)), sampled=sampled)
        began, cpu = time.time(), time.process_time()
        found = checks.measure(model, self.folder / "tasks", seed=self.seed, name=name)
        rundir.write_json(aside, found.sampled)
        rundir.write_json(path, found.card.to_json())
        spent = f"{time.time() - began:.1f} s, {time.process_time() - cpu:.1f} s of CPU"
        self.tell([f"measured {name} in {spent}", found.card.summary()])
        return found

    def audits(self, model: Path) -> list[Audit]:
        """What the journey forgot and gives away, into audits/ and the report; a verdict, not one of the demo's checks."""
        from bottega.workshop import auditing

        documents, unseen = (
            str(self.folder / place) for place in ("data/adapt.jsonl", "tasks/company_documents.jsonl")
        )
        how: dict[str, Any] = {"held_out": [unseen], "limit": ROWS_AUDITED, "seed": self.seed, "quiet": True}
        found = [
            auditing.forgetting(str(self.folder), seed=self.seed, quiet=True),
            auditing.privacy(str(model), [documents], **how),
        ]
        self.tell([audit.summary() for audit in found])
        return found

    def tell(self, lines: Sequence[str]) -> None:
        """Lines for a person, unless it is to be quiet."""
        with progress(None, "demo", quiet=self.quiet) as shown:
            for line in lines:
                shown.note(line)


def _report(folder: Path) -> Path:
    """samples.json, the words of the report's head, and report.html."""
    from bottega.evals.runner import Scorecard
    from bottega.workshop import report

    cards = [Scorecard.from_json(rundir.read_json(path)) for path in sorted((folder / "scorecards").glob("*.json"))]
    rundir.write_json(folder / "samples.json", side_by_side(cards))
    record = rundir.read_json(folder / "run.json")
    words = {"title": "The first journey", "description": ABOUT, "commands": commands(folder)}
    rundir.write_json(folder / "run.json", {**record, **words})
    return report.write(folder)


def side_by_side(cards: Sequence[Scorecard]) -> list[dict[str, Any]]:
    """The first items of each task with the answer of every model, as the report shows them."""
    found = []
    for task, count in SHOWN.items():
        for at in range(count):
            items = {card.model: card.score(task).items for card in cards}
            asked = [shown[at] for shown in items.values() if at < len(shown)]
            if not asked:
                continue
            prompt = asked[0].prompt
            for mark in world.SPECIAL_TOKENS:  # a chat written out as a line of text: for people without its marks
                prompt = prompt.replace(mark, "")
            answers = {name: shown[at].reply.strip() for name, shown in items.items() if at < len(shown)}
            right = [name for name, shown in items.items() if at < len(shown) and shown[at].value == 1]
            found.append({"prompt": prompt.strip(), "truth": asked[0].truth, "stages": answers, "right": right})
    return found
