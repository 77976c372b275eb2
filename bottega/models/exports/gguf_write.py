"""A model as one GGUF file, for llama.cpp and what is built on it: f32, f16, q8_0 or q4_0.

Left out: K-quants and importance matrices (llama.cpp's own quantiser makes them from f16); how families and vocabularies lie in the
file (gguf_shapes.py, gguf_words.py).

Norms and biases stay float32; q4_0 keeps embeddings and head in q8_0. A block of q8_0 is 32 numbers with one scale d = max|x| / 127,
of q4_0 with d = max|x| / -8; the gguf package quantises.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bottega.core.errors import CheckFailed, UserError
from bottega.models.exports import gguf_header, proof
from bottega.models.exports.gguf_read import load_gguf, require_gguf
from bottega.models.exports.gguf_shapes import Family, add_sizes, family_of, tensors
from bottega.models.exports.gguf_words import add_words, vocabulary

KINDS = {"f32": "F32", "f16": "F16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
_FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7}
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
    family = family_of(model.config)
    words = vocabulary(tokenizer, model.config.vocab_size)
    sent = _write(model, tokenizer, Path(path), family, kind, name, words)
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
    return {
        "tensors": len(sent),
        "bytes": Path(path).stat().st_size,
        "vocabulary": words["model"],
        "pre_tokenizer": words["pre"],
        **figures,
    }


def _kind_of(name: str, value: Tensor, kind: str) -> str:
    if value.dim() < 2 or name.startswith("position_embd"):
        return "f32"
    return "q8_0" if kind == "q4_0" and name in _WIDE else kind


def _write(  # noqa: PLR0913
    model: Any, tokenizer: Any, path: Path, family: Family, kind: str, name: str, words: dict[str, Any]
) -> dict[str, tuple[str, Any]]:
    """Write the file; returns what each tensor went in as, and its raw bytes."""
    import gguf
    from gguf.quants import quantize

    writer = gguf.GGUFWriter(str(path), family.arch)
    writer.add_name(name)
    writer.add_file_type(_FILE_TYPES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_sizes(writer, model.config, family)
    add_words(writer, tokenizer, model, words)
    sent = {}
    for new, value in tensors(model, family):
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
