"""A GGUF file as a transformers model with its tokenizer: transformers' own reader, after the file was checked; Granite by hand.

Left out: running on the quantised blocks (they are dequantised at load), and architectures that are not written here.
"""

from __future__ import annotations

from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from bottega.core.errors import UserError
from bottega.models.exports.gguf_header import Header, check_gguf, damaged
from bottega.models.exports.gguf_shapes import FAMILIES, attention_scale, plain_names, taken_back
from bottega.models.exports.gguf_words import tokenizer_of
from bottega.models.layers import Model

ARCHITECTURES = tuple(dict.fromkeys(family.arch for family in FAMILIES.values()))
"""general.architecture of the files that are written and read here, each proven on tokens; mistral writes itself as llama."""
OWN = ("granite",)
"""Those that transformers does not read: their config and tensors are taken from the file here."""


def load_gguf(path: str | Path, *, dtype: torch.dtype) -> tuple[Model, Any]:
    """The model and tokenizer of a GGUF file.

    Raises:
        Unsafe: the file is damaged, forged or oversized; a library never saw it. UserError: an architecture that is not
        read here, or the gguf package is missing.
    """
    path = Path(path)
    header = check_gguf(path)
    if header.architecture not in ARCHITECTURES:
        raise UserError(
            f"{path} holds the architecture {header.architecture!r}; GGUF is read here for {', '.join(ARCHITECTURES)}"
        )
    _check_sizes(path, header)
    require_gguf()
    model = (_own if header.architecture in OWN else _theirs)(path, header, dtype)
    ends = {header.keys.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot")}
    model.generation_config.eos_token_id = sorted(end for end in ends if type(end) is int) or None
    return model.eval(), load_gguf_tokenizer(path, header)


def _theirs(path: Path, header: Header, dtype: torch.dtype) -> Any:
    """The model as transformers reads it, with the settings that its reader leaves at their defaults."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from bottega.models.load import plainly
    from bottega.models.plain import quiet_bars

    with plainly(path), quiet_bars(), redirect_stderr(StringIO()):  # its bar does not ask
        how: Any = {"gguf_file": path.name, "local_files_only": True}
        config = _settled(AutoConfig.from_pretrained(path.parent, **how), header)
        both: Any = AutoModelForCausalLM.from_pretrained(
            path.parent, config=config, dtype=dtype, output_loading_info=True, **how
        )
    model, info = both
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(f"{path} lacks {len(missing)} tensors of its architecture ({missing[0]} ...); use a whole file")
    return _dequantised(model)


def _dequantised(model: Any) -> Any:
    """The model without transformers' mark of a quantised one: its weights are plain, and can be saved and tuned."""
    if getattr(model, "hf_quantizer", None) is not None:
        del model.hf_quantizer
    for name in ("quantization_config", "_pre_quantization_dtype", "_model_name_or_path"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    model.is_quantized = False
    return model


def _settled(config: Any, header: Header) -> Any:
    """The config with what is in the file, or in llama.cpp itself, and not in transformers' reader."""
    kind, keys = header.architecture, header.keys
    if kind == "gpt2":
        config.n_positions = keys["gpt2.context_length"]
    elif (head := keys.get(f"{kind}.attention.key_length")) is not None and kind != "phi3":
        config.head_dim = head
    if kind in ("gemma2", "gemma3"):
        config.query_pre_attn_scalar = attention_scale(config)
    if kind == "gemma2":
        config.attn_logit_softcapping = keys.get("gemma2.attn_logit_softcapping", config.attn_logit_softcapping)
        config.final_logit_softcapping = keys.get("gemma2.final_logit_softcapping", config.final_logit_softcapping)
    if kind == "gemma3":
        far = float(keys.get("gemma3.rope.freq_base", 1e6))
        turns = {"sliding_attention": 10000.0, "full_attention": far}
        config.rope_parameters = {name: {"rope_type": "default", "rope_theta": base} for name, base in turns.items()}
    if kind == "phi3" and config.pad_token_id is not None and config.pad_token_id >= config.vocab_size:
        config.pad_token_id = None
    return config


def _own(path: Path, header: Header, dtype: torch.dtype) -> Any:
    """The model from the keys and tensors of the file.

    Raises:
        UserError: tensors are missing.
    """
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from transformers import AutoModelForCausalLM

    config = _granite(header)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    names = plain_names(header.architecture, config.num_hidden_layers)
    family = FAMILIES[config.model_type]
    found = {tensor.name: tensor for tensor in GGUFReader(str(path)).tensors}
    weights = {}
    for full, empty in model.state_dict().items():
        stem, _, ending = full.rpartition(".")
        name = f"{names.get_name(stem)}.{ending}"
        if stem == "lm_head" and config.tie_word_embeddings:
            continue
        if name not in found:
            raise UserError(f"{path} lacks the tensor {name} of its architecture; use a whole file")
        value = torch.from_numpy(dequantize(found[name].data, found[name].tensor_type).copy())
        if value.shape != empty.shape:
            raise damaged(path, f"{name} has the shape {tuple(value.shape)}, not {tuple(empty.shape)}")
        weights[full] = taken_back(name, value, family, config).to(dtype)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    return model


def _granite(header: Header) -> Any:
    from transformers import GraniteConfig

    keys = {name.removeprefix("granite."): value for name, value in header.keys.items() if name.startswith("granite.")}
    special = {
        name: header.keys.get(f"tokenizer.ggml.{key}_token_id") for name, key in (("bos", "bos"), ("eos", "eos"))
    }
    biased = any(name.endswith("attn_q.bias") for name in header.tensors)
    return GraniteConfig(
        vocab_size=header.tensors["token_embd.weight"][0][0],
        hidden_size=keys["embedding_length"],
        intermediate_size=keys["feed_forward_length"],
        num_hidden_layers=keys["block_count"],
        num_attention_heads=keys["attention.head_count"],
        num_key_value_heads=keys.get("attention.head_count_kv", keys["attention.head_count"]),
        max_position_embeddings=keys["context_length"],
        rms_norm_eps=keys.get("attention.layer_norm_rms_epsilon", 1e-6),
        rope_parameters={"rope_type": "default", "rope_theta": keys.get("rope.freq_base", 10000.0)},
        attention_multiplier=keys.get("attention.scale", 1.0),
        embedding_multiplier=keys.get("embedding_scale", 1.0),
        residual_multiplier=keys.get("residual_scale", 1.0),
        logits_scaling=keys.get("logit_scale", 1.0),
        tie_word_embeddings="output.weight" not in header.tensors,
        attention_bias=biased,
        bos_token_id=special["bos"],
        eos_token_id=special["eos"],
        pad_token_id=header.keys.get("tokenizer.ggml.padding_token_id"),
    )


def _check_sizes(path: Path, header: Header) -> None:
    """The sizes that a config would be made of agree with the tensors, so that no model larger than the file is built."""
    kind, keys = header.architecture, header.keys
    blocks, width = keys.get(f"{kind}.block_count"), keys.get(f"{kind}.embedding_length")
    tokens, table = keys.get("tokenizer.ggml.tokens"), header.tensors.get("token_embd.weight")
    found = {name.split(".")[1] for name in header.tensors if name.startswith("blk.")}
    if table is None or len(table[0]) != 2 or not isinstance(tokens, list):
        raise damaged(path, "it has no token_embd.weight or no tokenizer.ggml.tokens")
    if type(blocks) is not int or found != {str(i) for i in range(len(found))} or blocks != len(found):
        raise damaged(path, f"it claims {blocks} blocks and holds {len(found)}")
    if width != table[0][1]:
        raise damaged(path, f"it claims a width of {width} and its embeddings have {table[0][1]}")
    if keys.get(f"{kind}.vocab_size", table[0][0]) != table[0][0] or len(tokens) > table[0][0]:
        raise damaged(path, f"it claims {len(tokens)} tokens and has {table[0][0]} embeddings")
    up = header.tensors.get("blk.0.ffn_up.weight")
    feed = keys.get(f"{kind}.feed_forward_length")
    wide = 2 if kind == "phi3" else 1  # gate and up in one
    if blocks and (up is None or type(feed) is not int or wide * feed != up[0][0]):
        raise damaged(path, f"it claims a feed-forward width of {feed} and holds {None if up is None else up[0][0]}")
    heads, keyed = keys.get(f"{kind}.attention.head_count"), keys.get(f"{kind}.attention.head_count_kv", 1)
    head = keys.get(f"{kind}.attention.key_length", 1)
    lengths = (heads, keyed, keys.get(f"{kind}.context_length"))
    if (
        any(type(n) is not int or not 0 < n <= 1 << 28 for n in lengths)
        or max(heads, keyed) > width
        or not 0 < head <= width
    ):
        raise damaged(path, f"its numbers of heads and its context {lengths} are out of range")


def load_gguf_tokenizer(path: str | Path, header: Header) -> Any:
    """The tokenizer that a GGUF file describes.

    Raises:
        UserError: it cuts text in a way that is not known here. Unsafe: ids outside the vocabulary.
    """
    from bottega.models.load import plainly

    path, keys = Path(path), header.keys
    with plainly(path):
        tokenizer = tokenizer_of(path, keys)
    template = keys.get("tokenizer.chat_template")
    tokenizer.chat_template = template if isinstance(template, str) else None
    return tokenizer


def require_gguf() -> None:
    """Raises UserError where the gguf package is missing."""
    import importlib.util

    if importlib.util.find_spec("gguf") is None:
        raise UserError("GGUF needs the package gguf: pip install 'bottega[export]'")
