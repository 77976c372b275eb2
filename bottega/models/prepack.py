"""Linear layers whose matrices are laid out once for oneDNN, for the many thin products of batched decoding on a CPU.

Left out: single rows (a plain matrix-vector product is as fast), other dtypes than fp32, devices other than the CPU.

A product of 16 to 64 rows with a matrix spends its time reading the matrix and laying it out for the kernel; the layout can be
made once. Measured on one core of an AMD EPYC with AVX-512 (torch 2.13.0, fp32, matrices that come from memory), GFLOP/s of
`F.linear` and prepacked: 8192 x 384 by 16 rows 34 and 71, by 64 rows 62 and 96; 2112 x 384 by 16 rows 40 and 69. `W @ x.T`
gave 31 and 64 for the first two: no gain.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

MIN_ROWS = 4
"""Rows from which a prepacked product pays."""
MAX_BYTES = 2**30
"""Copies of a model's matrices take at most this much memory; a larger model is decoded as it is."""
MIN_BYTES = 2**24
"""A model of fewer bytes lies in the processor's cache, where the layout is not what costs: 4 MB were decoded at 6,150 tokens
a CPU second with and 6,400 without (64 rows), 52 MB at 1,150 with and 980 without (16 rows: 890 and 660)."""


class Prepacked(nn.Module):
    """A linear layer with the same parameters and a copy of its matrix in the kernel's layout; without gradients."""

    def __init__(self, linear: nn.Module, rows: int) -> None:
        super().__init__()
        self.training = linear.training
        self.weight, self.bias = cast(nn.Parameter, linear.weight), cast(nn.Parameter | None, linear.bias)
        matrix = self.weight.detach()
        matrix = matrix.t() if isinstance(linear, Conv1D) else matrix
        self.out_features, self.in_features = matrix.shape
        self._packed = torch.ops.mkldnn._reorder_linear_weight(matrix.contiguous(), rows)
        self._bias = None if self.bias is None else self.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """x W^T + b, over (..., in_features)."""
        return _product(x, self._packed, self._bias)


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


@cache
def usable() -> bool:
    """Whether this build of torch has the layout and its product is right, found by trying."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    x, w, b = (torch.arange(n, dtype=torch.float32).sin() for n in (4 * 24, 40 * 24, 40))
    x, w = x.view(4, 1, 24), w.view(40, 24)
    with torch.no_grad():
        found = _product(x, torch.ops.mkldnn._reorder_linear_weight(w, 4), b)
    return torch.allclose(found, F.linear(x, w, b), atol=1e-5)


def _fits(module: nn.Module) -> bool:
    """A plain linear layer of fp32 in memory, that nothing hooks into."""
    if type(module) not in (nn.Linear, Conv1D) or module._forward_hooks or module._forward_pre_hooks:
        return False
    weight: Any = module.weight
    kept = type(weight) is nn.Parameter and "forward" not in module.__dict__ and "_hf_hook" not in module.__dict__
    return kept and weight.dtype == torch.float32 and weight.device.type == "cpu"


@contextmanager
def prepacked(model: nn.Module, rows: int) -> Iterator[int]:
    """`model` with its linear layers prepacked for products of `rows` rows, and as it was afterwards.

    Copies are made anew at each entry, so that weights which were trained in between count.

    Yields:
        How many layers were replaced: 0 where it does not pay, or the copies would take more than `MAX_BYTES`.
    """
    places: list[tuple[nn.Module, str, nn.Module]] = []
    if rows >= MIN_ROWS and usable():
        places = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()
                  if _fits(child)]  # fmt: skip
    size = 4 * sum(cast(Tensor, child.weight).numel() for child in {id(c): c for _, _, c in places}.values())
    if not MIN_BYTES <= size <= MAX_BYTES:
        places = []
    made: dict[int, Prepacked] = {}
    try:
        for parent, name, child in places:
            made[id(child)] = new = made.get(id(child)) or Prepacked(child, rows)
            parent._modules[name] = new
        yield len(places)
    finally:
        for parent, name, child in places:
            parent._modules[name] = child
