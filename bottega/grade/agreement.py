"""How far people agree beyond chance: Cohen's kappa, Fleiss' kappa, Krippendorff's alpha, in plain numpy.

Left out: weighted kappa and intervals. A coefficient that is not defined (all said one and the same thing, or no item
has two answers) is None, never 1 or 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np


def cohen(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Two people on the same items: kappa = (p_o - p_e) / (1 - p_e), p_e from each one's own shares (Cohen 1960, eq. 1).

    Example: 4 items, aabb against abbb: p_o = 3/4, p_e = 1/2 * 1/4 + 1/2 * 3/4 = 1/2, kappa = 1/2. Two who always disagree on two
    labels used alike: p_o = 0, p_e = 1/2, kappa = -1.

    >>> cohen("aabb", "abbb")
    0.5
    """
    assert len(first) == len(second)
    n = len(first)
    if not n:
        return None
    observed = sum(a == b for a, b in zip(first, second)) / n
    shares, others = Counter(first), Counter(second)
    expected = sum(shares[label] * others[label] for label in shares) / n**2
    return None if expected == 1 else float((observed - expected) / (1 - expected))


def fleiss(items: Sequence[Sequence[Hashable]]) -> float | None:
    """Any people, the same number n of answers on each item: kappa = (P - P_e) / (1 - P_e) (Fleiss 1971, eqs. 1 to 7).

    P: the mean over items of sum_j n_ij (n_ij - 1) / (n (n - 1)); P_e: sum_j p_j^2 with p_j the share of label j in all answers.

    Example: aaa, abb: P = (1 + 1/3) / 2 = 2/3, p = (4/6, 2/6), P_e = 5/9, kappa = (1/9) / (4/9) = 1/4.

    >>> round(fleiss(["aaa", "abb"]), 6)
    0.25
    """
    if not items:
        return None
    n = len(items[0])
    assert all(len(item) == n for item in items), "Fleiss' kappa needs equally many answers on each item"
    if n < 2:
        return None
    labels = {label: at for at, label in enumerate(dict.fromkeys(label for item in items for label in item))}
    counts_NC = np.zeros((len(items), len(labels)))
    for row, item in enumerate(items):
        for label in item:
            counts_NC[row, labels[label]] += 1
    observed = float(((counts_NC * (counts_NC - 1)).sum(1) / (n * (n - 1))).mean())
    expected = float(((counts_NC.sum(0) / counts_NC.sum()) ** 2).sum())
    return None if len(labels) == 1 else (observed - expected) / (1 - expected)


def _nominal(values: list[Any], totals_C: np.ndarray) -> np.ndarray:
    return 1.0 - np.eye(len(values))


def _ordinal(values: list[Any], totals_C: np.ndarray) -> np.ndarray:
    """(sum of n_g for g from c to k - (n_c + n_k) / 2)^2: how many answers lie between two ranks."""
    ends = np.cumsum(totals_C) - totals_C / 2
    return (ends[:, None] - ends[None, :]) ** 2


def _interval(values: list[Any], totals_C: np.ndarray) -> np.ndarray:
    numbers = np.array(values, dtype=np.float64)
    return (numbers[:, None] - numbers[None, :]) ** 2


LEVELS: dict[str, Callable[[list[Any], np.ndarray], np.ndarray]] = {
    "nominal": _nominal,
    "ordinal": _ordinal,
    "interval": _interval,
}


def krippendorff(items: Sequence[Sequence[Any]], *, level: str = "nominal") -> float | None:
    """Any people, any number of answers an item: alpha = 1 - D_o / D_e (Krippendorff 2011, Computing Krippendorff's Alpha-Reliability).

    An item with m >= 2 answers adds 1 / (m - 1) for each ordered pair of them to the coincidences o_ck; with n = sum o_ck and
    n_c = sum_k o_ck, alpha = 1 - (n - 1) sum o_ck d_ck^2 / sum n_c n_k d_ck^2.

    Args:
        items: the answers to each item; items with fewer than two say nothing and are left out.
        level: `nominal` (labels), `ordinal` (ranks) or `interval` (numbers): what d_ck^2 is.

    Example: aa, bb, ab, nominal: o_aa = 2, o_bb = 2, o_ab = o_ba = 1, n = 6, n_a = n_b = 3; alpha = 1 - 5 * 2 / 18 = 4/9.

    >>> round(krippendorff(["aa", "bb", "ab"]), 4)
    0.4444
    """
    useful = [item for item in items if len(item) >= 2]
    values = list(dict.fromkeys(value for item in useful for value in item))
    if len(values) < 2:
        return None
    if level != "nominal":
        values.sort()
    places = {value: at for at, value in enumerate(values)}
    pairs_CC = np.zeros((len(values), len(values)))
    for item in useful:
        counts_C = np.bincount([places[value] for value in item], minlength=len(values)).astype(np.float64)
        pairs_CC += (np.outer(counts_C, counts_C) - np.diag(counts_C)) / (len(item) - 1)
    totals_C = pairs_CC.sum(1)
    distance_CC = LEVELS[level](values, totals_C)
    expected = float((np.outer(totals_C, totals_C) * distance_CC).sum())
    return 1.0 - (float(totals_C.sum()) - 1) * float((pairs_CC * distance_CC).sum()) / expected
