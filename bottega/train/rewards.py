"""Several rewards as one: each weighed, each with its mean, spread and share at zero.

Left out: the rewards themselves (grade/rewards.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bottega.core.errors import UserError
from bottega.grade.rewards import LARGEST, Answer, Batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighed:
    """A reward with its name and weight."""

    name: str
    weight: float
    reward: Batch


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Judged:
    """total: (N,), the weighted sum; parts: each reward's own numbers (N,), not a number where it had no opinion."""

    total: np.ndarray
    parts: Mapping[str, np.ndarray]

    def stats(self) -> dict[str, dict[str, float]]:
        """Mean, spread (standard deviation), share at zero and share without an opinion of each reward, and of the sum."""
        named = {**self.parts, "sum": self.total} if len(self.parts) > 1 else dict(self.parts)
        found = {}
        for name, values in named.items():
            known = values[~np.isnan(values)]
            found[name] = {
                "mean": float(known.mean()) if len(known) else 0.0,
                "spread": float(known.std()) if len(known) else 0.0,
                "zero": float((known == 0).mean()) if len(known) else 0.0,
                "unknown": float(np.isnan(values).mean()),
            }
        return found


class Composition:
    """sum of weight * reward. A reward that has no opinion on an answer adds nothing to it; without any, all is worth 0."""

    def __init__(self, parts: Sequence[Weighed]) -> None:
        self.parts = tuple(parts)

    def __call__(self, answers: Sequence[Answer]) -> Judged:
        """Judge `answers`.

        Raises:
            UserError: a reward cannot judge, or no reward has an opinion on any of them.
        """
        found: dict[str, np.ndarray] = {}
        total = np.zeros(len(answers))
        for number, part in enumerate(self.parts):
            values = np.array([np.nan if value is None else value for value in part.reward(answers)], dtype=np.float64)
            assert len(values) == len(answers), f"{part.name} gave {len(values)} rewards for {len(answers)} answers"
            if (np.abs(values) > LARGEST).any():
                worst = float(values[np.nanargmax(np.abs(values))])
                raise UserError(f"the reward {part.name} gave {worst:g}, beyond {LARGEST:g} either way: scale it")
            total += part.weight * np.nan_to_num(values)
            found[part.name if part.name not in found else f"{part.name}-{number + 1}"] = values
        if found and all(np.isnan(values).all() for values in found.values()):
            raise UserError(
                f"no reward has an opinion on any of {len(answers)} answers ({', '.join(found)}): add one that always has"
            )
        return Judged(total=total, parts=found)
