"""Optimizers by name, over parameter groups with weight decay off norms, biases and other vectors.

Left out: 8-bit and host-resident states, Lion, Muon and the rest of the family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from bottega.core.errors import UserError


def _adamw(groups: list[dict[str, Any]], lr: float, beta1: float, beta2: float, eps: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2), torch's fused kernel."""
    return torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=0.0, fused=True)


def _sgd(groups: list[dict[str, Any]], lr: float, beta1: float, beta2: float, eps: float) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum beta1."""
    return torch.optim.SGD(groups, lr=lr, momentum=beta1, weight_decay=0.0)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": _adamw, "sgd": _sgd}


def split_decay(named: Iterable[tuple[str, nn.Parameter]], *, weight_decay: float, lr_scale: float = 1.0) -> list[dict]:
    """Two groups: matrices with weight decay, everything of one dimension (norms, biases) without.

    Embedding matrices count as matrices; a parameter that needs no gradient is left out.
    """
    matrices, vectors = [], []
    for name, parameter in named:
        if parameter.requires_grad:
            (matrices if parameter.ndim >= 2 else vectors).append((name, parameter))
    groups = []
    for members, decay in ((matrices, weight_decay), (vectors, 0.0)):
        if members:
            names, params = zip(*members, strict=True)
            groups.append({"params": list(params), "names": list(names), "weight_decay": decay, "lr_scale": lr_scale})
    return groups


def make(
    name: str, groups: list[dict[str, Any]], *, lr: float, beta1: float, beta2: float, eps: float
) -> torch.optim.Optimizer:
    """The optimizer `name` over `groups`.

    Raises:
        UserError: the name is not in the table.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"optimizer {name!r} is not known: use one of {', '.join(OPTIMIZERS)}")
    clean = [{k: v for k, v in group.items() if k != "names"} for group in groups]
    return OPTIMIZERS[name](clean, lr=lr, beta1=beta1, beta2=beta2, eps=eps)
