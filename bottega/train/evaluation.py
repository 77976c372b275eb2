"""Measuring in the middle of a training, so that the training does not notice; and when to stop because of it.

Left out: what is measured (a function that the builder gave).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from bottega.core import devices
from bottega.core.errors import UserError
from bottega.train.parts import Parts
from bottega.train.resume import State
from bottega.train.settings import LoopSettings


def evaluate(parts: Parts, step: int) -> dict[str, float]:
    """What `parts.validate` finds; the model's mode and weights and the random state are put back."""
    if parts.validate is None:
        return {}
    before = devices.random_state()
    parts.wrapped.eval()
    try:
        with torch.no_grad(), parts.optimizer.averaged():
            return dict(parts.validate(step))
    finally:
        parts.wrapped.train()
        devices.set_random_state(before)


def is_best(settings: LoopSettings, state: State, found: Mapping[str, float]) -> bool:
    """Whether the watched metric is better than ever; `state` remembers the best, or counts, and ends the run at `patience`.

    Raises:
        UserError: nobody measures the watched metric.
    """
    name, outcome = settings.early_stop, state.outcome
    if name not in found:
        raise UserError(f"early_stop watches {name!r}, but the evaluation gives {', '.join(found) or 'nothing'}")
    value, best = found[name], outcome.best
    if best is None or (value < best if settings.early_stop_mode == "min" else value > best):
        outcome.best, outcome.best_step, state.bad_evaluations = value, state.step, 0
        return True
    state.bad_evaluations += 1
    if state.bad_evaluations >= settings.patience:
        where = f"best {best:.4g} at step {outcome.best_step}"
        outcome.reason = f"no better {name} in {state.bad_evaluations} evaluations ({where})"
    return False
