"""Tokenizers of this room's tests: byte-level, with the special tokens of the well-known formats as single tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SPECIALS = (
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|start_of_role|>",
    "<|end_of_role|>",
    "<|end_of_text|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|end|>",
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
)


def byte_tokenizer(*, bos: str | None = "<s>", eos: str = "</s>", pad: str | None = None, adds_bos: bool = True) -> Any:
    """A tokenizer whose tokens are bytes and SPECIALS; with `adds_bos` it puts `bos` in front of a text by itself."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in SPECIALS])
    if bos and adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, core.token_to_id(bos))]
        )
    names = {"eos_token": eos, "pad_token": pad or eos} | ({"bos_token": bos} if bos else {})
    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **names)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Bytes and specials; BOS <s> put in front by itself; pad = eos = </s>."""
    return byte_tokenizer()


@pytest.fixture(scope="session")
def bare_tokenizer() -> Any:
    """Bytes and specials, no BOS; eos <|im_end|> is the pad too."""
    return byte_tokenizer(bos=None, eos="<|im_end|>")


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """write(name, rows or text or bytes) -> path; rows become jsonl."""

    def put(name: str, content: Any) -> Path:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8", newline="")
        elif name.endswith(".json"):
            path.write_text(json.dumps(content), encoding="utf-8")
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        return path

    return put


def trained(encoded: Any, tokenizer: Any) -> list[str]:
    """The trained stretches of Tokens, as texts."""
    stretches: list[list[int]] = [[]]
    for token, weight in zip(encoded.ids, encoded.trains):
        if weight > 0:
            stretches[-1].append(token)
        elif stretches[-1]:
            stretches.append([])
    return [tokenizer.decode(ids) for ids in stretches if ids]
