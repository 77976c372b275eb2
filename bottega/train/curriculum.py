"""A data set that listens: each epoch goes from the rows with the smallest loss to those with the largest, or back.

Left out: orders that are known before training (data/order.py), which a plain Dataset takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bottega.core.errors import UserError
from bottega.core.types import Row
from bottega.data.order import Banded
from bottega.train.source import Dataset

MAX_ROWS = 100_000
"""Rows whose losses are kept: every checkpoint holds two numbers a row as JSON, some 4 MB for so many."""


class ByLoss:
    """Epoch 0 in plain order; every later one by the losses that were heard until it began, in `bands` (data/order.py).

    State: {"epoch", "at", "basis": what the epoch's order came of, "heard": the last loss of each row, null where there is none}.

    Raises:
        UserError: more rows than losses are kept for.
    """

    listens = True

    def __init__(self, rows: Sequence[Row], *, batch: int, seed: int, bands: int, hard_first: bool = False) -> None:
        if len(rows) > MAX_ROWS:
            raise UserError(
                f"a curriculum by loss keeps the loss of every row, of {MAX_ROWS:,} at most, and there are {len(rows):,}: "
                "order by length or by a column, or give fewer rows"
            )
        self.rows, self.batch, self.seed, self.bands, self.hard_first = rows, batch, seed, bands, hard_first
        self.heard: list[float | None] = [None] * len(rows)
        self.basis: list[float | None] = list(self.heard)
        self.places = {row.index: place for place, row in enumerate(rows)}
        self.inner = Dataset(rows, batch=batch, seed=seed, ordered=self._order)

    def _order(self, epoch: int) -> Banded | None:
        if epoch == 0:
            return None
        keys = np.array([np.nan if loss is None else loss for loss in self.basis])
        return Banded(keys, self.seed, epoch, bands=self.bands, reverse=self.hard_first)

    @property
    def steps_per_epoch(self) -> int:
        return self.inner.steps_per_epoch

    def next(self) -> tuple[list[Row], dict[str, Any]]:
        """The next batch and the state after it; its `heard` is the list that `tell` goes on filling."""
        if self.inner.at >= len(self.rows):
            self.basis = list(self.heard)
        rows, state = self.inner.next()
        return rows, {**state, "basis": self.basis, "heard": self.heard}

    def ahead(self, steps: int) -> Iterator[list[Row]]:
        """The batches of this epoch; the order of the next one is not known yet."""
        left = -(-(len(self.rows) - self.inner.at) // self.batch) if self.inner.at < len(self.rows) else 0
        return self.inner.ahead(min(steps, left))

    def tell(self, ids: Sequence[int], losses: Sequence[float], metrics: Mapping[str, float]) -> None:
        """Remember the losses of the batch."""
        for index, loss in zip(ids, losses, strict=True):
            self.heard[self.places[index]] = loss

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue after `state`."""
        self.heard, self.basis = list(state["heard"]), list(state["basis"])
        self.inner.restore(state)
