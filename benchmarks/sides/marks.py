"""The meter as a callback of transformers' Trainer, for the peers built on it.

Left out: anything of one peer alone.
"""

from __future__ import annotations

import measure
from transformers import TrainerCallback


class Marks(TrainerCallback):
    """Starts the meter when training begins and marks each step; keeps the model for the held-out loss."""

    def __init__(self, meter: measure.Meter) -> None:
        self.meter = meter
        self.model = None

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        """The optimizer and the first batch come next."""
        self.model = model
        self.meter.start()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """A step has ended."""
        self.meter.mark(state.global_step)
