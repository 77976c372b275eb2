"""BitFit: the biases learn and nothing else (Ben Zaken et al. 2022, arXiv 2106.10199).

Left out: biases that an architecture does not have; the scales of its norms stand in for them on request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bottega.core.errors import UserError
from bottega.core.types import Attached

if TYPE_CHECKING:
    from torch import nn


class BitFit:
    """Train every bias vector of the model: y = W x + b, W stays.

    Args:
        norms: the scales of norms (all other vectors) learn too; for models without biases.
    """

    name = "bitfit"

    def __init__(self, *, norms: bool = False) -> None:
        self.norms = norms

    def load_options(self) -> dict[str, Any]:
        """Nothing special."""
        return {}

    def attach(self, model: nn.Module) -> Attached:
        """Make the biases learn.

        Raises:
            UserError: the model has none.
        """
        from bottega.models.methods.groups import attach_subset

        def learns(name: str, parameter: nn.Parameter) -> bool:
            return name.rsplit(".", 1)[-1] == "bias" or (self.norms and parameter.ndim == 1)

        if not any(learns(name, p) for name, p in model.named_parameters()):
            remedy = "use lora" if self.norms else "write norms: true to train the scales of its norms, or use lora"
            raise UserError(f"bitfit trains biases, and {type(model).__name__} has none; {remedy}")
        return attach_subset(model, self.name, learns)
