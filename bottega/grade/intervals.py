"""How sure a score is: intervals for shares, means and ratios, and for the difference of two runs on the same items.

Left out: hypothesis tests beyond McNemar's; Bayesian intervals. Everything random is seeded, so that a report repeats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A number with its interval and the count it rests on."""

    value: float
    low: float
    high: float
    n: int
    level: float = 0.95
    method: str = "wilson"


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """After minus before on the same items.

    low, high: paired bootstrap. improved, regressed, same: counts of items. p_value: McNemar's exact test where items
    are 0 or 1, else the bootstrap's two-sided share. effect: mean difference / its standard deviation over items (0
    where all are equal).
    """

    value: float
    low: float
    high: float
    n: int
    improved: int
    regressed: int
    same: int
    p_value: float
    effect: float
    level: float = 0.95


def wilson(successes: float, n: int, *, level: float = 0.95) -> Interval:
    """Score interval of a share (Wilson 1927): centre (p + z^2/2n) / (1 + z^2/n), half-width z sqrt(p(1-p)/n +
    z^2/4n^2) / (1 + z^2/n).

    Example: 8 of 10 at 95 percent (z = 1.96): 0.490 to 0.943. With n = 0 nothing is known: 0 to 1.
    """
    if n == 0:
        return Interval(value=math.nan, low=0.0, high=1.0, n=0, level=level)
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(value=share, low=low, high=high, n=n, level=level)


def resampled_means(values: Sequence[float] | np.ndarray, *, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Means of `resamples` draws with replacement, (resamples,): the bootstrap (Efron 1979)."""
    array = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    rows = max(1, min(resamples, 4_000_000 // max(1, len(array))))
    parts = []
    for start in range(0, resamples, rows):
        picks = rng.integers(0, len(array), size=(min(rows, resamples - start), len(array)))
        parts.append(array[picks].mean(1))
    return np.concatenate(parts)


def _bounds(draws: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap(values: Sequence[float], *, seed: int, level: float = 0.95) -> Interval:
    """Percentile bootstrap interval of a mean. One value says nothing about its spread: minus to plus infinity."""
    if len(values) == 0:
        return Interval(value=math.nan, low=-math.inf, high=math.inf, n=0, level=level, method="bootstrap")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(value=mean, low=-math.inf, high=math.inf, n=1, level=level, method="bootstrap")
    low, high = _bounds(resampled_means(values, seed=seed), level)
    return Interval(value=mean, low=low, high=high, n=len(values), level=level, method="bootstrap")


def mean(values: Sequence[float], *, seed: int, level: float = 0.95) -> Interval:
    """Interval of a mean: Wilson's where every value is 0 or 1 (a share), the bootstrap elsewhere."""
    if all(value in (0, 1) for value in values):
        return wilson(float(sum(values)), len(values), level=level)
    return bootstrap(values, seed=seed, level=level)


def ratio(tops: Sequence[float], bottoms: Sequence[float], *, seed: int, level: float = 0.95) -> Interval:
    """Interval of sum(tops) / sum(bottoms), items resampled together: loss per token, bits per byte."""
    top, bottom = np.asarray(tops, dtype=np.float64), np.asarray(bottoms, dtype=np.float64)
    if len(top) == 0 or bottom.sum() == 0:
        return Interval(value=math.nan, low=-math.inf, high=math.inf, n=len(top), level=level, method="bootstrap")
    value = float(top.sum() / bottom.sum())
    if len(top) == 1:
        return Interval(value=value, low=-math.inf, high=math.inf, n=1, level=level, method="bootstrap")
    draws = resampled_means(top, seed=seed) / resampled_means(bottom, seed=seed)  # one seed, so the same picks
    low, high = _bounds(draws, level)
    return Interval(value=value, low=low, high=high, n=len(top), level=level, method="bootstrap")


def crossed(values_SN: np.ndarray, weights_N: np.ndarray | None = None, *, seed: int, level: float = 0.95) -> Interval:
    """Interval of the mean over S runs (seeds) and N items, both drawn again: how far another run on other items may come out.

    The bootstrap of two crossed factors (Owen 2007, the pigeonhole bootstrap): rows and columns are drawn with replacement, each apart.
    It errs to the wide side in the items; with one run it is the bootstrap over items.

    Args:
        values_SN: a number for each run and item. weights_N: of the items (tokens, where values are losses per token); None: equal.
    """
    runs, count = values_SN.shape
    weights = np.ones(count) if weights_N is None else np.asarray(weights_N, dtype=np.float64)
    mean_N, rng = values_SN.mean(0), np.random.default_rng(seed)
    value = float((mean_N * weights).sum() / weights.sum()) if count else math.nan
    if count < 2:
        return Interval(value=value, low=-math.inf, high=math.inf, n=count, level=level, method="bootstrap")
    draws = []
    for _ in range(RESAMPLES):
        chosen_N = rng.integers(0, count, count)
        picked_S = rng.integers(0, runs, runs)
        w_N = weights[chosen_N]
        draws.append((values_SN[picked_S][:, chosen_N] @ w_N).mean() / w_N.sum())
    low, high = _bounds(np.asarray(draws), level)
    return Interval(value=value, low=low, high=high, n=count, level=level, method="bootstrap")


def student(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """Student's interval of a mean of few runs: mean +- t s / sqrt(n) with n - 1 degrees of freedom. One run: unbounded.

    Example: 1, 2, 3 at 95 percent: t = 4.303, s = 1, so 2 +- 2.484.
    """
    n = len(values)
    if n < 2:
        value = float(values[0]) if n else math.nan
        return Interval(value=value, low=-math.inf, high=math.inf, n=n, level=level, method="student")
    middle, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    half = t_quantile((1 + level) / 2, n - 1) * spread / math.sqrt(n)
    return Interval(value=middle, low=middle - half, high=middle + half, n=n, level=level, method="student")


def t_quantile(share: float, freedom: int) -> float:
    """The quantile of Student's t: by bisection of its distribution function.

    P(|T| < t) is a finite sum in theta = atan(t / sqrt(v)) (Abramowitz and Stegun, 26.7.3, 26.7.4).
    """
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if 0.5 + _t_within(middle, freedom) / 2 < share else (low, middle)
    return (low + high) / 2


def _t_within(t: float, freedom: int) -> float:
    theta = math.atan(t / math.sqrt(freedom))
    cos, total, term = math.cos(theta), 0.0, 1.0
    if freedom % 2:
        term = cos
        for k in range(1, (freedom - 1) // 2 + 1):
            total += term
            term *= cos * cos * 2 * k / (2 * k + 1)
        return 2 / math.pi * (theta + math.sin(theta) * total)
    for k in range(1, freedom // 2 + 1):
        total += term
        term *= cos * cos * (2 * k - 1) / (2 * k)
    return math.sin(theta) * total


def mcnemar(improved: int, regressed: int) -> float:
    """Two-sided exact p-value that b improved and c regressed items come from a fair coin (McNemar 1947).

    p = min(1, 2 * P[Binomial(b + c, 1/2) <= min(b, c)]). Example: 1 and 5: 2 * (1 + 6) / 64 = 0.21875.
    """
    n, least = improved + regressed, min(improved, regressed)
    if n == 0:
        return 1.0
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(least + 1)
    ]
    return min(1.0, 2 * math.fsum(math.exp(value) for value in logs))


def paired(before: Sequence[float], after: Sequence[float], *, seed: int, level: float = 0.95) -> Difference:
    """Mean of after - before over the same items, with a paired bootstrap interval.

    Args:
        before, after: one number an item, in the same order; higher is better.
    """
    assert len(before) == len(after), "paired items come in pairs"
    n = len(before)
    delta = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    improved, regressed = int((delta > 0).sum()), int((delta < 0).sum())
    counts = {"n": n, "improved": improved, "regressed": regressed, "same": n - improved - regressed}
    if n < 2:
        value = float(delta.mean()) if n else math.nan
        return Difference(value=value, low=-math.inf, high=math.inf, p_value=1.0, effect=0.0, level=level, **counts)
    draws = resampled_means(delta, seed=seed)
    low, high = _bounds(draws, level)
    spread = float(delta.std(ddof=1))
    if set(map(float, before)) | set(map(float, after)) <= {0.0, 1.0}:
        p_value = mcnemar(improved, regressed)
    else:
        # (k + 1) / (m + 1): a resampled p-value is never 0
        tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
        p_value = min(1.0, 2 * (tail + 1) / (len(draws) + 1))
    effect = float(delta.mean()) / spread if spread > 0 else 0.0
    return Difference(
        value=float(delta.mean()), low=low, high=high, p_value=p_value, effect=effect, level=level, **counts
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979): the i-th smallest of m times (m - i + 1), never falling, at
    most 1.

    Example: 0.01, 0.04, 0.03 -> 0.03, 0.06, 0.06.
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, p_values[at] * (len(p_values) - rank)))
        corrected[at] = highest
    return corrected
