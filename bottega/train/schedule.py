"""Learning-rate schedules as pure functions of the step, each 1 at its peak.

Left out: anything with state; a resumed run needs the step and nothing else.
"""

import math
from collections.abc import Callable

from bottega.core.errors import UserError


def _constant(x: float, decay: float) -> float:
    return 1.0


def _linear(x: float, decay: float) -> float:
    return 1.0 - x


def _cosine(x: float, decay: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * x))


def _wsd(x: float, decay: float) -> float:
    """Warm-up-stable-decay: flat, then linear over the last share `decay` (Hu et al. 2024, arXiv 2404.06395, section 4)."""
    return 1.0 if x <= 1.0 - decay else (1.0 - x) / decay


SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "wsd": _wsd,
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
    x = (step - warmup) / max(1, steps - warmup)
    return max(floor, SCHEDULES[schedule](x, decay))
