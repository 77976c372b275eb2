"""The loss of a linear head whose gradients are formed while it is computed, so that no logits are computed twice.

Left out: soft caps, temperatures and heads that are more than a linear layer (models/heads.py recomputes those), and second
derivatives.

Shapes: S positions, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LOGITS = 2**26
"""How many logits a GPU holds at once, 256 MB of float32: enough that its kernels, not their launches, take the time."""


def rows_at_once(kind: str, vocabulary: int, chunk: int) -> int:
    """Rows of logits held at once: `chunk` on a CPU, whose caches they should fit; on a GPU what LOGITS allows, if that is more."""
    return chunk if kind == "cpu" else max(chunk, LOGITS // vocabulary)


def dtype_of_products(hidden_SD: Tensor) -> torch.dtype:
    """In which dtype matrix products are computed here: autocast's where that is on, else the hidden states' own."""
    kind = hidden_SD.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_SD.dtype


def nll_formed(
    hidden_SD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    labels_S: Tensor,
    weights_S: Tensor,
    scale: float,
    chunk: int,
) -> Tensor:
    """Sum of weight * -log softmax(scale (W h + b))[label], () float32; differentiable in h, W and b.

    The softmax and its sums are computed in float32.
    """
    dtype = dtype_of_products(hidden_SD)
    return _Formed.apply(hidden_SD, weight_VD, bias_V, labels_S, weights_S, scale, chunk, dtype)  # type: ignore[no-any-return]


class _Formed(torch.autograd.Function):
    """p - onehot(label), weighted, is the gradient of the logits: at hand when the loss is."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_S: Tensor,
        weights_S: Tensor,
        scale: float,
        chunk: int,
        dtype: torch.dtype,
    ) -> Tensor:
        to_hidden, to_weight, to_bias, *_ = ctx.needs_input_grad
        total = torch.zeros((), dtype=torch.float32, device=hidden_SD.device)
        grad_SD = torch.empty_like(hidden_SD) if to_hidden else None
        grad_VD = torch.zeros(weight_VD.shape, dtype=torch.float32, device=weight_VD.device) if to_weight else None
        grad_V = torch.zeros_like(bias_V, dtype=torch.float32) if to_bias and bias_V is not None else None
        with torch.autocast(hidden_SD.device.type, enabled=False):
            w = weight_VD.to(dtype)
            for start in range(0, len(hidden_SD), chunk):
                part = slice(start, start + chunk)
                h, labels, weights = hidden_SD[part].to(dtype), labels_S[part, None], weights_S[part]
                logits = (h @ w.T).float()
                if bias_V is not None:
                    logits += bias_V.float()
                if scale != 1.0:
                    logits *= scale
                rest = torch.logsumexp(logits, -1)
                total += (weights * (rest - logits.gather(1, labels)[:, 0])).sum()
                found = logits.sub_(rest[:, None]).exp_()
                found.scatter_add_(1, labels, torch.full_like(labels, -1, dtype=torch.float32))
                found *= (weights * scale)[:, None]
                if grad_V is not None:
                    grad_V += found.sum(0)
                narrow = found.to(dtype)
                if grad_SD is not None:
                    grad_SD[part] = narrow @ w
                if grad_VD is not None:
                    grad_VD += narrow.T @ h
        grads = (
            grad_SD,
            None if grad_VD is None else grad_VD.to(weight_VD.dtype),
            None if grad_V is None or bias_V is None else grad_V.to(bias_V.dtype),
        )
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        scaled = (None if found is None else found * grad.to(found.dtype) for found in ctx.saved_tensors)
        return (*scaled, None, None, None, None, None)
