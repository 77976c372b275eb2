"""What each family looks like in a GGUF file: its name there, its sizes as keys, and how its tensors lie.

Left out: vocabularies (gguf_words.py), mixtures of experts, scaled positions.

llama.cpp turns neighbours (x_{2i}, x_{2i + 1}) in its llama and granite graphs where transformers turns halves; adds nothing to
Gemma's norms, so that the file holds 1 + w; multiplies GPT-2's matrices from the other side; and takes Phi-3's gate and up
projections as one `ffn_up` of twice the width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from bottega.core.errors import UserError


class Family(NamedTuple):
    """arch: general.architecture. rotated: q and k in the order of neighbours. shift: what norms hold more than the model's own."""

    arch: str
    rotated: bool = False
    shift: float = 0.0
    transposed: tuple[str, ...] = ()


_GPT2 = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
FAMILIES: dict[str, Family] = {
    "llama": Family("llama", rotated=True),
    "mistral": Family("llama", rotated=True),
    "granite": Family("granite", rotated=True),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
    "phi3": Family("phi3"),
    "gemma2": Family("gemma2", shift=1.0),
    "gemma3_text": Family("gemma3", shift=1.0),
    "gpt2": Family("gpt2", transposed=_GPT2),
}
"""transformers' model_type -> how it lies in the file."""
WINDOWED = ("gemma2", "gemma3_text")
"""Families whose sliding windows llama.cpp knows: each second layer, and five of six."""
GEMMA_27B = {"gemma2": 46, "gemma3": 62}
"""The number of layers by which llama.cpp knows the models whose attention is scaled by the width of a head, not its key length."""


def family_of(config: Any) -> Family:
    """The family of a model's config.

    Raises:
        UserError: one that GGUF is not written for here, or a setting that a file of its kind cannot hold.
    """
    kind = config.model_type
    if kind not in FAMILIES:
        raise UserError(f"GGUF is not written for {kind}; it is for {', '.join(FAMILIES)}: use --format hf")
    for said in (_positions(config), _window(config), _gemma(config), _partly(config)):
        if said:
            raise UserError(f"{said}; use --format hf")
    return FAMILIES[kind]


def _ropes(config: Any) -> list[dict[str, Any]]:
    found = getattr(config, "rope_parameters", None) or {}
    return list(found.values()) if found and all(isinstance(one, dict) for one in found.values()) else [found]


def _positions(config: Any) -> str:
    kinds = [rope.get("rope_type", "default") for rope in _ropes(config)]
    scaled = next((kind for kind in kinds if kind != "default"), None)
    return f"GGUF is not written for positions scaled by {scaled!r}" if scaled else ""


def _partly(config: Any) -> str:
    shares = [rope.get("partial_rotary_factor", 1.0) for rope in _ropes(config)]
    return f"GGUF is not written for heads of which {min(shares):.0%} turn" if min(shares) < 1 else ""


def _window(config: Any) -> str:
    window, kind = getattr(config, "sliding_window", None), config.model_type
    used = getattr(config, "use_sliding_window", kind in ("mistral", "phi3"))
    if kind in WINDOWED or not used or window is None or window >= config.max_position_embeddings:
        return ""
    return f"GGUF's {FAMILIES[kind].arch} has no sliding window, and this model has one of {window}"


def _gemma(config: Any) -> str:
    """What llama.cpp takes for granted of Gemma."""
    if config.model_type not in WINDOWED:
        return ""
    every = 2 if config.model_type == "gemma2" else 6
    usual = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(config.num_hidden_layers)]
    if list(config.layer_types) != usual:
        return f"GGUF's {config.model_type} has full attention in every layer of {every}, and this model in others"
    wanted = attention_scale(config)
    if config.query_pre_attn_scalar != wanted:
        return (
            f"GGUF's {config.model_type} scales attention by {wanted}, and this model by {config.query_pre_attn_scalar}"
        )
    if config.model_type == "gemma3_text":
        local = config.rope_parameters["sliding_attention"].get("rope_theta")
        if local != 10000.0:
            return f"GGUF's gemma3 turns its local layers by 10000, and this model by {local}"
        if config.attn_logit_softcapping or config.final_logit_softcapping:
            return "GGUF's gemma3 has no soft caps, and this model has"
    elif not (config.attn_logit_softcapping and config.final_logit_softcapping):
        return "GGUF's gemma2 has soft caps, and this model lacks one"
    return ""


def attention_scale(config: Any) -> int:
    """The number whose root divides Gemma's attention in llama.cpp."""
    arch = FAMILIES[config.model_type].arch
    if config.num_hidden_layers == GEMMA_27B.get(arch):
        return int(config.hidden_size // config.num_attention_heads)
    return int(config.head_dim)


def tensors(model: Any, family: Family) -> Iterator[tuple[str, Tensor]]:
    """Name in the file and float32 tensor, as the family lies there."""
    config = model.config
    names = plain_names(family.arch, config.num_hidden_layers)
    for full, tensor in model.state_dict().items():
        stem, _, ending = full.rpartition(".")
        if config.tie_word_embeddings and stem == "lm_head":
            continue
        new = names.get_name(stem)
        if new is None:
            raise UserError(f"GGUF has no name for the tensor {full} of {config.model_type}; use --format hf")
        name = f"{new}.{ending}"
        yield name, laid_out(name, tensor.detach().float().cpu(), family, config).contiguous()


def plain_names(arch: str, num_layers: int) -> Any:
    """The gguf package's map from other names of tensors to its own."""
    import gguf

    kinds = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    return gguf.get_tensor_name_map(kinds[arch], num_layers)


def laid_out(name: str, value: Tensor, family: Family, config: Any) -> Tensor:
    """A tensor of the model as the file has it."""
    if family.rotated and (heads := _heads(name, config)):
        return rotated(value, heads)
    if family.transposed and name.endswith(family.transposed):
        return value.T
    if family.shift and name.endswith("norm.weight"):
        return value + family.shift
    return value


def taken_back(name: str, value: Tensor, family: Family, config: Any) -> Tensor:
    """`laid_out`, the other way."""
    if family.rotated and (heads := _heads(name, config)):
        return unrotated(value, heads)
    if family.transposed and name.endswith(family.transposed):
        return value.T
    if family.shift and name.endswith("norm.weight"):
        return value - family.shift
    return value


def _heads(name: str, config: Any) -> int:
    if ".attn_q." in name:
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if ".attn_k." in name else 0


def rotated(weight: Tensor, heads: int) -> Tensor:
    """Rows of a projection from halves (x_i with x_{i + H/2}) to neighbours (x_{2i} with x_{2i + 1}), head by head.

    Example: one head of four rows a b c d -> a c b d.
    """
    pairs = weight.view(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return pairs.transpose(1, 2).reshape(weight.shape)


def unrotated(weight: Tensor, heads: int) -> Tensor:
    """Rows from neighbours to halves: `rotated`, the other way."""
    pairs = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return pairs.transpose(1, 2).reshape(weight.shape)


def add_sizes(writer: Any, config: Any, family: Family) -> None:
    """The sizes and scales of a model as keys of the file."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if family.arch == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    ropes = getattr(config, "rope_parameters", None) or {}
    writer.add_rope_freq_base(float(ropes.get("full_attention", ropes).get("rope_theta", 10000.0)))
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    if family.arch == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if config.model_type in WINDOWED:
        writer.add_sliding_window(config.sliding_window)
    if family.arch == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
