"""Full tuning: every parameter learns.

Left out: freezing by name (freeze and bitfit are methods of their own, to come).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bottega.core.types import Attached
from bottega.models.methods.groups import make_groups

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
        from bottega.models import layers
        from bottega.models.plain import copy_plain, save_plain

        model.requires_grad_(True)
        num, total = layers.count_parameters(model)
        return Attached(
            name=self.name,
            model=model,
            groups=make_groups(model.named_parameters()),
            save=lambda folder: save_plain(model, folder),
            merge=lambda: copy_plain(model),
            reference_kind="copy",
            facts={"trainable": num, "total": total, "share": num / total},
        )
