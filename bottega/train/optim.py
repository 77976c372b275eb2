"""Optimizers by name, over a method's parameter groups (weight decay is off norms, biases and other vectors there).

Left out: 8-bit and host-resident states, Lion, Muon and the rest of the family.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bottega.core.errors import UserError


def _adamw(groups: list[dict[str, Any]], lr: float, beta1: float, beta2: float, eps: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2), torch's fused kernel."""
    return torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=0.0, fused=True)


def _sgd(groups: list[dict[str, Any]], lr: float, beta1: float, beta2: float, eps: float) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum beta1."""
    return torch.optim.SGD(groups, lr=lr, momentum=beta1, weight_decay=0.0)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": _adamw, "sgd": _sgd}


def make(
    name: str,
    groups: list[dict[str, Any]],
    *,
    lr: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> torch.optim.Optimizer:
    """The optimizer `name` over `groups`, whose `weight_decay` and `lr_scale` are factors on the values given here.

    Raises:
        UserError: the name is not in the table.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"optimizer {name!r} is not known: use one of {', '.join(OPTIMIZERS)}")
    clean = [
        {
            "params": group["params"],
            "lr_scale": group.get("lr_scale", 1.0),
            "weight_decay": weight_decay * group.get("weight_decay", 1.0),
        }
        for group in groups
    ]
    return OPTIMIZERS[name](clean, lr=lr, beta1=beta1, beta2=beta2, eps=eps)
