"""A GGUF file as a transformers model with its tokenizer: transformers' own reader, after the file was checked.

Left out: running on the quantised blocks (they are dequantised at load), and architectures that transformers does not read.
"""

from __future__ import annotations

from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from bottega.core.errors import UserError
from bottega.models.exports.gguf_header import Header, check_gguf, damaged
from bottega.models.layers import Model

FAMILIES = ("llama", "qwen2", "qwen3", "gpt2")
"""general.architecture of the files that are written and read here, each proven on tokens; mistral writes itself as llama."""
_LIKE_GPT2 = ("gpt-2", "phi-2", "olmo")
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r")
_WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "tekken")
"""llama.cpp's names for how text is cut before merging; the last take a piece that is a token without merging."""
CONTROL, USER_DEFINED, UNUSED = 3, 4, 5


def load_gguf(path: str | Path, *, dtype: torch.dtype) -> tuple[Model, Any]:
    """The model and tokenizer of a GGUF file.

    Raises:
        Unsafe: the file is damaged, forged or oversized; a library never saw it. UserError: an architecture that is not
        read here, or the gguf package is missing.
    """
    path = Path(path)
    header = check_gguf(path)
    if header.architecture not in FAMILIES:
        raise UserError(
            f"{path} holds the architecture {header.architecture!r}; GGUF is read here for {', '.join(FAMILIES)}"
        )
    _check_sizes(path, header)
    require_gguf()
    from transformers import AutoModelForCausalLM

    from bottega.models.load import plainly
    from bottega.models.plain import quiet_bars

    with plainly(path), quiet_bars(), redirect_stderr(StringIO()):  # its bar does not ask
        both: Any = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    model, info = both
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(f"{path} lacks {len(missing)} tensors of its architecture ({missing[0]} ...); use a whole file")
    ends = {header.keys.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot")}
    model.generation_config.eos_token_id = sorted(end for end in ends if type(end) is int) or None
    return model.eval(), load_gguf_tokenizer(path, header)


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
    if blocks and (up is None or feed != up[0][0]):
        raise damaged(path, f"it claims a feed-forward width of {feed} and holds {None if up is None else up[0][0]}")
    heads, keyed = keys.get(f"{kind}.attention.head_count"), keys.get(f"{kind}.attention.head_count_kv", 1)
    lengths = (heads, keyed, keys.get(f"{kind}.context_length"))
    if any(type(n) is not int or not 0 < n <= 1 << 28 for n in lengths) or max(heads, keyed) > width:
        raise damaged(path, f"its numbers of heads and its context {lengths} are out of range")


def load_gguf_tokenizer(path: str | Path, header: Header) -> Any:
    """The tokenizer that a GGUF file describes.

    A byte-level BPE is built here, token by token, because transformers' reader adds tokens of its own, knows fewer ways
    to cut text and leaves the first token out; a sentencepiece vocabulary is transformers' to read.

    Raises:
        UserError: it cuts text in a way that is not known here. Unsafe: ids outside the vocabulary.
    """
    from transformers import AutoTokenizer

    from bottega.models.load import plainly

    path, keys = Path(path), header.keys
    with plainly(path):
        if keys.get("tokenizer.ggml.model") == "gpt2":
            tokenizer = _byte_level(path, keys)
        else:
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    template = keys.get("tokenizer.chat_template")
    tokenizer.chat_template = template if isinstance(template, str) else None
    return tokenizer


def _byte_level(path: Path, keys: dict[str, Any]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, processors
    from transformers import PreTrainedTokenizerFast

    tokens, types = keys["tokenizer.ggml.tokens"], keys.get("tokenizer.ggml.token_type") or []
    types = [*types, *[1] * (len(tokens) - len(types))]
    pre = keys.get("tokenizer.ggml.pre", "gpt-2")
    merges = [tuple(merge.split(" ")) for merge in keys.get("tokenizer.ggml.merges") or []]
    if any(len(merge) != 2 for merge in merges):
        raise damaged(path, "a merge is no pair of tokens")
    vocab = {token: number for number, (token, kind) in enumerate(zip(tokens, types)) if kind != UNUSED}
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre in _WHOLE_WORDS))
    core.pre_tokenizer, core.decoder = _pre_tokenizer(path, pre), decoders.ByteLevel()
    core.add_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, types) if kind == USER_DEFINED])
    core.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t, kind in zip(tokens, types) if kind == CONTROL]
    )
    names = {}
    for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown")):
        number = keys.get(f"tokenizer.ggml.{key}_token_id")
        if number is not None:
            if type(number) is not int or not 0 <= number < len(tokens):
                raise damaged(path, f"its {name} {number!r} is none of its {len(tokens)} tokens")
            names[name] = tokens[number]
    core.post_processor = processors.ByteLevel(trim_offsets=False)
    if keys.get("tokenizer.ggml.add_bos_token") and "bos_token" in names:
        first = names["bos_token"]
        core.post_processor = processors.TemplateProcessing(
            single=[first, "$A"], pair=[first, "$A", first, "$B"], special_tokens=[(first, vocab[first])]
        )
    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **names)


def _pre_tokenizer(path: Path, pre: str) -> Any:
    """How text is cut before merging, by llama.cpp's name for it."""
    from tokenizers import Regex, pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    if pre in _LIKE_GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pre in _SINGLE_DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if pre not in GGUF_PRE_TOKENIZER_SPLITS:
        known = ", ".join(sorted({*_LIKE_GPT2, *_SINGLE_DIGITS, *GGUF_PRE_TOKENIZER_SPLITS}))
        raise UserError(f"{path} cuts text as {pre!r}, which is not read here; there are: {known}")
    cut = pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[pre]), behavior="isolated")
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def require_gguf() -> None:
    """Raises UserError where the gguf package is missing."""
    import importlib.util

    if importlib.util.find_spec("gguf") is None:
        raise UserError("GGUF needs the package gguf: pip install 'bottega[export]'")
