"""Learning-rate schedules as pure functions of the step, each 1 at its peak.

Left out: anything with state; a resumed run needs the step and nothing else.
"""

import math
from collections.abc import Callable

from bottega.core.errors import UserError


def _share(step: int, steps: int, warmup: int) -> float:
    """The share of the steps after warm-up that is done, in [0, 1)."""
    return (step - warmup) / max(1, steps - warmup)


def _constant(step: int, steps: int, warmup: int, decay: float) -> float:
    return 1.0


def _linear(step: int, steps: int, warmup: int, decay: float) -> float:
    return 1.0 - _share(step, steps, warmup)


def _cosine(step: int, steps: int, warmup: int, decay: float) -> float:
    """Half a cosine wave (Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * _share(step, steps, warmup)))


def _wsd(step: int, steps: int, warmup: int, decay: float) -> float:
    """Warm-up-stable-decay: flat, then linear over the last share `decay` (Hu et al. 2024, arXiv 2404.06395, section 4)."""
    x = _share(step, steps, warmup)
    return 1.0 if x <= 1.0 - decay else (1.0 - x) / decay


def _inverse_root(step: int, steps: int, warmup: int, decay: float) -> float:
    """sqrt(warmup / step), steps counted from 1: independent of how long the run is (Vaswani et al. 2017, arXiv
    1706.03762, equation 3)."""
    return math.sqrt(max(1, warmup) / (step + 1))


SCHEDULES: dict[str, Callable[[int, int, int, float], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "wsd": _wsd,
    "inverse_root": _inverse_root,
}


def scale_at(step: int, *, steps: int, schedule: str, warmup: int, decay: float, floor: float) -> float:
    """The factor on the learning rate at `step` (0-based), in [floor, 1].

    Linear warm-up over `warmup` steps (the first step already moves: (step + 1) / warmup), then the schedule over what is
    left, never below `floor`.

    >>> [round(scale_at(s, steps=10, schedule="wsd", warmup=2, decay=0.5, floor=0.0), 2) for s in (0, 1, 5, 6, 9)]
    [0.5, 1.0, 1.0, 1.0, 0.25]
    """
    if schedule not in SCHEDULES:
        raise UserError(f"schedule {schedule!r} is not known: use one of {', '.join(SCHEDULES)}")
    if step < warmup:
        return (step + 1) / warmup
    return max(floor, SCHEDULES[schedule](step, steps, warmup, decay))
