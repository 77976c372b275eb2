"""What values the options of objectives, advantages and rewards may have: a recipe's mistakes are found before anything is loaded.

Left out: types (core/config.py), and what an objective checks about its data.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple


class Limit(NamedTuple):
    """low <= value <= high, or low < value where `above`, value < high where `below`; None: no limit."""

    low: float | None = None
    high: float | None = None
    above: bool = False
    below: bool = False


SHARE, POSITIVE, NOT_NEGATIVE = Limit(0, 1), Limit(0, None, above=True), Limit(0)
LIMITS: dict[str, Limit] = {
    "beta": POSITIVE,
    "clip": POSITIVE,
    "clip_high": POSITIVE,
    "value_clip": POSITIVE,
    "value_weight": NOT_NEGATIVE,
    "entropy_weight": NOT_NEGATIVE,
    "kl": NOT_NEGATIVE,
    "gamma": NOT_NEGATIVE,
    "lam": SHARE,
    "temperature": POSITIVE,
    "label_smoothing": Limit(0, 0.5, below=True),
    "sft_weight": NOT_NEGATIVE,
    "nll_weight": NOT_NEGATIVE,
    "desirable": POSITIVE,
    "undesirable": POSITIVE,
    "ratio_weight": NOT_NEGATIVE,
    "margin_weight": NOT_NEGATIVE,
    "centring": NOT_NEGATIVE,
    "focal": NOT_NEGATIVE,
    "delta": POSITIVE,
    "n": Limit(1),
    "soft": Limit(1),
    "max_tokens": Limit(1),
}
"""By the name of the option, which means the same wherever it stands, but for those of OWN."""
OWN: dict[str, Limit] = {
    "distil.beta": SHARE,
    "gkd.beta": SHARE,
    "classification.label_smoothing": Limit(0, 1, below=True),
    "tagging.label_smoothing": Limit(0, 1, below=True),
    "batch.gamma": SHARE,
    "gae.gamma": SHARE,
}


def outside(owner: str, name: str, value: Any) -> str:
    """What is wrong with an option's value, or nothing. owner: the objective, advantage or reward that has the option.

    >>> outside("grpo", "clip", -1.0)
    'grpo has clip: -1.0, which must be above 0'
    >>> outside("gae", "gamma", 7)
    'gae has gamma: 7, which must be at least 0 and at most 1'
    >>> outside("simpo", "gamma", 7)
    ''
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""  # types are looked at before
    if not math.isfinite(value):
        return f"{owner} has {name}: {value}, which is no finite number"
    limit = OWN.get(f"{owner}.{name}") or LIMITS.get(name) or Limit()
    low, high, above, below = limit
    too_low = low is not None and (value <= low if above else value < low)
    too_high = high is not None and (value >= high if below else value > high)
    if not too_low and not too_high:
        return ""
    told = [f"{'above' if above else 'at least'} {low}"] if low is not None else []
    told += [f"{'below' if below else 'at most'} {high}"] if high is not None else []
    return f"{owner} has {name}: {value}, which must be {' and '.join(told)}"
