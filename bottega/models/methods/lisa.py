"""LISA: embeddings and head always learn, and of the layers only a few at a time, drawn anew every so many steps.

Left out: importance other than uniform. (Pan et al. 2024, arXiv 2403.17919, algorithm 1.) Memory is that of the layers
that learn now: the loop drops the optimizer state of the others when `after_step` says that the set changed.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from bottega.core.errors import UserError
from bottega.core.types import Attached
from bottega.models.methods.groups import make_groups

if TYPE_CHECKING:
    from torch import nn


class Lisa:
    """Train `active` random layers for `every` steps, then others.

    Args:
        active: layers that learn at a time, 1 to all. every: optimizer steps between swaps.
        seed: the draw of interval i depends on (seed, i) alone, so that a resumed run draws the same.
    """

    name = "lisa"

    def __init__(self, *, active: int = 2, every: int = 20, seed: int = 0) -> None:
        if active < 1 or every < 1:
            raise UserError(f"lisa needs active >= 1 and every >= 1, not active {active} and every {every}")
        self.active, self.every, self.seed = active, every, seed

    def load_options(self) -> dict[str, Any]:
        """Nothing special."""
        return {}

    def attach(self, model: nn.Module) -> Attached:
        """Freeze all layers but the first draw.

        Raises:
            UserError: the model has fewer layers, or no single stack of them.
        """
        from bottega.models import layers
        from bottega.models.plain import copy_plain, save_plain

        stack = layers.decoder_layers(model)
        if self.active > len(stack):
            raise UserError(f"lisa active {self.active} is more than the model's {len(stack)} layers; use method full")
        attached = Attached(
            name=self.name,
            model=model,
            groups=[],
            save=lambda folder: save_plain(model, folder),
            merge=lambda: copy_plain(model),
            reference_kind="copy",
        )

        def activate(interval: int) -> bool:
            """Let the layers of `interval` learn; True if they are others than before."""
            drawn = draw(len(stack), self.active, self.seed, interval)
            if attached.facts.get("layers") == drawn:
                return False
            model.requires_grad_(True)
            for number, layer in enumerate(stack):
                if number not in drawn:
                    layer.requires_grad_(False)
                    for parameter in layer.parameters():
                        parameter.grad = None
            attached.groups[:] = make_groups(model.named_parameters())
            num, total = layers.count_parameters(model)
            attached.facts.update(layers=drawn, trainable=num, total=total, share=num / total)
            return True

        activate(0)
        attached.before_step = lambda step: activate((step - 1) // self.every)
        attached.after_step = lambda step: activate(step // self.every)
        return attached


def draw(num_layers: int, active: int, seed: int, interval: int) -> list[int]:
    """Which layers learn in an interval: `active` of `num_layers`, sorted, a function of (seed, interval)."""
    return sorted(random.Random(f"lisa {seed} {interval}").sample(range(num_layers), active))
