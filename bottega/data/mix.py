"""Mixtures: how often each row of each source comes in one pass, so that the sources' shares are as asked.

Left out: temperature, curricula, mixtures that change while training.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import overload

import numpy as np

from bottega.core.types import Row


class Chain(Sequence[Row]):
    """Several sequences of rows one after the other, none of them copied."""

    def __init__(self, sources: Sequence[Sequence[Row]]) -> None:
        self.sources = sources
        self.ends = list(accumulate(len(source) for source in sources))

    def __len__(self) -> int:
        return self.ends[-1]

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(index)
        number = bisect_right(self.ends, place)
        return self.sources[number][place - (self.ends[number - 1] if number else 0)]


def mix(sizes: Sequence[int], weights: Sequence[float], *, seed: int) -> list[np.ndarray]:
    """For each source the rows of one pass, ascending, int64; rows of a source that must come more often repeat.

    One pass is the smallest in which no row of any source is missing: n_i >= sizes_i for every source, and the shares
    n_i / sum(n) equal the weights up to rounding (largest remainder). What does not divide evenly is drawn by
    (seed, source).

    Args:
        sizes: rows of each source, at least 1. weights: above 0, in any unit.

    >>> [len(rows) for rows in mix([70, 100], [0.7, 0.3], seed=0)]  # 100 / 0.3 = 333.3 -> 334 rows in a pass
    [234, 100]
    """
    assert len(sizes) == len(weights) and min(sizes) > 0 and min(weights) > 0
    shares = [weight / sum(weights) for weight in weights]
    total = max(math.ceil(size / share - 1e-9) for size, share in zip(sizes, shares))
    exact = [share * total for share in shares]
    counts = [math.floor(count) for count in exact]
    by_remainder = sorted(range(len(counts)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    drawn = []
    for source, (size, count) in enumerate(zip(sizes, counts)):
        whole, rest = divmod(max(count, size), size)
        some = np.random.default_rng([seed, source]).permutation(size)[:rest]
        drawn.append(np.sort(np.concatenate([np.tile(np.arange(size), whole), some])).astype(np.int64))
    return drawn
