"""Our decoder from transformers' `llama` and `mpt` and back, on the same weights: logits are equal to 1e-4 in float32.

Left out: dropout (a model with some is refused, not silently changed) and every part that the other architecture lacks: what
does not fit is named, all of it at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import initialization

from bottega.core.errors import UserError
from bottega.models.decoder import DecoderConfig, DecoderForCausalLM
from bottega.models.layers import Model

_SPECIALS = ("bos_token_id", "eos_token_id", "pad_token_id")
_MPT_NAMES = {
    "model.embed_tokens.": "transformer.wte.",
    "model.layers.": "transformer.blocks.",
    "model.norm.": "transformer.norm_f.",
    ".input_layernorm.": ".norm_1.",
    ".post_attention_layernorm.": ".norm_2.",
    ".self_attn.o_proj.": ".attn.out_proj.",
    ".mlp.": ".ffn.",
}
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_SCALINGS = {"default": "none", "linear": "linear", "yarn": "yarn"}
_YARN = {
    "beta_fast": 32,
    "beta_slow": 1,
    "attention_factor": None,
    "mscale": None,
    "mscale_all_dim": None,
    "truncate": True,
}


def from_transformers(model: Model) -> DecoderForCausalLM:
    """Our decoder with the weights of a `llama` or `mpt` model.

    A `llama` with ntk-stretched positions is one whose base is larger; it arrives as such.

    Raises:
        UserError: another architecture, or a part of it that ours does not have.
    """
    kind = model.config.model_type
    if kind not in FROM:
        raise UserError(f"{kind} is not converted to our decoder; {' and '.join(FROM)} are")
    config, rename = FROM[kind]
    return _filled(DecoderForCausalLM, config(model.config), rename(model.state_dict()), model)


def to_transformers(model: DecoderForCausalLM, kind: str, *, max_seq_len: int = 2048) -> Model:
    """The weights of our decoder as transformers' `llama` or `mpt`, which any tool loads.

    Args:
        kind: llama or mpt. max_seq_len: positions that an `mpt` says it has (ALiBi itself sets no limit).

    Raises:
        UserError: parts of the decoder that `kind` does not have, all of them named.
    """
    from transformers import LlamaForCausalLM, MptForCausalLM

    if kind == "llama":
        return _filled(LlamaForCausalLM, _llama_config(model.config), dict(model.state_dict()), model)
    if kind == "mpt":
        return _filled(
            MptForCausalLM, _mpt_config(model.config, max_seq_len), _mpt_names(model.state_dict(), model.config), model
        )
    raise UserError(f"there is no conversion to {kind!r}; llama and mpt are known")


def _filled(make: Callable[[Any], Any], config: Any, tensors: Mapping[str, Tensor], like: Model) -> Any:
    """A model of `config` with these tensors, in evaluation mode, in the dtype of `like`; the tensors are copied."""
    with initialization.no_init_weights():
        made = make(config).to(like.dtype)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    missing, unexpected = made.load_state_dict(tensors, strict=False)
    assert set(missing) <= tied and not unexpected, (missing, unexpected)
    made.tie_weights()
    return made.eval()


def _refuse(kind: str, wrong: Mapping[str, bool]) -> None:
    found = [what for what, is_wrong in wrong.items() if is_wrong]
    if found:
        raise UserError(f"this model does not convert ({kind}): {'; '.join(found)}")


def _kept(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in (*_SPECIALS, "initializer_range", "tie_word_embeddings")}


def _from_llama_config(config: Any) -> DecoderConfig:
    rope = config.rope_parameters
    scaling = str(rope.get("rope_type", "default"))
    yarn = scaling == "yarn"
    _refuse(
        "from llama",
        {
            f"hidden_act {config.hidden_act} is not silu": config.hidden_act != "silu",
            "attention_bias and mlp_bias differ": bool(config.attention_bias) != bool(config.mlp_bias),
            "attention_dropout is not 0": bool(config.attention_dropout),
            f"rope_type {scaling} is not one of {', '.join(_SCALINGS)}": scaling not in _SCALINGS,
            "yarn with settings of its own": yarn
            and any(rope.get(key, usual) != usual for key, usual in _YARN.items()),
            "partial_rotary_factor is not 1": rope.get("partial_rotary_factor", 1.0) != 1.0,
        },
    )
    factor = float(rope.get("factor") or 1.0)
    original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    stretched = scaling != "default" and factor != 1.0
    named: Any = _SCALINGS[scaling] if stretched else "none"
    return DecoderConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        intermediate_size=config.intermediate_size,
        positions="rope",
        max_position_embeddings=config.max_position_embeddings,
        rope_base=float(rope["rope_theta"]),
        rope_scaling=named,
        rope_factor=factor if stretched else 1.0,
        rope_original=int(original) if yarn and stretched else None,
        norm="rmsnorm",
        norm_eps=config.rms_norm_eps,
        low_precision_norm=False,
        bias=bool(config.attention_bias),
        mlp="swiglu",
        init_residual=False,
        **_kept(config),
    )


def _foreign(config: DecoderConfig) -> dict[str, bool]:
    """Parts that neither llama nor mpt has."""
    return {
        "qk_norm": config.qk_norm,
        "sliding_window": config.sliding_window is not None,
        "attention_softcap": config.attention_softcap is not None,
        "final_logit_softcapping": config.final_logit_softcapping is not None,
        "logit_scale": config.logit_scale is not None,
    }


def _llama_config(config: Any) -> Any:
    from transformers import LlamaConfig

    _refuse(
        "to llama",
        {
            **_foreign(config),
            f"positions: {config.positions} is not rope": config.positions != "rope",
            f"norm: {config.norm} is not rmsnorm": config.norm != "rmsnorm",
            f"mlp: {config.mlp} is not swiglu": config.mlp != "swiglu",
            "clip_qkv": config.clip_qkv is not None,
            "attention_scale": config.attention_scale is not None,
        },
    )
    base, size = config.rope_base, config.head_dim
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": base}
    if config.rope_scaling == "ntk":
        rope["rope_theta"] = base * config.rope_factor ** (size / (size - 2))
    elif config.rope_scaling != "none":
        rope |= {"rope_type": config.rope_scaling, "factor": config.rope_factor}
    if config.rope_scaling == "yarn":
        rope["original_max_position_embeddings"] = config.rope_original
    return LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=size,
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=config.norm_eps,
        rope_parameters=rope,
        attention_bias=config.bias,
        mlp_bias=config.bias,
        **_kept(config),
    )


def _from_mpt_config(config: Any) -> DecoderConfig:
    attention = config.attn_config
    dropouts = (attention.attn_pdrop, config.resid_pdrop, config.emb_pdrop)
    _refuse("from mpt", {"attn_pdrop, resid_pdrop or emb_pdrop is not 0": any(dropouts)})
    return DecoderConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.d_model,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        intermediate_size=4 * config.d_model,  # transformers' mpt has four whatever expansion_ratio says
        positions="alibi",
        norm="layernorm",
        norm_eps=config.layer_norm_epsilon,
        low_precision_norm=config.norm_type.startswith("low_precision"),
        bias=False,
        mlp="gelu",
        clip_qkv=attention.clip_qkv or None,
        attention_scale=attention.softmax_scale,
        embedding_fraction=config.embedding_fraction,
        **_kept(config),
    )


def _mpt_config(config: DecoderConfig, max_seq_len: int) -> Any:
    from transformers import MptConfig

    _refuse(
        "to mpt",
        {
            **_foreign(config),
            f"positions: {config.positions} is not alibi": config.positions != "alibi",
            f"alibi_max {config.alibi_max:g} is not 8": config.alibi_max != 8,
            f"norm: {config.norm} is not layernorm": config.norm != "layernorm",
            f"mlp: {config.mlp} is not gelu": config.mlp != "gelu",
            "bias": config.bias,
            "fewer num_key_value_heads": config.num_key_value_heads != config.num_attention_heads,
            "head_dim": config.head_dim != config.hidden_size / config.num_attention_heads,
            "intermediate_size is not 4 hidden_size": config.intermediate_size != 4 * config.hidden_size,
        },
    )
    return MptConfig(
        vocab_size=config.vocab_size,
        d_model=config.hidden_size,
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        max_seq_len=max_seq_len,
        layer_norm_epsilon=config.norm_eps,
        norm_type="low_precision_layernorm" if config.low_precision_norm else "layernorm",
        learned_pos_emb=False,
        embedding_fraction=config.embedding_fraction,
        attn_config={"clip_qkv": config.clip_qkv, "softmax_scale": config.attention_scale, "alibi": True},
        **_kept(config),
    )


def _mpt_names(tensors: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Ours under mpt's names, queries, keys and values in one matrix."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if _QKV[0] in name:
            joined = [tensors[name.replace(_QKV[0], part)] for part in _QKV]
            name, tensor = name.replace(_QKV[0], "attn.Wqkv"), torch.cat(joined)
        elif any(part in name for part in _QKV[1:]):
            continue
        for ours, theirs in _MPT_NAMES.items():
            name = name.replace(ours, theirs)
        found[name] = tensor
    return found


def _from_mpt_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for ours, theirs in _MPT_NAMES.items():
            name = name.replace(theirs, ours)
        if "attn.Wqkv" in name:
            parts = zip(_QKV, tensor.chunk(3), strict=True)
            found |= {name.replace("attn.Wqkv", part): one for part, one in parts}
        else:
            found[name] = tensor
    return found


FROM: dict[str, tuple[Callable[[Any], DecoderConfig], Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]] = {
    "llama": (_from_llama_config, dict),
    "mpt": (_from_mpt_config, _from_mpt_names),
}
"""transformers' model_type -> its config as ours, its tensors under our names."""
