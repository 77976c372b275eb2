"""VeRA: one pair of random matrices for all layers, drawn once and frozen; two vectors a layer learn.

Left out: learning the matrices (that is LoRA). PEFT's layers, saved as plain PEFT adapters with the matrices. (Kopiczko
et al. 2023, arXiv 2310.11454, equation 2.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bottega.core.errors import UserError
from bottega.core.types import Attached
from bottega.models.methods.lora import match_targets

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Vera:
    """y = W x + b + l_b * (B (l_d * (A x))); l_b starts at 0, A and B are shared and frozen.

    Args:
        rank: rows of A, 1 to 4096; a layer trains rank + outputs numbers, so that it costs little.
        start: value of l_d at the start. dropout: on the adapter's input. seed: of A and B.
        targets: `all-linear` (every linear layer but the head), names, or a regular expression.
    """

    name: ClassVar[str] = "vera"

    rank: int = 256
    start: float = 0.1
    dropout: float = 0.0
    seed: int = 0
    targets: str | Sequence[str] = "all-linear"

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= 4096:
            raise UserError(f"vera rank {self.rank} is outside 1 to 4096; 256 is usual")
        if self.start == 0:
            raise UserError("vera start 0 trains nothing, for both factors would be 0; 0.1 is usual")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"vera dropout {self.dropout} is outside 0 to 1; 0 is usual")

    def load_options(self) -> dict[str, Any]:
        """Nothing special."""
        return {}

    def attach(self, model: nn.Module) -> Attached:
        """Put the vectors and the shared matrices into `model`.

        Raises:
            UserError: a target matches nothing (the names that exist are listed).
        """
        from peft import VeraConfig

        from bottega.models import layers
        from bottega.models.methods import peftlayers

        chosen = match_targets(model, self.targets, self.name)
        config = VeraConfig(
            r=self.rank,
            projection_prng_key=self.seed,
            save_projection=True,
            d_initial=self.start,
            vera_dropout=self.dropout,
            target_modules=peftlayers.shortest(model, chosen),
            fan_in_fan_out=peftlayers.transposed(model, chosen),
            task_type="CAUSAL_LM",
        )
        shapes = [layers.linear_shape(model.get_submodule(name)) for name in chosen]
        expected = sum(self.rank + outputs for _, outputs in shapes)
        return peftlayers.attach(model, config, chosen, self.name, expected=expected)
