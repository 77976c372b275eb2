"""PEFT's LoRA layer computed in fewer passes: the update is added inside its own matrix product, forward and backward.

Left out: DoRA, several adapters at once, transposed layers, layers that something listens to; PEFT's own code computes those.

Shapes: T rows, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from bottega.models.formed import dtype_of_products
from bottega.models.quant import QuantLinear


class Quick(Linear):
    """W x + s B A x for one adapter on a frozen layer, in the dtype of x (of autocast where that is on)."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., I) -> (..., O)."""
        name = None if args or kwargs else self._only()
        if name is None:
            return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return]
        kind, scaling = x.device.type, float(self.scaling[name])
        dtype = dtype_of_products(x)
        base, low, high = (
            self.base_layer,
            cast(Tensor, self.lora_A[name].weight),
            cast(Tensor, self.lora_B[name].weight),
        )
        flat = x.reshape(-1, x.shape[-1]).to(dtype)
        dropped = self.lora_dropout[name](flat)
        if dropped is flat and type(base) is nn.Linear:
            out = _Adapted.apply(flat, base.weight, base.bias, low, high, scaling)
        else:
            out = base(flat)
            with torch.autocast(kind, enabled=False):
                out = out.addmm(dropped @ low.to(dtype).T, (high * scaling).to(dtype).T)
        return out.view(*x.shape[:-1], -1)  # type: ignore[no-any-return]

    def _only(self) -> str | None:
        """The adapter, where this layer does nothing else than what is computed here."""
        names = [name for name in self.active_adapters if name in self.lora_A]
        if self.disable_adapters or self.merged or len(names) != 1 or names[0] in self.lora_variant:
            return None
        parts = (self.base_layer, self.lora_A[names[0]], self.lora_B[names[0]])
        if any(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks for part in parts):
            return None
        plain = not any(p.requires_grad for p in self.base_layer.parameters()) and self.lora_B[names[0]].bias is None
        return names[0] if plain else None


class _Adapted(torch.autograd.Function):
    """x W^T + b + s (x A^T) B^T of a frozen W; what is kept for the backward pass is x and x A^T."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TI: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        low_RI: Tensor,
        high_OR: Tensor,
        scaling: float,
    ) -> Tensor:
        dtype = x_TI.dtype
        with torch.autocast(x_TI.device.type, enabled=False):
            inner_TR = x_TI @ low_RI.to(dtype).T
            out = F.linear(x_TI, weight_OI.to(dtype), None if bias_O is None else bias_O.to(dtype))
            update = (inner_TR, (high_OR * scaling).to(dtype).T)
            out = (
                out.addmm(*update) if _get_current_dispatch_mode() else out.addmm_(*update)
            )  # one may be keeping `out`
        ctx.save_for_backward(x_TI, inner_TR, weight_OI, low_RI, high_OR)
        ctx.scaling = scaling
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, inner_TR, weight_OI, low_RI, high_OR = ctx.saved_tensors
        (grad_TO,) = grads
        dtype = x_TI.dtype
        with torch.autocast(x_TI.device.type, enabled=False):
            back_TR = grad_TO @ (high_OR * ctx.scaling).to(dtype)
            to_x = to_low = to_high = None
            if ctx.needs_input_grad[0]:
                to_x = grad_TO @ weight_OI.to(dtype)
                to_x.addmm_(back_TR, low_RI.to(dtype))
            if ctx.needs_input_grad[3]:
                to_low = (back_TR.T @ x_TI).to(low_RI.dtype)
            if ctx.needs_input_grad[4]:
                to_high = (grad_TO.T @ inner_TR).to(high_OR.dtype) * ctx.scaling
        return to_x, None, None, to_low, to_high, None


def quicken(model: nn.Module) -> None:
    """From now on the model's LoRA layers on plain and on quantised linear layers are computed here; names and state are PEFT's."""
    for module in model.modules():
        if type(module) is Linear and type(module.base_layer) in (nn.Linear, QuantLinear):
            module.__class__ = Quick
