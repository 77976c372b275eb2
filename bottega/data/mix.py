"""Mixtures: the shares of sources, and which of them the next row comes from.

Left out: reading them (train/mixture.py).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import overload

from bottega.core.types import Row
from bottega.data.lazy import picked


class Chain(Sequence[Row]):
    """Several sequences of rows one after the other, none of them copied."""

    def __init__(self, sources: Sequence[Sequence[Row]]) -> None:
        self.sources = sources
        self.ends = list(accumulate(len(source) for source in sources))

    def numbered(self, first: int) -> Chain:
        """The same rows, their indices counted from `first`; the sources must be able to."""
        starts = [first, *(first + end for end in self.ends[:-1])]
        return Chain([rows.numbered(start) for rows, start in zip(self.sources, starts)])  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return self.ends[-1]

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        return picked(index, len(self), self._row)

    def _row(self, place: int) -> Row:
        number = bisect_right(self.ends, place)
        return self.sources[number][place - (self.ends[number - 1] if number else 0)]


def shares(
    sizes: Sequence[int],
    *,
    weights: Sequence[float] | None = None,
    epochs: Sequence[float | None] = (),
    temperature: float = 1.0,
) -> list[float]:
    """The share of each source, adding up to 1: p_i = b_i^(1/T) / sum_j b_j^(1/T).

    b_i is the source's weight, or without weights its rows times its epochs. T above 1 brings small sources nearer to large ones,
    below 1 the other way (Raffel et al. 2020, arXiv 1910.10683, section 3.5.2; their limit K is `epochs` here).

    Args:
        sizes: rows of each source. weights: at least 0, in any unit, not all 0. epochs: times through each source (None: 1).
        temperature: above 0; 1 leaves the shares as they are.

    >>> [round(p, 3) for p in shares([100, 400], temperature=2.0)]  # sqrt(100) : sqrt(400) = 10 : 20
    [0.333, 0.667]
    """
    times = [1.0 if epoch is None else epoch for epoch in epochs] or [1.0] * len(sizes)
    bases = list(weights) if weights is not None else [size * each for size, each in zip(sizes, times, strict=True)]
    assert min(bases) >= 0 and max(bases) > 0 and temperature > 0
    scaled = [(base / max(bases)) ** (1 / temperature) for base in bases]
    return [base / sum(scaled) for base in scaled]


def rows_in_pass(sizes: Sequence[int], parts: Sequence[float]) -> int:
    """Rows of the shortest pass in which no row of a source that has a share is missing.

    >>> rows_in_pass([70, 100], [0.7, 0.3])  # 100 / 0.3 = 333.3
    334
    """
    return max(math.ceil(size / part - 1e-9) for size, part in zip(sizes, parts, strict=True) if part > 0)


def next_source(parts: Sequence[float], credit: list[float]) -> int:
    """Which source the next row comes from: each earns its share, the richest pays 1 (smooth weighted round robin).

    After n rows every source has had within one row of n times its share; `credit` (changed) is all the state there is.

    >>> credit = [0.0, 0.0]
    >>> [next_source([0.75, 0.25], credit) for _ in range(8)]
    [0, 0, 1, 0, 0, 0, 1, 0]
    """
    for i, part in enumerate(parts):
        credit[i] += part
    chosen = max((i for i, part in enumerate(parts) if part > 0), key=lambda i: (credit[i], -i))
    credit[chosen] -= 1.0
    return chosen
