"""The shape of our decoder as plain data, the presets, and what does not go together: known before torch is imported.

Left out: the network itself (decoder.py), which takes these fields as its config.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

from bottega.core.config import closest, convert
from bottega.core.errors import UserError


@dataclass(kw_only=True)
class Shape:
    """What a decoder is made of; hidden_size D, num_attention_heads N, head size H, num_hidden_layers L.

    num_key_value_heads: N_kv; None: N (multi-head); fewer: grouped; 1: multi-query. head_dim: H; None: D / N.
    intermediate_size: None: 4 D (gelu), or 8/3 D rounded up to a multiple of 32 (swiglu).
    positions: alibi, rope, learned or none. max_position_embeddings: positions that exist (learned) or were trained (rope);
    None for alibi and none, which have no limit. alibi_max: the exponent 8 of the slopes.
    rope_base; rope_scaling linear, ntk or yarn stretches by rope_factor, from rope_original trained positions (yarn).
    norm: layernorm or rmsnorm; low_precision_norm: computed in the autocast type, not in float32. bias: of linear layers and
    LayerNorms. mlp: gelu or swiglu. qk_norm: queries and keys are normed head by head. clip_qkv: they and values are held
    within this. sliding_window: keys a query sees. attention_scale: None: H ** -0.5. attention_softcap,
    final_logit_softcapping: cap * tanh(x / cap). logit_scale: a factor on logits. embedding_fraction: share of the gradient
    that reaches the input embedding.
    init: normal (initializer_range), small (sqrt(2 / 5 D)), neox (small; 2 / (L sqrt D) into the residual) or kaiming
    (sqrt(2 / inputs)); init_residual divides what writes into the residual by sqrt(2 L).
    """

    vocab_size: int = 50432
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int | None = None
    positions: Literal["alibi", "rope", "learned", "none"] = "alibi"
    max_position_embeddings: int | None = None
    alibi_max: float = 8.0
    rope_base: float = 10000.0
    rope_scaling: Literal["none", "linear", "ntk", "yarn"] = "none"
    rope_factor: float = 1.0
    rope_original: int | None = None
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_eps: float = 1e-5
    low_precision_norm: bool = True
    bias: bool = False
    mlp: Literal["gelu", "swiglu"] = "gelu"
    qk_norm: bool = False
    clip_qkv: float | None = None
    sliding_window: int | None = None
    attention_scale: float | None = None
    attention_softcap: float | None = None
    final_logit_softcapping: float | None = None
    logit_scale: float | None = None
    embedding_fraction: float = 1.0
    tie_word_embeddings: bool = True
    init: Literal["normal", "small", "neox", "kaiming"] = "normal"
    initializer_range: float = 0.02
    init_residual: bool = True


FIELDS = tuple(field.name for field in dataclasses.fields(Shape))
POSITIVE = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "intermediate_size", "max_position_embeddings", "alibi_max", "rope_base", "rope_original", "norm_eps", "clip_qkv",
    "sliding_window", "attention_scale", "attention_softcap", "final_logit_softcapping", "logit_scale", "initializer_range",
)  # fmt: skip

_MPT = {"positions": "alibi", "mlp": "gelu", "bias": False, "low_precision_norm": True, "vocab_size": 50432}
_SMALL = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 352}
_GARZONE = {
    **_SMALL, "vocab_size": 2048, "positions": "rope", "max_position_embeddings": 1024, "norm": "rmsnorm", "norm_eps": 1e-6,
    "mlp": "swiglu", "low_precision_norm": False, "initializer_range": 0.05, "init_residual": False,
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "garzone": _GARZONE,
    "garzone-mpt": {**_MPT, **_SMALL, "vocab_size": 2048, "intermediate_size": 512, "initializer_range": 0.05},
    "mpt-125m": {**_MPT, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "mpt-1b": {**_MPT, "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16},
    "mpt-7b": {**_MPT, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32},
    "mpt-30b": {**_MPT, "hidden_size": 7168, "num_hidden_layers": 48, "num_attention_heads": 64},
}
"""garzone: the bundled base's shape; garzone-mpt: as wide and deep, made like MPT. The mpt ones: MosaicML 2023's blocks (ALiBi, no
biases, GELU of four widths, tied head), at the sizes of MPT-7B and MPT-30B and two smaller ones."""


def shape(preset: str | None = None, config: Mapping[str, Any] | None = None) -> Shape:
    """A preset with some of its fields replaced, checked.

    Args:
        preset: a name of PRESETS; None: the defaults of `Shape`. config: fields of `Shape`.

    Raises:
        UserError: an unknown preset or field, a value of the wrong kind, or fields that do not go together.

    >>> shape("garzone", {"hidden_size": 64}).hidden_size
    64
    """
    if preset is not None and preset not in PRESETS:
        raise UserError(f"there is no preset {preset!r}{closest(preset, PRESETS)}")
    hints, given = get_type_hints(Shape), {}
    for name, value in (config or {}).items():
        if name not in hints:
            raise UserError(f"a decoder has no field {name!r}{closest(str(name), FIELDS)}")
        given[name], wrong = convert(hints[name], value)
        if wrong:
            raise UserError(f"{name}: {wrong[0].removeprefix(': ')}")
    start = dict(PRESETS[preset]) if preset is not None else {}
    if "hidden_size" in given and "intermediate_size" not in given:
        start.pop("intermediate_size", None)  # the preset's belongs to the preset's width
    if given.get("positions", "rope") in ("alibi", "none"):
        start.pop("max_position_embeddings", None)
    made = Shape(**start | given)
    check(made)
    return made


def check(made: Any) -> None:
    """Whether the fields of a `Shape` (or of the network's config) make a decoder.

    Raises:
        UserError: the first mistake.
    """
    for name in POSITIVE:
        value = getattr(made, name)
        if value is not None and not value > 0:
            raise UserError(f"{name} is {value}, but must be above 0")
    width, heads = made.hidden_size, made.num_attention_heads
    if made.head_dim is None and width % heads:
        raise UserError(f"hidden_size {width} is no multiple of {heads} heads; change one, or give head_dim")
    kv = made.num_key_value_heads or heads
    if heads % kv:
        raise UserError(f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv}")
    size = made.head_dim or width // heads
    if made.positions == "rope" and size % 2:
        raise UserError(f"rope turns pairs of numbers, and a head has {size}: give an even head_dim")
    if made.positions in ("rope", "learned") and made.max_position_embeddings is None:
        raise UserError(f"positions: {made.positions} needs max_position_embeddings, such as 2048")
    if made.positions in ("alibi", "none") and made.max_position_embeddings is not None:
        raise UserError(f"positions: {made.positions} has no table of positions; leave max_position_embeddings out")
    if made.rope_scaling != "none" and made.positions != "rope":
        raise UserError(f"rope_scaling {made.rope_scaling} is for positions: rope, not {made.positions}")
    if (made.rope_scaling != "none") != (made.rope_factor != 1.0) or made.rope_factor < 1:
        raise UserError(
            f"rope_factor {made.rope_factor:g} with rope_scaling {made.rope_scaling}: give a factor above 1 with a scaling, or neither"
        )
    if (made.rope_scaling == "yarn") != (made.rope_original is not None):
        raise UserError("rope_original, the positions trained before stretching, goes with rope_scaling: yarn")
    if not 0 < made.embedding_fraction <= 1:
        raise UserError(f"embedding_fraction is {made.embedding_fraction}, but must be above 0 and at most 1")


def inner_size(made: Any) -> int:
    """The width between the two matrices of the feed-forward block.

    >>> inner_size(Shape(hidden_size=128)), inner_size(Shape(hidden_size=128, mlp="swiglu"))  # 341.3 -> 352
    (512, 352)
    """
    if made.intermediate_size is not None:
        return int(made.intermediate_size)
    return 4 * int(made.hidden_size) if made.mlp == "gelu" else -(-8 * int(made.hidden_size) // 96) * 32
