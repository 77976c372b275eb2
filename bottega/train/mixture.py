"""Rows drawn from several sources in shares that may change while training; a source that has come often enough is left out.

Left out: what the shares are (data/mix.py) and the order within a source (data/order.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bottega.core.errors import UserError
from bottega.core.types import Row
from bottega.data.mix import next_source, rows_in_pass
from bottega.data.order import Shuffled


class Phase(NamedTuple):
    """The shares that hold from so many tokens on."""

    tokens: int
    shares: tuple[float, ...]


class Mixture:
    """Global batches of `batch` rows from several sources, each read in its own seeded order, epoch after epoch.

    Every batch holds every source in proportion (data/mix.py), so tasks are mixed within a step, not step by step.
    State: {"taken": rows of each source, "credit": [...], "tokens": seen so far}; nothing is replayed.

    Args:
        phases: shares by tokens seen, the first from 0 on. caps: rows that may be drawn of each source over the whole run.
    """

    listens = False

    def __init__(
        self,
        sources: Sequence[Sequence[Row]],
        phases: Sequence[Phase],
        *,
        batch: int,
        seed: int,
        caps: Sequence[int | None] = (),
    ) -> None:
        assert sources and all(len(rows) for rows in sources) and batch > 0 and phases[0].tokens == 0
        self.sources, self.phases, self.batch, self.seed = sources, phases, batch, seed
        self.caps = list(caps) or [None] * len(sources)
        self.taken, self.credit, self.tokens = [0] * len(sources), [0.0] * len(sources), 0
        self._seeds = [int(np.random.SeedSequence([seed, i]).generate_state(1)[0]) for i in range(len(sources))]
        self._orders: dict[int, Shuffled] = {}

    @property
    def num_rows(self) -> int:
        """Rows of one pass: until every source has ended, where all have an end; else until no row is missing."""
        ends = [cap for cap, share in zip(self.caps, self.phases[0].shares) if share > 0]
        if all(cap is not None for cap in ends):
            return sum(cap for cap in ends if cap is not None)
        reach = [len(rows) if cap is None else min(cap, len(rows)) for rows, cap in zip(self.sources, self.caps)]
        return rows_in_pass(reach, self.phases[0].shares)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_rows // self.batch)

    @property
    def limit(self) -> int | None:
        """Rows that can be drawn at all; None: without end."""
        used = [any(phase.shares[i] > 0 for phase in self.phases) for i in range(len(self.sources))]
        ends = [cap for cap, here in zip(self.caps, used) if here]
        return sum(cap or 0 for cap in ends) if all(cap is not None for cap in ends) else None

    def _shares(self) -> list[float]:
        """The shares that hold now, of the sources that have rows left."""
        phase = next(phase for phase in reversed(self.phases) if phase.tokens <= self.tokens)
        left = [
            share if cap is None or taken < cap else 0.0
            for share, cap, taken in zip(phase.shares, self.caps, self.taken, strict=True)
        ]
        total = sum(left)
        return [share / total for share in left] if total > 0 else []

    def _draw(self) -> Row | None:
        parts = self._shares()
        if not parts:
            return None
        i = next_source(parts, self.credit)
        epoch, place = divmod(self.taken[i], len(self.sources[i]))
        known = self._orders.get(i)
        if known is None or known.epoch != epoch:
            self._orders[i] = known = Shuffled(len(self.sources[i]), self._seeds[i], epoch)
        self.taken[i] += 1
        row = self.sources[i][known.take(place, 1)[0]]
        self.tokens += row.num_tokens
        return row

    def next(self) -> tuple[list[Row], dict[str, Any]]:
        """The next batch and the state after it.

        Raises:
            UserError: every source that has a share now has come as often as it may.
        """
        rows: list[Row] = []
        while len(rows) < self.batch and (row := self._draw()) is not None:
            rows.append(row)
        if not rows:
            raise UserError(
                f"after {sum(self.taken):,} rows every source of the mixture has come as often as its `epochs` allow: "
                "raise them, leave one out, or take fewer steps"
            )
        return rows, {"taken": list(self.taken), "credit": list(self.credit), "tokens": self.tokens}

    def ahead(self, steps: int) -> Iterator[list[Row]]:
        """The batches of the next `steps` steps, none of them taken."""
        twin = Mixture(self.sources, self.phases, batch=self.batch, seed=self.seed, caps=self.caps)
        twin.restore({"taken": self.taken, "credit": self.credit, "tokens": self.tokens})
        for _ in range(steps):
            if not twin._shares():
                return
            yield twin.next()[0]

    def tell(self, ids: Sequence[int], losses: Sequence[float], metrics: Mapping[str, float]) -> None:
        """A mixture does not listen."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue after `state`."""
        self.taken, self.credit = list(state["taken"]), list(state["credit"])
        self.tokens = int(state["tokens"])
