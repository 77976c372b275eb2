"""Batches that must not be learned from: numbers that are not finite, and losses far above the usual.

Left out: finding the layer and the rows (diagnosis.py) and putting a checkpoint back (resume.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bottega.core.errors import Diverged
from bottega.train.settings import LoopSettings

WINDOW = 128
"""Steps whose losses say what is usual, and among which at most `max_skips` batches may be left out."""
SIGMAS = 6.0

Why = Literal["non-finite", "spike"]


@dataclass(kw_only=True, slots=True)
class Watch:
    """What the training remembers of its losses; part of every checkpoint.

    losses: of the last WINDOW steps that were taken, newest last. taken: batches judged. skipped: what was not learned, as
    written to skipped.jsonl.
    """

    losses: list[float] = field(default_factory=list)
    taken: int = 0
    skipped: list[dict[str, Any]] = field(default_factory=list)

    @property
    def limit(self) -> float:
        """The loss above which a step is a spike: mean + 6 sigma of the last 128 steps (infinity before there are so many).

        >>> Watch(losses=[1.0, 3.0] * 64).limit  # mean 2, sigma 1
        8.0
        """
        if len(self.losses) < WINDOW:
            return math.inf
        mean = math.fsum(self.losses) / WINDOW
        return mean + SIGMAS * math.sqrt(math.fsum((loss - mean) ** 2 for loss in self.losses) / WINDOW)

    def judge(self, loss: float, norm: float, settings: LoopSettings) -> Why | None:
        """Why this batch must not be learned from; None: it may."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return "non-finite"
        return "spike" if settings.spikes == "skip" and loss > self.limit else None

    def take(self, loss: float) -> bool:
        """A step was taken at `loss`; True if that was a spike all the same."""
        spike = loss > self.limit
        self.taken += 1
        self.losses = [*self.losses, loss][-WINDOW:]
        return spike

    def skip(self, entry: Mapping[str, Any], *, max_skips: int) -> None:
        """A batch was left out.

        Raises:
            Diverged: it was one too many among the last WINDOW batches.
        """
        self.taken += 1
        self.skipped.append({**entry, "batch": self.taken})
        recent = sum(one["batch"] > self.taken - WINDOW for one in self.skipped)
        if recent > max_skips:
            raise Diverged(
                f"step {entry['step']}: {recent} of the last {min(WINDOW, self.taken)} batches could not be learned from "
                f"(max_skips {max_skips}): lower lr, or look at the rows that skipped.jsonl names"
            )

    def to_json(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        return {"losses": self.losses, "taken": self.taken, "skipped": self.skipped}


def sentence(entry: Mapping[str, Any]) -> str:
    """What happened, in one clause: step, numbers, layer and rows."""
    rows = entry["rows"]
    named = ", ".join(str(index) for index in rows[:8]) + (" ..." if len(rows) > 8 else "")
    if entry["why"] == "spike":
        what = f"loss {entry['loss']:.4g} is above {entry['limit']:.4g} (mean + 6 sigma of the last {WINDOW} steps)"
        return f"step {entry['step']}: {what}, rows {named}"
    return (
        f"step {entry['step']}: loss {entry['loss']}, gradient norm {entry['norm']}, "
        f"first seen in {entry['layer']}, rows {named}"
    )
