"""Measuring in the middle of a training, so that the training does not notice; and when to stop because of it.

Left out: what is measured (a function that the builder gave).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from bottega.core import devices
from bottega.core.errors import UserError
from bottega.models.heads import trunk
from bottega.train.parts import Parts
from bottega.train.resume import State
from bottega.train.settings import LoopSettings
from bottega.train.step import Stopped


def evaluate(parts: Parts, step: int) -> dict[str, float]:
    """What `parts.validate` finds; the model's mode and weights and the random state are put back.

    Raises:
        Stopped: somebody asked to stop; it is heard each time the model is called, where there is one process.
    """
    if parts.validate is None:
        return {}
    before = devices.random_state()
    parts.wrapped.eval()
    try:
        with torch.no_grad(), parts.optimizer.averaged(), _listening(parts):
            return dict(parts.validate(step))
    finally:
        parts.wrapped.train()
        devices.set_random_state(before)


@contextmanager
def _listening(parts: Parts) -> Iterator[None]:
    """Inside, a request to stop ends the evaluation at the model's next call. (Compiled code would be made anew for a hook.)"""
    if parts.world.size > 1 or parts.scorer.compiled is not None:
        yield
        return

    def hear(module: Any, given: Any) -> None:
        if parts.stopping():
            raise Stopped

    handle = trunk(parts.attached.model).register_forward_pre_hook(hear)
    try:
        yield
    finally:
        handle.remove()


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
