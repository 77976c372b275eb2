"""Optimizer groups of a method: weight decay on matrices only, a learning-rate factor for each.

Left out: the optimizers themselves (train/optim.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

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
