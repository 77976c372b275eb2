"""What every side measures, in the same way: CPU seconds and peak memory of the training, and the held-out loss.

Left out: wall-clock comparisons (the machine is shared; CPU seconds are what a side spent). Standard library and torch
only: this file is imported inside each peer's own environment.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


class Meter:
    """CPU and wall seconds, and the process's peak memory, from `start` to the last `mark`."""

    def __init__(self) -> None:
        self.before = self.cpu = self.wall = 0.0
        self.peak_mb = self.base_mb = 0
        self.steps = 0

    def start(self) -> None:
        """Training begins: model, data and optimizer options are ready, no step was taken."""
        self.base_mb = peak_mb()
        self.before = time.process_time()
        self._cpu, self._wall = self.before, time.perf_counter()

    def mark(self, steps: int | None = None) -> None:
        """A step has ended; the last call counts."""
        self.cpu, self.wall = time.process_time() - self._cpu, time.perf_counter() - self._wall
        self.peak_mb = peak_mb()
        self.steps = self.steps + 1 if steps is None else steps

    def facts(self) -> dict[str, Any]:
        """The numbers of a result."""
        return {
            "train_cpu_s": round(self.cpu, 3),
            "train_wall_s": round(self.wall, 3),
            "before_cpu_s": round(self.before, 3),
            "peak_mb": self.peak_mb,
            "before_mb": self.base_mb,
            "steps": self.steps,
        }


def peak_mb() -> int:
    """Highest resident memory of this process so far, MiB."""
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def arguments() -> argparse.Namespace:
    """What the command hands to a side: the workload's folder, what is tuned, and where the result goes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tune", choices=("full", "lora"), default="full")
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variant", default="", help="a second setting of the same side")
    parser.add_argument("--profile", default="", choices=("", "torch", "python"))
    return parser.parse_args()


def quiet(threads: int) -> None:
    """So many threads, and no progress bars or telemetry from anyone."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)


def rows(work: Path, part: str) -> list[dict[str, Any]]:
    """Rows of the workload, with ids and the mask of what trains."""
    return json.loads((work / "rows.json").read_text())[part]


def block_tokens(work: Path, batch: int) -> int:
    """The size of a packed block that holds `batch` rows of mean length (a step then sees as many tokens as ours do).

    A multiple of 8, as LLaMA-Factory's collator wants it.
    """
    lengths = [len(row["ids"]) for row in rows(work, "train")]
    wanted = max(max(lengths), -(-sum(lengths) * batch // len(lengths)))
    return -(-wanted // 8) * 8


def held_out_loss(logits_of: Callable[[Any], Any], work: Path) -> float:
    """Mean of -log p over the held-out rows' supervised tokens; `logits_of` maps ids (1, T) to logits (1, T, V)."""
    import torch

    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows(work, "held_out"):
            ids = torch.tensor([row["ids"]])
            where = [t for t, trains in enumerate(row["trains"]) if trains]
            logits = logits_of(ids)[0, [t - 1 for t in where]].float()
            total += torch.nn.functional.cross_entropy(logits, ids[0, where], reduction="sum").item()
            count += len(where)
    return total / count


def write(out: Path, meter: Meter, *, packages: Sequence[str], setting: str, loss: float, **more: Any) -> None:
    """The result of a side, as JSON."""
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    facts = {**meter.facts(), "setting": setting, "held_out_loss": round(loss, 4), "versions": versions, **more}
    out.write_text(json.dumps(facts, indent=1))
