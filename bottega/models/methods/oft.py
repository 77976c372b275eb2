"""OFT: the inputs of linear layers are rotated in small blocks, so that angles between neurons stay as they were.

Left out: butterfly factors (BOFT), and transposed layers (GPT-2), which PEFT does not rotate. PEFT's layers, saved as plain PEFT
adapters. (Qiu et al. 2023, arXiv 2306.07280,
section 3; rotating inputs instead of weights: Qiu et al. 2025, arXiv 2506.19847.)
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
class Oft:
    """y = W R x + b; R is block-diagonal, each block (I + Q)(I - Q)^-1 of a skew-symmetric Q that starts at 0.

    Args:
        block: width of a block, 2 to 1024; it must divide the inputs of every target. A block has block * (block - 1) /
            2 numbers.
        exact: blocks are rotations to rounding, by a linear solve; else by five terms of a series, cheaper and only
            nearly orthogonal.
        targets: `all-linear` (every linear layer but the head), names, or a regular expression.
    """

    name: ClassVar[str] = "oft"

    block: int = 32
    exact: bool = True
    targets: str | Sequence[str] = "all-linear"

    def __post_init__(self) -> None:
        if not 2 <= self.block <= 1024:
            raise UserError(f"oft block {self.block} is outside 2 to 1024; 32 is usual")

    def load_options(self) -> dict[str, Any]:
        """Nothing special."""
        return {}

    def attach(self, model: nn.Module) -> Attached:
        """Put the rotations into `model`.

        Raises:
            UserError: a target matches nothing, is no nn.Linear, or has inputs that the block does not divide.
        """
        from peft import OFTConfig

        from bottega.models import layers
        from bottega.models.methods import peftlayers

        chosen = match_targets(model, self.targets, self.name)
        for name in chosen:
            if peftlayers.transposed(model, [name]):
                kind = type(model.get_submodule(name)).__name__
                raise UserError(f"PEFT rotates nn.Linear alone, and {name} is a {kind}; use vera or lora")
        widths = {name: layers.linear_shape(model.get_submodule(name))[0] for name in chosen}
        for name, width in widths.items():
            if width % self.block:
                fitting = [size for size in range(2, self.block) if all(w % size == 0 for w in widths.values())]
                remedy = f"{fitting[-1]} divides all targets" if fitting else "choose other targets"
                raise UserError(f"oft block {self.block} does not divide the {width} inputs of {name}; {remedy}")
        config = OFTConfig(
            r=0,
            oft_block_size=self.block,
            use_cayley_neumann=not self.exact,
            target_modules=peftlayers.shortest(model, chosen),
            task_type="CAUSAL_LM",
        )
        expected = sum(width // self.block * (self.block * (self.block - 1) // 2) for width in widths.values())
        return peftlayers.attach(model, config, chosen, self.name, expected=expected)
