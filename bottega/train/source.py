"""Where rows come from: a data set read in seeded order.

Left out: mixtures (mixture.py), curricula by loss (curriculum.py), the policy's own experience (experience.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bottega.core.types import Row
from bottega.data.order import Order, Shuffled


class Dataset:
    """Global batches of `batch` rows, epoch after epoch, each in its own order; the last batch of an epoch may be smaller.

    `ordered(epoch)` gives the order of an epoch where it is not a plain shuffle (a curriculum).

    State: {"epoch": e, "at": k}: k rows of epoch e were taken. Nothing else is needed to continue, and nothing is replayed: rows may
    lie on disk (data/shards.py), and any place of an order can be had at once (data/order.py).
    """

    listens = False

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        batch: int,
        seed: int,
        shuffle: bool = True,
        ordered: Callable[[int], Order | None] = lambda epoch: None,
    ) -> None:
        assert len(rows) > 0 and batch > 0
        self.rows, self.batch, self.seed, self.shuffle, self.ordered = rows, batch, seed, shuffle, ordered
        self.epoch = self.at = 0
        self._order = self._draw()

    def _draw(self) -> Order | None:
        plain = Shuffled(len(self.rows), self.seed, self.epoch) if self.shuffle else None
        return self.ordered(self.epoch) or plain

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.rows) // self.batch)

    def next(self) -> tuple[list[Row], dict[str, Any]]:
        """The next batch and the state after it."""
        if self.at >= len(self.rows):
            self.epoch, self.at = self.epoch + 1, 0
            self._order = self._draw()
        end = min(self.at + self.batch, len(self.rows))
        chosen = self._order.take(self.at, self.batch) if self._order else range(self.at, end)
        self.at = end
        return [self.rows[i] for i in chosen], {"epoch": self.epoch, "at": self.at}

    def ahead(self, steps: int) -> Iterator[list[Row]]:
        """The batches of the next `steps` steps, none of them taken."""
        twin = Dataset(self.rows, batch=self.batch, seed=self.seed, shuffle=self.shuffle, ordered=self.ordered)
        twin.restore({"epoch": self.epoch, "at": self.at})
        for _ in range(steps):
            yield twin.next()[0]

    def tell(self, ids: Sequence[int], losses: Sequence[float], metrics: Mapping[str, float]) -> None:
        """A plain data set does not listen."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue after `state`."""
        self.epoch, self.at = int(state["epoch"]), int(state["at"])
        self._order = self._draw()
