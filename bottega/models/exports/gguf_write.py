"""A model as one GGUF file, for llama.cpp and what is built on it: f32, f16, q8_0 or q4_0.

Left out: K-quants and importance matrices (llama.cpp's own quantiser makes them from f16), architectures that transformers cannot
read back, sentencepiece vocabularies, scaled positions.

Norms and biases stay float32; q4_0 keeps embeddings and head in q8_0. A block of q8_0 is 32 numbers with one scale d = max|x| / 127,
of q4_0 with d = max|x| / -8; the gguf package quantises.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bottega.core.errors import CheckFailed, UserError
from bottega.models.exports import gguf_header, proof
from bottega.models.exports.gguf_read import load_gguf, require_gguf

KINDS = {"f32": "F32", "f16": "F16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
_FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7}
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gpt2": "gpt2"}
"""transformers' model_type -> general.architecture."""
_TRANSPOSED = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
_WIDE = ("token_embd.weight", "output.weight")


def write_gguf(
    model: Any, tokenizer: Any, path: str | Path, *, kind: str = "f16", name: str = "model"
) -> dict[str, Any]:
    """Write `path` and prove it: every tensor read back with the gguf package, the model with transformers, on tokens.

    Args:
        model: a plain transformers model in float32. kind: f32, f16, q8_0 or q4_0.

    Returns:
        {"tensors", "bytes", "kl": mean KL(model || file) in nats a token, "equal": share of equal greedy tokens, ...}.

    Raises:
        UserError: an architecture, tokenizer or width that GGUF is not written for here. CheckFailed: what was read back differs.
    """
    require_gguf()
    if kind not in KINDS:
        raise UserError(f"GGUF kind {kind!r} is not one of {', '.join(KINDS)}")
    arch = _architecture(model)
    words = vocabulary(tokenizer, model.config.vocab_size)
    sent = _write(model, tokenizer, Path(path), arch, kind, name, words)
    _read_back(Path(path), sent)
    again, own = load_gguf(path, dtype=torch.float32)
    expected = _rounded(model, again)
    prompts = proof.prompts_of(model, tokenizer)
    for text in proof.TEXTS:
        if (one := tokenizer(text)["input_ids"]) != (other := own(text)["input_ids"]):
            raise CheckFailed(
                f"the tokenizer read back from {path} cuts {text!r} into {other}, not {one}; use --format hf"
            )
    proof.check(proof.logits_of(expected), proof.logits_of(again), prompts, str(path))
    figures = proof.compare(proof.logits_of(model), proof.logits_of(again), prompts)
    return {"tensors": len(sent), "bytes": Path(path).stat().st_size, "pre_tokenizer": words["pre"], **figures}


def _architecture(model: Any) -> str:
    config = model.config
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise UserError(f"GGUF is not written for {kind}; it is for {', '.join(ARCHITECTURES)}: use --format hf")
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        raise UserError(f"GGUF is not written for positions scaled by {rope['rope_type']!r}; use --format hf")
    window = getattr(config, "sliding_window", None)
    used = getattr(config, "use_sliding_window", kind == "mistral")
    if used and window is not None and window < config.max_position_embeddings:
        raise UserError(
            f"GGUF's {ARCHITECTURES[kind]} has no sliding window, and this model has one of {window}; use --format hf"
        )
    return ARCHITECTURES[kind]


def _tensors(model: Any, arch: str) -> Iterator[tuple[str, Tensor]]:
    """Name in the file and float32 tensor; q and k of llama in the order of llama.cpp's rotation, GPT-2's matrices transposed."""
    import gguf

    kinds = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    config = model.config
    names = gguf.get_tensor_name_map(kinds[arch], config.num_hidden_layers)
    tied = model.config.tie_word_embeddings
    for full, tensor in model.state_dict().items():
        stem, _, ending = full.rpartition(".")
        if tied and stem == "lm_head":
            continue
        new = names.get_name(stem)
        if new is None:
            raise UserError(f"GGUF has no name for the tensor {full} of {config.model_type}; use --format hf")
        new, value = f"{new}.{ending}", tensor.detach().float().cpu()
        if arch == "llama" and (".attn_q." in new or ".attn_k." in new):
            value = rotated(value, config.num_attention_heads if ".attn_q." in new else config.num_key_value_heads)
        if arch == "gpt2" and new.endswith(_TRANSPOSED):
            value = value.T
        yield new, value.contiguous()


def rotated(weight: Tensor, heads: int) -> Tensor:
    """Rows of a projection from halves (x_i with x_{i + H/2}) to neighbours (x_{2i} with x_{2i + 1}), head by head.

    Example: one head of four rows a b c d -> a c b d.
    """
    pairs = weight.view(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return pairs.transpose(1, 2).reshape(weight.shape)


def _kind_of(name: str, value: Tensor, kind: str) -> str:
    if value.dim() < 2 or name.startswith("position_embd"):
        return "f32"
    return "q8_0" if kind == "q4_0" and name in _WIDE else kind


def _write(  # noqa: PLR0913
    model: Any, tokenizer: Any, path: Path, arch: str, kind: str, name: str, words: dict[str, Any]
) -> dict[str, tuple[str, Any]]:
    """Write the file; returns what each tensor went in as, and its raw bytes."""
    import gguf
    from gguf.quants import quantize

    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_name(name)
    writer.add_file_type(_FILE_TYPES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_sizes(writer, model.config, arch)
    _add_words(writer, tokenizer, model, words)
    sent = {}
    for new, value in _tensors(model, arch):
        own = _kind_of(new, value, kind)
        if own.startswith("q") and value.shape[-1] % 32:
            raise UserError(f"{kind} goes in blocks of 32, and {new} has width {value.shape[-1]}; use f16")
        if own == "f16" and float(value.abs().max()) > 65_504:
            raise UserError(f"{new} holds a number above 65504, which f16 cannot hold; use f32 or q8_0")
        number = gguf.GGMLQuantizationType[KINDS[own]]
        raw = quantize(value.numpy(), number)
        writer.add_tensor(new, raw, raw_dtype=number)
        sent[new] = (own, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sent


def _add_sizes(writer: Any, config: Any, arch: str) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if arch == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float((config.rope_parameters or {}).get("rope_theta", 10000.0)))
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)


def vocabulary(tokenizer: Any, rows: int) -> dict[str, Any]:
    """Tokens, types, merges and the pre-tokenizer's name of a byte-level BPE.

    Raises:
        UserError: another kind of tokenizer, or one that cuts text in a way that has no name in llama.cpp.
    """
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    if core["model"].get("type") != "BPE" or core["model"].get("byte_fallback"):
        raise UserError(
            f"GGUF is written for byte-level BPE, not {core['model'].get('type')} tokenizers; use --format hf"
        )
    if core.get("normalizer") not in (None, {"type": "NFC"}):
        raise UserError("GGUF has no place for this tokenizer's normaliser; use --format hf")
    tokens = [f"[PAD{i}]" for i in range(rows)]
    types = [5] * rows  # 5 unused, 1 normal, 3 control, 4 user-defined
    for text, number in core["model"]["vocab"].items():
        tokens[number], types[number] = text, 1
    for added in core["added_tokens"]:
        tokens[added["id"]], types[added["id"]] = added["content"], 3 if added["special"] else 4
    merges = [one if isinstance(one, str) else " ".join(one) for one in core["model"]["merges"]]
    return {"tokens": tokens, "types": types, "merges": merges, "pre": _pre_tokenizer(core.get("pre_tokenizer") or {})}


def _pre_tokenizer(found: dict[str, Any]) -> str:
    """llama.cpp's name for how text is cut before merging."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    parts = found.get("pretokenizers", [found])
    kinds = [part.get("type") for part in parts]
    if kinds and kinds[-1] == "ByteLevel" and not parts[-1].get("add_prefix_space"):
        if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits") and parts[1].get("use_regex", True):
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and not parts[1].get("use_regex", True):
            for name in ("llama-bpe", "qwen2", "tekken", "gpt-4o"):
                if parts[0].get("pattern", {}).get("Regex") == GGUF_PRE_TOKENIZER_SPLITS[name]:
                    return name
    raise UserError(
        f"llama.cpp has no name for how this tokenizer cuts text ({', '.join(map(str, kinds))}); use --format hf"
    )


def _add_words(writer: Any, tokenizer: Any, model: Any, words: dict[str, Any]) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words["pre"])
    writer.add_token_list(words["tokens"])
    writer.add_token_types(words["types"])
    writer.add_token_merges(words["merges"])
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    stops = model.generation_config.eos_token_id if model.generation_config is not None else None
    stops = [stops] if isinstance(stops, int) else list(stops or [])
    last = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else next(iter(stops), None)
    if last is not None:
        writer.add_eos_token_id(last)
    turn = next((i for i in stops if i != last), None)
    if turn is not None:
        writer.add_eot_token_id(turn)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _read_back(path: Path, sent: dict[str, tuple[str, Any]]) -> None:
    """Every tensor of the file, by the gguf package, is what was sent.

    Raises:
        CheckFailed: one differs.
    """
    import numpy as np
    from gguf import GGUFReader
    from gguf.quants import dequantize

    gguf_header.check_gguf(path)
    found = {tensor.name: tensor for tensor in GGUFReader(str(path)).tensors}
    if set(found) != set(sent):
        raise CheckFailed(f"{path} holds other tensors than were written ({sorted(set(found) ^ set(sent))[0]})")
    for name, (_, raw) in sent.items():
        kind = found[name].tensor_type
        if not np.array_equal(dequantize(found[name].data, kind), dequantize(raw, kind)):
            raise CheckFailed(f"{path}: {name} read back differs from what was written")


def _rounded(model: nn.Module, again: nn.Module) -> nn.Module:
    """A copy of `model` with the numbers that the file holds, each of which is near the model's own.

    Raises:
        CheckFailed: a tensor is missing, of another shape, or further off than its blocks' steps allow.
    """
    import copy

    own, held = model.state_dict(), again.state_dict()
    for name, tensor in own.items():
        other = held.get(name)
        if other is None or other.shape != tensor.shape:
            raise CheckFailed(f"read back by transformers, {name} is missing or has another shape; use --format hf")
        most = float(tensor.float().abs().max()) if tensor.numel() else 0.0
        if float((other.float() - tensor.float()).abs().max()) > most / 7:
            raise CheckFailed(f"read back by transformers, {name} is not what was written; use --format hf")
    fresh = copy.deepcopy(model).float()
    fresh.load_state_dict({name: held[name] for name in own})
    return fresh.eval()
