"""Full tuning: every parameter learns.

Left out: training a part of the parameters (freeze, bitfit and lisa are methods of their own).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bottega.core.types import Attached

if TYPE_CHECKING:
    from torch import nn


class Full:
    """Train the whole model; its reference is a copy, since nothing can be switched off."""

    name = "full"

    def load_options(self) -> dict[str, Any]:
        """Nothing special."""
        return {}

    def attach(self, model: nn.Module) -> Attached:
        """Make every parameter of `model` learn."""
        from bottega.models.methods.groups import attach_subset

        return attach_subset(model, self.name, lambda name, parameter: True)
