"""IA3: a factor for every output of a linear layer learns, and for every input of a feed-forward block's last one.

Left out: the model's own weights, which stay. PEFT's layers, saved as plain PEFT adapters. (Liu et al. 2022, arXiv
2205.05638, section 3.3.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bottega.core.types import Attached
from bottega.models.methods.lora import match_targets

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Ia3:
    """y = l * (W x + b), and y = W (l * x) + b where a feed-forward block ends; l starts at 1.

    Args:
        targets: `all-linear` (every linear layer but the head), names (`k_proj`; the paper takes keys, values and the
            feed-forward block), or a regular expression that a layer's full name must match.
    """

    name: ClassVar[str] = "ia3"

    targets: str | Sequence[str] = "all-linear"

    def load_options(self) -> dict[str, Any]:
        """Nothing special."""
        return {}

    def attach(self, model: nn.Module) -> Attached:
        """Put the factors into `model`.

        Raises:
            UserError: a target matches nothing (the names that exist are listed).
        """
        from peft import IA3Config

        from bottega.models import layers, sites
        from bottega.models.methods import peftlayers

        chosen = match_targets(model, self.targets, self.name)
        ends = {site.leave for site in sites.find_sites(model)}
        scaled_inputs = [name for name in chosen if name in ends]
        config = IA3Config(
            target_modules=sorted(chosen),
            feedforward_modules=sorted(scaled_inputs),
            fan_in_fan_out=peftlayers.transposed(model, chosen),
            task_type="CAUSAL_LM",
        )
        shapes = {name: layers.linear_shape(model.get_submodule(name)) for name in chosen}
        expected = sum(inputs if name in ends else outputs for name, (inputs, outputs) in shapes.items())
        return peftlayers.attach(model, config, chosen, self.name, expected=expected, decays=False)
