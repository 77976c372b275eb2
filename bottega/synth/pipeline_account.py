"""The account of a leaf on its way through a flow: rows in and out of each step, what was rejected and why; it sums.

Left out: the steps themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
"""A row of a flow: columns by name, JSON values. Names that begin with `_` are the pipeline's own."""


@dataclass(kw_only=True, slots=True)
class Step:
    """Rows of one step. `unused`: taken in but not needed any more when the leaf had its rows (or its budget ended)."""

    name: str
    taken: int = 0
    given: int = 0
    unused: int = 0
    calls: int = 0
    waiting: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def made(self) -> int:
        """Rows that the step added (a generating step) or took together (negative): what makes the sums close."""
        return self.given + self.rejected.total() + self.unused - self.taken

    def to_json(self) -> dict[str, Any]:
        return {
            "step": self.name,
            "in": self.taken,
            "made": self.made,
            "rejected": dict(sorted(self.rejected.items())),
            "unused": self.unused,
            "out": self.given,
            "calls": self.calls,
        }


@dataclass(kw_only=True)
class Account:
    """The funnel of one leaf. `sink` hears of each rejected row."""

    leaf: str
    sink: Callable[[dict[str, Any]], None]
    steps: list[Step] = field(default_factory=list)
    asked: int = 0
    kept: int = 0
    failed: str = ""
    why: str = ""
    cut: bool = False

    @property
    def partial(self) -> bool:
        """Broken, cut short by a budget, or without a row."""
        return bool(self.failed) or self.cut or not self.kept

    def step(self, name: str) -> Step:
        self.steps.append(Step(name=name))
        return self.steps[-1]

    def behind(self, step: Step) -> int:
        """Rows that wait for answers in later steps."""
        place = next(at for at, one in enumerate(self.steps) if one is step)
        return sum(one.waiting for one in self.steps[place + 1 :])

    def reject(self, step: Step, row: Row, reason: str, *, score: Any = None, detail: str = "") -> None:
        """A row that goes: it is counted and kept with stage, score and reason."""
        step.rejected[reason] += 1
        shown = {name: value for name, value in row.items() if not name.startswith("_")}
        self.sink(
            {"leaf": self.leaf, "stage": step.name, "reason": reason, "score": score, "detail": detail, "row": shown}
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "leaf": self.leaf,
            "asked": self.asked,
            "kept": self.kept,
            "rejected": sum(step.rejected.total() for step in self.steps),
            "unused": sum(step.unused for step in self.steps),
            "calls": sum(step.calls for step in self.steps),
            "failed": self.failed,
            "why": self.why,
            "steps": [step.to_json() for step in self.steps],
        }

    def reasons(self) -> dict[str, int]:
        """Rejected rows by step and reason."""
        return {f"{step.name}: {why}": count for step in self.steps for why, count in sorted(step.rejected.items())}

    def sums(self) -> bool:
        """asked + made = kept + rejected + unused, and each step takes what the one before gave."""
        flows = all(before.given == after.taken for before, after in zip(self.steps, self.steps[1:]))
        whole = self.to_json()
        made = sum(step.made for step in self.steps)
        return flows and self.asked + made == self.kept + whole["rejected"] + whole["unused"]
