"""The parts of a foreign model, found by type and number, never by family name: decoder layers, linear layers,
key/value shapes.

Left out: the head (models/heads.py) and attention (models/attention.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from torch import nn

from bottega.core.errors import UserError

Model: TypeAlias = Any
"""A transformers model, perhaps with adapters: an nn.Module with methods that nn.Module's type does not know."""


def text_config(model: Model) -> Any:
    """The config that describes the decoder (a model may wrap it)."""
    return getattr(model.config, "get_text_config", lambda: model.config)()


def decoder_layers(model: Model) -> nn.ModuleList:
    """The stack of decoder layers: the one ModuleList as long as the config's number of layers.

    Raises:
        UserError: there is none, or more than one.
    """
    wanted = text_config(model).num_hidden_layers
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == wanted
    ]
    outer = [module for name, module in found if not any(name.startswith(f"{other}.") for other, _ in found)]
    if len(outer) != 1:
        raise UserError(
            f"{type(model).__name__} has {len(outer)} lists of {wanted} layers where one stack was expected; use "
            f"method full or lora"
        )
    return outer[0]


def linear_layers(model: Model) -> dict[str, nn.Module]:
    """Every linear layer but the head, by its full name: nn.Linear and GPT-2's transposed Conv1D."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }


def linear_shape(layer: Any) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer, a Conv1D or an embedding."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, nn.Embedding):
        return layer.num_embeddings, layer.embedding_dim
    return layer.weight.shape[0], layer.weight.shape[1]


def short_names(names: Iterable[str]) -> list[str]:
    """The last parts of dotted names, each once, in order: what a person types as a target."""
    return list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in names))


def key_value_shape(model: Model) -> tuple[int, int]:
    """(N_kv, H): key/value heads of a layer and the size of a head."""
    config = text_config(model)
    num_heads = config.num_attention_heads
    num_kv = getattr(config, "num_key_value_heads", None) or num_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    return num_kv, size


def is_tied(model: Model) -> bool:
    """Whether the head's matrix is the input embedding's."""
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and getattr(head, "weight", None) is table.weight


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trainable, all) numbers, each tensor once however often it is used."""
    packed = {  # a quantised matrix counts as the numbers it stands for
        id(module.weight): module.in_features * module.out_features
        for module in model.modules()
        if isinstance(module, nn.Linear) and not module.weight.is_floating_point()
    }
    sizes = [(packed.get(id(p), p.numel()), p.requires_grad) for p in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)
