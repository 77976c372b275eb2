"""A context that grows while a model is trained: blocks are cut shorter at first, so that early steps attend to less.

Left out: reading (data/blocks.py). The tokens of a step and their order stay the same: a block of T tokens is served as T/L rows
of L, as "Shortformer" did in stages (Press et al. 2021, arXiv 2012.15832, section 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from bottega.core.types import Row, Tokens


class Length(NamedTuple):
    """Rows have at most `tokens` tokens in the first `steps` steps."""

    tokens: int
    steps: int


class _Source(Protocol):
    listens: bool

    @property
    def steps_per_epoch(self) -> int: ...
    def next(self) -> tuple[list[Row], dict[str, Any]]: ...
    def ahead(self, steps: int) -> Iterator[list[Row]]: ...
    def tell(self, ids: Sequence[int], losses: Sequence[float], metrics: Mapping[str, float]) -> None: ...
    def restore(self, state: Mapping[str, Any]) -> None: ...


class Growing:
    """The rows of another source, cut while the context is short.

    State: the other source's, and "taken": the steps that were taken. Pieces keep the index of their row.
    """

    listens = False

    def __init__(self, inner: _Source, lengths: Sequence[Length]) -> None:
        assert not inner.listens and [length.steps for length in lengths] == sorted(length.steps for length in lengths)
        self.inner, self.lengths, self.taken = inner, tuple(lengths), 0

    @property
    def steps_per_epoch(self) -> int:
        return self.inner.steps_per_epoch

    def _cut(self, rows: list[Row], step: int) -> list[Row]:
        tokens = next((length.tokens for length in self.lengths if step < length.steps), None)
        return rows if tokens is None else [piece for row in rows for piece in cut(row, tokens)]

    def next(self) -> tuple[list[Row], dict[str, Any]]:
        """The next batch and the state after it."""
        rows, state = self.inner.next()
        self.taken += 1
        return self._cut(rows, self.taken - 1), {**state, "taken": self.taken}

    def ahead(self, steps: int) -> Iterator[list[Row]]:
        """The batches of the next steps at full length, for that is what memory must hold in the end."""
        return self.inner.ahead(steps)

    def tell(self, ids: Sequence[int], losses: Sequence[float], metrics: Mapping[str, float]) -> None:
        """It does not listen."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue after `state`."""
        self.taken = int(state["taken"])
        self.inner.restore(state)


def cut(row: Row, tokens: int) -> list[Row]:
    """Pieces of a row of one branch, each of `tokens` tokens but the last; a last piece of one token teaches nothing and is
    left out.

    >>> [p.branches[0].ids for p in cut(Row(index=7, branches=(Tokens([1, 2, 3, 4, 5], [0, 1, 1, 1, 1]),)), 2)]
    [[1, 2], [3, 4]]
    """
    (branch,) = row.branches
    size = len(branch.ids)
    if size <= tokens:
        return [row]
    starts = [at for at in range(0, size, tokens) if size - at > 1]
    return [
        Row(index=row.index, branches=(Tokens(branch.ids[at : at + tokens], branch.trains[at : at + tokens]),))
        for at in starts
    ]
