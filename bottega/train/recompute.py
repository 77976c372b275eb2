"""Checkpointing: what the forward pass drops and the backward pass computes again; all of every layer, or less.

Left out: layers that hold nothing to keep (streamed ones own their recompute).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from bottega.core.errors import UserError
from bottega.models.layers import decoder_layers
from bottega.train.settings import LoopSettings

_ATEN = torch.ops.aten
ATTENTION = ("_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu",
             "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention")  # fmt: skip
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear")


def enable(model: Any, settings: LoopSettings) -> None:
    """Keep only the inputs of layers in the forward pass, and compute the rest again in the backward pass.

    Args:
        settings: recompute_every n: of layers 0, n, 2n ... only. recompute_keep: results that are kept all the same, for
        they are dear to compute: none, attention, or products (attention and matrix products).

    Raises:
        UserError: the layers of this architecture cannot be told apart.
    """
    every, keep = settings.recompute_every, settings.recompute_keep
    kwargs: dict[str, Any] = {"use_reentrant": False}
    if keep != "none":
        kwargs["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _policy(keep))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
    model.enable_input_require_grads()
    if every > 1:
        layers: list[Any] = list(decoder_layers(model))
        for number, layer in enumerate(layers):
            if not hasattr(layer, "gradient_checkpointing"):
                raise UserError(
                    f"recompute_every {every}: the layers of {type(model).__name__} are checkpointed together: write recompute_every: 1"
                )
            layer.gradient_checkpointing = number % every == 0


def _policy(keep: str) -> Any:
    names = ATTENTION if keep == "attention" else ATTENTION + PRODUCTS
    packets = {getattr(_ATEN, name) for name in names if hasattr(_ATEN, name)}

    def policy(context: Any, op: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
        kept = getattr(op, "overloadpacket", op) in packets
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    return policy
