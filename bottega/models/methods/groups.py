"""What learns, as optimizer groups (weight decay on matrices only, a learning-rate factor for each), and methods that
train a part of the model's own parameters.

Left out: the optimizers themselves (train/optim.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from bottega.core.types import Attached

if TYPE_CHECKING:
    from torch import nn


def make_groups(named: Iterable[tuple[str, nn.Parameter]], *, lr_scale: float = 1.0) -> list[dict[str, Any]]:
    """At most two groups of the parameters that learn: matrices, and vectors (norms, biases) without decay.

    Returns:
        dicts with `params`, `names`, and the factors `lr_scale` and `weight_decay` (1.0 or 0.0) on the recipe's values.
    """
    learning = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    out = []
    for decay, members in (
        (1.0, [pair for pair in learning if pair[1].ndim >= 2]),
        (0.0, [pair for pair in learning if pair[1].ndim < 2]),
    ):
        if members:
            names, params = ([pair[i] for pair in members] for i in (0, 1))
            out.append({"params": params, "names": names, "lr_scale": lr_scale, "weight_decay": decay})
    return out


def attach_subset(model: nn.Module, name: str, learns: Callable[[str, nn.Parameter], bool]) -> Attached:
    """`model` with the parameters that `learns(name, parameter)` picks learning and all others frozen; saved whole."""
    from bottega.models import layers
    from bottega.models.plain import copy_plain, save_plain

    for own, parameter in model.named_parameters():
        parameter.requires_grad_(learns(own, parameter))
    num, total = layers.count_parameters(model)
    return Attached(
        name=name,
        model=model,
        groups=make_groups(model.named_parameters()),
        save=lambda folder: save_plain(model, folder),
        merge=lambda: copy_plain(model),
        reference_kind="copy",
        facts={"trainable": num, "total": total, "share": num / total},
    )
