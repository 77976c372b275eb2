"""Decoder, encoder or encoder-decoder: what a transformers model is, what its forward is called with, and where its head lies.

Left out: attention and packing (probe.py). Found from transformers' own tables and from the modules, never by a family's name.

Shapes: B rows, T positions.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

Kind = Literal["decoder", "encoder", "encoder-decoder"]


def kind_of(config: Any) -> Kind:
    """What a config describes.

    An encoder is what transformers lists for masked language modelling and what the config does not call a decoder; where a family
    is both, the saved class decides.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    if getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder"
    saved = str((getattr(config, "architectures", None) or [""])[0])
    if getattr(config, "is_decoder", False) or saved.endswith(("ForCausalLM", "LMHeadModel")):
        return "decoder"
    return "encoder" if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES else "decoder"


def is_labeller(model: nn.Module) -> bool:
    """Whether it answers with one row of label scores a sequence: its head then reads one vector a row."""
    return type(model).__name__.endswith("ForSequenceClassification")


def is_tagger(model: nn.Module) -> bool:
    """Whether it answers with label scores at every token."""
    return type(model).__name__.endswith("ForTokenClassification")


def head_modules(model: nn.Module) -> list[str]:
    """Names of the modules that a label head consists of: everything outside the trunk, and a pooler inside it.

    Empty for language models, whose heads are trained with the rest.
    """
    if not (is_labeller(model) or is_tagger(model)):
        return []
    prefix = str(getattr(model, "base_model_prefix", ""))
    own = [name for name, child in model.named_children() if name != prefix and any(True for _ in child.parameters())]
    pooler = getattr(getattr(model, prefix, None), "pooler", None)
    return [*own, *([f"{prefix}.pooler"] if isinstance(pooler, nn.Module) and is_labeller(model) else [])]


def unread(model: nn.Module) -> list[str]:
    """Names of modules that nothing is read from: the pooler of an encoder without a head, whose vectors are means."""
    whole: Any = model
    headless = type(model).__name__.endswith("Model") and whole.get_output_embeddings() is None
    return [name for name, _ in model.named_children() if name == "pooler" and headless]


def first_position(model: nn.Module) -> int:
    """The position of a sequence's first token: 0, or behind the padding's where the position table keeps a row for padding."""
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] == "position_embeddings" and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def plain_call(model: nn.Module, ids_BT: Tensor, mask_BT: Tensor | None = None) -> dict[str, Any]:
    """The keywords of a forward pass over whole sequences without cache; an encoder-decoder reads them on both sides."""
    config: Any = model.config
    call: dict[str, Any] = {"input_ids": ids_BT}
    if mask_BT is not None:
        call["attention_mask"] = mask_BT
    kind = kind_of(config)
    if kind == "encoder-decoder":
        start = torch.full_like(ids_BT[:, :1], decoder_start(config))
        call["decoder_input_ids"] = torch.cat([start, ids_BT[:, :-1]], 1)
    return call if kind == "encoder" else call | {"use_cache": False}


def decoder_start(config: Any) -> int:
    """The id with which an encoder-decoder begins to write."""
    for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
        found = getattr(config, name, None)
        if isinstance(found, int):
            return found
    raise AssertionError(f"{type(config).__name__} names no token to start with")


def start_of(config: Any) -> tuple[int, ...]:
    """The ids that an encoder-decoder is given before it writes: its start, and what its config forces behind it."""
    forced = getattr(config, "forced_bos_token_id", None)
    return (decoder_start(config), *([forced] if isinstance(forced, int) else []))


def end_of(config: Any) -> int:
    """The id that ends both sides of an encoder-decoder."""
    found = getattr(config, "eos_token_id", None)
    found = found[0] if isinstance(found, list) and found else found
    assert isinstance(found, int), f"{type(config).__name__} names no token that ends a text"
    return found


def outputs_of(out: Any) -> Tensor:
    """Logits where a model has a head, else its hidden states."""
    logits = getattr(out, "logits", None)
    return logits if logits is not None else out[0]
