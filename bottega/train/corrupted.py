"""A source whose rows are hidden anew at every visit: masked language modelling and span corruption.

Left out: what is hidden, and how (data/corrupt.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bottega.core.types import Row
from bottega.data.corrupt import Corrupt


class Corrupted:
    """Another source's batches, each row hidden by draws of the seed, the step and its place: a resumed run hides the same.

    State: {"step": batches taken, "rows": the other source's}.
    """

    def __init__(self, source: Any, corrupt: Corrupt, *, seed: int) -> None:
        self.source, self.corrupt, self.seed = source, corrupt, seed
        self.step = 0

    @property
    def listens(self) -> bool:
        """Whether the other source does."""
        return bool(self.source.listens)

    @property
    def steps_per_epoch(self) -> int:
        """The other source's."""
        return int(self.source.steps_per_epoch)

    def next(self) -> tuple[list[Row], dict[str, Any]]:
        """The next batch, hidden, and the state after it."""
        rows, state = self.source.next()
        made = self._hidden(rows, self.step)
        self.step += 1
        return made, {"step": self.step, "rows": state}

    def ahead(self, steps: int) -> Iterator[list[Row]]:
        """The batches of the next `steps` steps, none of them taken."""
        for number, rows in enumerate(self.source.ahead(steps)):
            yield self._hidden(rows, self.step + number)

    def tell(self, ids: Sequence[int], losses: Sequence[float], metrics: Mapping[str, float]) -> None:
        """Handed on."""
        self.source.tell(ids, losses, metrics)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue after `state`."""
        self.step = int(state["step"])
        self.source.restore(state["rows"])

    def _hidden(self, rows: Sequence[Row], step: int) -> list[Row]:
        return [self.corrupt(row, np.random.default_rng((self.seed, step, at))) for at, row in enumerate(rows)]


def hidden_once(rows: Sequence[Row], corrupt: Corrupt, *, seed: int) -> list[Row]:
    """Held-out rows, hidden the same way at every evaluation."""
    return [corrupt(row, np.random.default_rng((seed, 1 << 31, at))) for at, row in enumerate(rows)]
