"""Texts end to end, cut into blocks of one length: the classic form of pretraining data, with nothing to pad and nothing to skip.

Left out: isolation. A token sees what came before it in its block, the end of another text included; rows that must not see
each other are left as they are and packed (data/pack.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np

from bottega.core.types import Row, Tokens
from bottega.data.lazy import picked
from bottega.data.shards import ShardRows


class Blocks(Sequence[Row]):
    """Blocks cut out of a stream of ids when they are asked for; `stream(start, stop)` gives its ids."""

    def __init__(
        self, stream: Callable[[int, int], np.ndarray], num_tokens: int, *, length: int, first: int = 0
    ) -> None:
        assert length > 1
        self.stream, self.num_tokens, self.length, self.first = stream, num_tokens, length, first
        whole, rest = divmod(num_tokens, length)
        self.num_blocks = whole + (rest > 1)

    def numbered(self, first: int) -> Blocks:
        """The same blocks, their indices counted from `first`."""
        return Blocks(self.stream, self.num_tokens, length=self.length, first=first)

    def __len__(self) -> int:
        return self.num_blocks

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        return picked(index, self.num_blocks, self._row)

    def _row(self, place: int) -> Row:
        ids = self.stream(place * self.length, min((place + 1) * self.length, self.num_tokens))
        return Row(index=self.first + place, branches=(Tokens(ids, np.ones(len(ids), dtype=np.float32)),))


def blocks(rows: Sequence[Row], *, length: int) -> Blocks:
    """Rows of exactly `length` tokens from the texts of `rows`, in their order; the last one holds what is left, if it is 2 or more.

    Every token but a block's first is a target with weight 1, so that one token in `length` is not learned. Rows on disk stay there.

    >>> [b.branches[0].ids.tolist() for b in blocks([Row(index=0, branches=(Tokens([1, 2, 3], [0, 1, 1]),))] * 2, length=4)]
    [[1, 2, 3, 1], [2, 3]]
    """
    if isinstance(rows, ShardRows):
        return Blocks(rows.stream, rows.num_tokens, length=length)
    flat = np.concatenate([np.asarray(branch.ids, dtype=np.int32) for row in rows for branch in row.branches])
    return Blocks(lambda start, stop: flat[start:stop], len(flat), length=length)
