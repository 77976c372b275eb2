"""What every side measures, in the same way: CPU seconds and peak memory of the training, and the held-out loss.

Left out: wall-clock comparisons (the machine is shared; CPU seconds are what a side spent). Standard library and torch
only: this file is imported inside each peer's own environment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

BETA = 0.1
"""Of direct preference optimisation."""
NEW_TOKENS = 128
"""That every prompt of a generation part gets."""


class Meter:
    """CPU and wall seconds, and the process's peak memory, from `start` to the last `mark`."""

    def __init__(self) -> None:
        self.before = self.cpu = self.wall = 0.0
        self.peak_mb = self.base_mb = 0
        self.steps = 0
        self._more = [0.0, 0.0]

    @contextlib.contextmanager
    def also(self) -> Iterator[None]:
        """What runs inside, before training begins, belongs to it."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self._more[0] += time.process_time() - cpu
        self._more[1] += time.perf_counter() - wall

    def start(self) -> None:
        """Training begins: model, data and optimizer options are ready, no step was taken."""
        self.base_mb = peak_mb()
        self.before = time.process_time()
        self._cpu, self._wall = self.before, time.perf_counter()

    def mark(self, steps: int | None = None) -> None:
        """A step has ended; the last call counts."""
        self.cpu = time.process_time() - self._cpu + self._more[0]
        self.wall = time.perf_counter() - self._wall + self._more[1]
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
    parser.add_argument("--part", default="full", help="a part of parts.PARTS")
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variant", default="", help="which of the side's settings")
    parser.add_argument("--profile", default="", choices=("", "torch", "python"))
    options = parser.parse_args()
    options.tune = "lora" if options.part == "lora" else "full"
    return options


def quiet(threads: int) -> None:
    """So many threads, and no progress bars or telemetry from anyone."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)


def rows(work: Path, part: str) -> list[dict[str, Any]]:
    """Rows of the workload, with ids and the mask of what trains."""
    return json.loads((work / "rows.json").read_text())[part]


def block_tokens(work: Path, batch: float) -> int:
    """The size of a packed block that holds `batch` rows of mean length (a step then sees as many tokens as ours do), or the longest.

    A multiple of 8, as LLaMA-Factory's collator wants it.
    """
    lengths = [len(row["ids"]) for row in rows(work, "train")]
    wanted = max(max(lengths), math.ceil(sum(lengths) * batch / len(lengths)))
    return -(-wanted // 8) * 8


def blocks(work: Path, part: str) -> list[list[int]]:
    """Ids of the pretraining part's blocks."""
    return json.loads((work / "blocks.json").read_text())[part]


def pairs(work: Path) -> list[dict[str, Any]]:
    """The preferences, with ids and the reference's log-probabilities."""
    return json.loads((work / "pairs.json").read_text())


def prompts(work: Path, part: str) -> list[list[int]]:
    """The prompts of a generation part: as many as its name says."""
    return json.loads((work / "prompts.json").read_text())[: int(part.rpartition("-")[2])]


def final_loss(logits_of: Callable[[Any], Any], options: argparse.Namespace) -> float:
    """The loss after training that the part shows; `logits_of` maps ids (1, T) to logits (1, T, V)."""
    if options.part == "dpo":
        return preference_loss(logits_of, options.work)
    if options.part == "pretrain":
        return held_out_loss(
            logits_of, [{"ids": ids, "trains": [1] * len(ids)} for ids in blocks(options.work, "held_out")]
        )
    return held_out_loss(logits_of, rows(options.work, "held_out"))


def held_out_loss(logits_of: Callable[[Any], Any], held_out: Sequence[dict[str, Any]]) -> float:
    """Mean of -log p over the rows' supervised tokens (a row's first token has no predecessor and is none)."""
    import torch

    total, count = 0.0, 0
    with torch.no_grad():
        for row in held_out:
            ids = torch.tensor([row["ids"]])
            where = [t for t, trains in enumerate(row["trains"]) if trains and t]
            logits = logits_of(ids)[0, [t - 1 for t in where]].float()
            total += torch.nn.functional.cross_entropy(logits, ids[0, where], reduction="sum").item()
            count += len(where)
    return total / count


def reply_logps(logits_of: Callable[[Any], Any], pair: dict[str, Any]) -> list[float]:
    """log p of the chosen and of the rejected reply, given the prompt."""
    import torch

    found = []
    for side in ("chosen_ids", "rejected_ids"):
        ids, start = torch.tensor([pair["prompt_ids"] + pair[side]]), len(pair["prompt_ids"])
        with torch.no_grad():
            logits = logits_of(ids)[0, start - 1 : -1].float()
        found.append(-torch.nn.functional.cross_entropy(logits, ids[0, start:], reduction="sum").item())
    return found


def preference_loss(logits_of: Callable[[Any], Any], work: Path) -> float:
    """DPO's loss (beta 0.1) on the trained pairs, the reference being the model before training."""
    losses = []
    for pair in pairs(work):
        chosen, rejected = reply_logps(logits_of, pair)
        margin = BETA * (chosen - pair["reference"][0] - rejected + pair["reference"][1])
        losses.append(math.log1p(math.exp(-margin)))
    return sum(losses) / len(losses)


def replies_loss(logits_of: Callable[[Any], Any], given: Sequence[list[int]], replies: Sequence[list[int]]) -> float:
    """Mean of -log p of greedy replies under the model that wrote them: the same where the replies are."""
    rows = [
        {"ids": prompt + reply, "trains": [0] * len(prompt) + [1] * len(reply)}
        for prompt, reply in zip(given, replies, strict=True)
    ]
    return held_out_loss(logits_of, rows)


def write(out: Path, meter: Meter, *, packages: Sequence[str], setting: str, loss: float, **more: Any) -> None:
    """The result of a side, as JSON."""
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    facts = {**meter.facts(), "setting": setting, "loss": round(loss, 5), "versions": versions, **more}
    out.write_text(json.dumps(facts, indent=1))
