"""A tokenizer in a GGUF file, and back: byte-level BPE as `gpt2`, sentencepiece's BPE with bytes as `llama`.

Left out: unigram and WordPiece vocabularies, which have no place there that is read back here.

`llama` keeps no merges: of two neighbours that together are a token those merge first whose token has the higher score, so that a
token's score here is minus the first rank of the merges that make it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bottega.core.errors import UserError
from bottega.models.exports.gguf_header import damaged

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
MARK = "▁"
"""What sentencepiece writes for a space."""
_LIKE_GPT2 = ("gpt-2", "phi-2", "olmo")
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r")
_WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "tekken")
"""llama.cpp's names for how text is cut before merging; the last take a piece that is a token without merging."""


def vocabulary(tokenizer: Any, rows: int) -> dict[str, Any]:
    """Model (gpt2 or llama), tokens, types, and merges with the pre-tokenizer's name, or scores with whether a space comes first.

    Raises:
        UserError: another kind of tokenizer, or one that cuts text in a way that has no name in llama.cpp.
    """
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    if core["model"].get("type") != "BPE":
        raise UserError(f"GGUF is written for BPE, not {core['model'].get('type')} tokenizers; use --format hf")
    tokens = [f"[PAD{i}]" for i in range(rows)]
    types = [UNUSED] * rows
    for text, number in core["model"]["vocab"].items():
        tokens[number], types[number] = text, NORMAL
    added = {one["id"]: one for one in core["added_tokens"]}
    for number, one in added.items():
        tokens[number], types[number] = one["content"], CONTROL if one["special"] else USER_DEFINED
    merges = [one if isinstance(one, list) else one.split(" ") for one in core["model"]["merges"]]
    found = {"tokens": tokens, "types": types}
    if core["model"].get("byte_fallback"):
        return found | _scored(core, tokens, types, merges)
    if core.get("normalizer") not in (None, {"type": "NFC"}):
        raise UserError("GGUF has no place for this tokenizer's normaliser; use --format hf")
    pre = _name_of(core.get("pre_tokenizer") or {})
    return found | {"model": "gpt2", "merges": [" ".join(one) for one in merges], "pre": pre}


def _name_of(found: dict[str, Any]) -> str:
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


def _scored(core: dict[str, Any], tokens: list[str], types: list[int], merges: list[list[str]]) -> dict[str, Any]:
    """Scores of a sentencepiece vocabulary; bytes and the unknown token get their types."""
    prefix = _prefix(core)
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    unknown = core["model"].get("unk_token")
    for number, text in enumerate(tokens):
        if types[number] != UNUSED and len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            types[number] = BYTE
        elif text == unknown:
            types[number] = UNKNOWN
    plain = (NORMAL, USER_DEFINED)
    scores = [
        -float(ranks.get(text, len(merges) + at)) if kind in plain else 0.0
        for at, (text, kind) in enumerate(zip(tokens, types))
    ]
    return {"model": "llama", "scores": scores, "prefix": prefix, "pre": "default"}


def _prefix(core: dict[str, Any]) -> bool:
    """Whether a space is put before a text.

    Raises:
        UserError: spaces are treated in another way than sentencepiece's own.
    """
    swap = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
    normal, cut = core.get("normalizer"), core.get("pre_tokenizer")
    steps = normal.get("normalizers", [normal]) if normal else []
    if cut is None and steps == [{"type": "Prepend", "prepend": MARK}, swap]:
        return True
    split = cut is not None and cut.get("type") == "Split" and cut.get("pattern") == {"String": " "}
    if steps == [swap] and (cut is None or split):  # Gemma's splits at spaces of which none is left
        return False
    if not steps and cut is not None and cut.get("type") == "Metaspace" and not cut.get("split"):
        return bool(cut.get("prepend_scheme") != "never")
    raise UserError("GGUF has no place for how this tokenizer treats spaces; use --format hf")


def add_words(writer: Any, tokenizer: Any, model: Any, words: dict[str, Any]) -> None:
    """The vocabulary, its special tokens and the chat template as keys of the file."""
    writer.add_tokenizer_model(words["model"])
    writer.add_tokenizer_pre(words["pre"])
    writer.add_token_list(words["tokens"])
    writer.add_token_types(words["types"])
    if words["model"] == "gpt2":
        writer.add_token_merges(words["merges"])
    else:
        writer.add_token_scores(words["scores"])
        writer.add_add_space_prefix(words["prefix"])
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
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


def tokenizer_of(path: Path, keys: dict[str, Any]) -> Any:
    """The tokenizer that the keys of a GGUF file describe.

    It is built here, token by token, because transformers' reader adds tokens of its own, knows fewer ways to cut text, leaves the
    first token out and always puts a space first.

    Raises:
        UserError: a kind of vocabulary, or a way to cut text, that is not known here. Unsafe: ids outside the vocabulary.
    """
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    model, tokens = keys.get("tokenizer.ggml.model"), keys["tokenizer.ggml.tokens"]
    if model not in ("gpt2", "llama"):
        raise UserError(f"{path} has a vocabulary of the kind {model!r}; GGUF is read here with gpt2 and llama")
    types = keys.get("tokenizer.ggml.token_type") or []
    types = [*types, *[NORMAL] * (len(tokens) - len(types))]
    names = _special(path, keys, tokens)
    core = (_byte_level if model == "gpt2" else _sentencepiece)(path, keys, tokens, types)
    core.add_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, types) if kind == USER_DEFINED])
    control = [t for t, kind in zip(tokens, types) if kind == CONTROL]
    control += [t for t, kind in zip(tokens, types) if kind == UNKNOWN]
    core.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
    if model == "gpt2":
        core.post_processor = processors.ByteLevel(trim_offsets=False)
    if keys.get("tokenizer.ggml.add_bos_token", model == "llama") and "bos_token" in names:
        first = names["bos_token"]
        core.post_processor = processors.TemplateProcessing(
            single=[first, "$A"], pair=[first, "$A", first, "$B"], special_tokens=[(first, core.token_to_id(first))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **names)


def _special(path: Path, keys: dict[str, Any], tokens: list[str]) -> dict[str, str]:
    names = {}
    for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown")):
        number = keys.get(f"tokenizer.ggml.{key}_token_id")
        if number is not None:
            if type(number) is not int or not 0 <= number < len(tokens):
                raise damaged(path, f"its {name} {number!r} is none of its {len(tokens)} tokens")
            names[name] = tokens[number]
    return names


def _byte_level(path: Path, keys: dict[str, Any], tokens: list[str], types: list[int]) -> Any:
    from tokenizers import Tokenizer, decoders, models

    pre = keys.get("tokenizer.ggml.pre", "gpt-2")
    merges = [tuple(merge.split(" ")) for merge in keys.get("tokenizer.ggml.merges") or []]
    if any(len(merge) != 2 for merge in merges):
        raise damaged(path, "a merge is no pair of tokens")
    vocab = {token: number for number, (token, kind) in enumerate(zip(tokens, types)) if kind != UNUSED}
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre in _WHOLE_WORDS))
    core.pre_tokenizer, core.decoder = _cut_by(path, pre), decoders.ByteLevel()
    return core


def _sentencepiece(path: Path, keys: dict[str, Any], tokens: list[str], types: list[int]) -> Any:
    """Merges from scores: each way to make a token of two others, the highest score first."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = keys.get("tokenizer.ggml.scores") or []
    if len(scores) != len(tokens):
        raise damaged(path, f"it has {len(scores)} scores for {len(tokens)} tokens")
    vocab = {token: number for number, (token, kind) in enumerate(zip(tokens, types)) if kind != UNUSED}
    plain = {token for token, kind in zip(tokens, types) if kind in (NORMAL, USER_DEFINED)}
    pairs = [
        (-scores[number], vocab[token[:at]], vocab[token[at:]], token[:at], token[at:])
        for number, (token, kind) in enumerate(zip(tokens, types))
        if kind == NORMAL
        for at in range(1, len(token))
        if token[:at] in plain and token[at:] in plain
    ]
    merges = [(left, right) for *_, left, right in sorted(pairs)]
    unknown = next((token for token, kind in zip(tokens, types) if kind == UNKNOWN), None)
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix = keys.get("tokenizer.ggml.add_space_prefix", True)
    swap = normalizers.Replace(" ", MARK)
    core.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), swap]) if prefix else swap
    steps = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    return core


def _cut_by(path: Path, pre: str) -> Any:
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
