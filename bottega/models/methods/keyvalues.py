"""The learned keys and values of prefix tuning: the module that holds them, and PEFT's file format for them.

Left out: how they start (methods/prefix.py) and how attention sees them (models/attention.py).

Shapes: L layers, N key/value heads, P prefix positions, H head size.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bottega.core.errors import UserError
from bottega.core.types import Attached
from bottega.models import attention, layers, safety
from bottega.models.layers import Model
from bottega.models.methods.groups import make_groups

KEY = "prompt_embeddings"


class KeyValuePrefix(nn.Module):
    """The learned keys and values, one tensor (L, 2, N, P, H)."""

    def __init__(self, values_L2NPH: Tensor, *, trainable: bool = True) -> None:
        super().__init__()
        self.values = nn.Parameter(values_L2NPH.float().contiguous(), requires_grad=trainable)
        self.num_prefix = values_L2NPH.shape[3]

    def prefix_kv(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values (N, P, H) that every sequence sees in `layer`."""
        return self.values[layer, 0], self.values[layer, 1]

    def served(self, model: nn.Module) -> KeyValuePrefix:
        """Itself: they are no function of the model."""
        return self


def normal(model: Model, length: int, seed: int) -> Tensor:
    """(L, 2, N, P, H) from a normal distribution of standard deviation 0.02."""
    num_heads, size = layers.key_value_shape(model)
    shape = (layers.text_config(model).num_hidden_layers, 2, num_heads, length, size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.02


def from_tokens(model: Model, length: int, seed: int) -> Tensor:
    """(L, 2, N, P, H): the model's own keys and values of random token ids."""
    from transformers import DynamicCache

    from bottega.models.heads import undisturbed

    vocabulary = layers.text_config(model).vocab_size
    ids = torch.randint(vocabulary, (1, length), generator=torch.Generator().manual_seed(seed))
    with undisturbed(model):
        out = model(input_ids=ids.to(next(model.parameters()).device), past_key_values=DynamicCache(), use_cache=True)
    return torch.stack([torch.cat([layer.keys, layer.values]) for layer in out.past_key_values.layers])


def require_packed_attention(model: Model) -> None:
    """Prefixes enter through our attention function, which the loader installs where its probe proves it exact.

    Raises:
        UserError: this architecture does not take it.
    """
    if model.config._attn_implementation != attention.NAME:
        raise UserError(
            f"prefix tuning needs packed attention, which {type(model).__name__} does not take (see the run's notes); "
            f"use lora"
        )


def attach_values(model: nn.Module, inputs: KeyValuePrefix) -> Attached:
    """Freeze `model` and put `inputs` before its sequences; with them off it is the model at the stage's start."""
    model.requires_grad_(False)
    num, total = layers.count_parameters(inputs)[0], layers.count_parameters(model)[1] + inputs.values.numel()
    return Attached(
        name="prefix",
        model=model,
        groups=make_groups((f"inputs.{name}", parameter) for name, parameter in inputs.named_parameters()),
        save=lambda folder: save_prefix(model, inputs, folder),
        merge=None,
        inputs=inputs,
        reference_kind="off",
        facts={"trainable": num, "total": total, "share": num / total},
    )


def save_prefix(model: nn.Module, inputs: KeyValuePrefix, folder: str | Path) -> None:
    """Save as PEFT's prefix tuning: a (P, L * 2 * N * H) table, the positions' keys and values side by side."""
    from peft import PrefixTuningConfig

    num_layers, _, num_heads, num_prefix, size = inputs.values.shape
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=num_prefix,
        num_layers=num_layers,
        token_dim=num_heads * size,
        num_attention_heads=num_heads,
        num_transformer_submodules=1,
        encoder_hidden_size=num_heads * size,
        base_model_name_or_path=str(getattr(model.config, "_name_or_path", "") or ""),
        inference_mode=True,
    )
    Path(folder).mkdir(parents=True, exist_ok=True)
    table = inputs.values.detach().cpu().permute(3, 0, 1, 2, 4).reshape(num_prefix, -1).contiguous()
    save_file({KEY: table}, Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def attach_saved(model: nn.Module, folder: Path, *, trainable: bool) -> Attached:
    """Attach prefixes saved in PEFT's format (without its reparametrisation).

    Raises:
        UserError: they do not fit the model.
    """
    require_packed_attention(model)
    raw = safety.check_adapter(folder)
    (file,) = safety.weight_files(folder)
    safety.check_safetensors(file)
    num_heads, size = layers.key_value_shape(model)
    num_layers, length = layers.text_config(model).num_hidden_layers, int(raw.get("num_virtual_tokens") or 0)
    table = load_file(file).get(KEY)
    wanted = (length, num_layers * 2 * num_heads * size)
    if table is None or tuple(table.shape) != wanted or raw.get("prefix_projection"):
        found = None if table is None else tuple(table.shape)
        raise UserError(
            f"the prefix in {folder} has shape {found} where its base needs {wanted}; check base_model_name_or_path"
        )
    values = table.view(length, num_layers, 2, num_heads, size).permute(1, 2, 3, 0, 4)
    attached = attach_values(model, KeyValuePrefix(values, trainable=trainable))
    attached.reference_kind = "copy"
    return attached
