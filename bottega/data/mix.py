"""Mixtures: how often each row of each source comes in one pass, so that the sources' shares are as asked.

Left out: temperature, curricula, mixtures that change while training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


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
