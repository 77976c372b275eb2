"""Vocabularies from text: byte-level BPE and byte-level unigram, saved as Hugging Face folders; and growing one that exists.

Left out: normalising text. Whatever goes in comes out: encode then decode gives every text back, byte for byte.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bottega.core.errors import UserError

if TYPE_CHECKING:
    from torch import nn

MIN_VOCAB = 256
PAD_TO = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Specials:
    """Special tokens by role; None leaves the role empty. `more` are further ones (turn markers and the like)."""

    eos: str = "<|end|>"
    bos: str | None = None
    pad: str | None = "<|pad|>"
    more: tuple[str, ...] = ("<|im_start|>", "<|im_end|>")

    def tokens(self) -> list[str]:
        """All of them, each once: they take the ids from 0."""
        return list(dict.fromkeys(text for text in (self.pad, self.bos, self.eos, *self.more) if text))


def train(
    texts: Iterable[str],
    *,
    vocab: int,
    kind: Literal["bpe", "unigram"] = "bpe",
    specials: Specials | None = None,
    digits: bool = True,
    chat_template: str | None = None,
) -> Any:
    """Learn a vocabulary from texts; the same texts in the same order give the same file.

    Args:
        vocab: number of tokens wanted, special ones included; small texts may give fewer.
        kind: `bpe` merges the most frequent pair (Sennrich et al. 2016, arXiv 1508.07909); `unigram` prunes a large set
            to the likeliest one (Kudo 2018, arXiv 1804.10959). Both on bytes, so that no text is unknown.
        digits: every digit is a token of its own (numbers are then read place by place).
        chat_template: Jinja, stored with the tokenizer.

    Returns:
        A transformers tokenizer; `save_pretrained(folder)` writes the folder.

    Raises:
        UserError: vocab is too small, there is no text, or the kind is unknown.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = specials or Specials()
    named = specials.tokens()
    if vocab < MIN_VOCAB + len(named):
        raise UserError(f"vocab {vocab} is too small: 256 bytes and {len(named)} special tokens need {MIN_VOCAB + len(named)}")
    if kind not in ("bpe", "unigram"):
        raise UserError(f"tokenizer kind {kind!r} is not one of bpe, unigram")
    core = Tokenizer(models.BPE() if kind == "bpe" else models.Unigram())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level]) if digits else level
    core.decoder = decoders.ByteLevel()
    counted = _Counted(texts)
    with _one_thread():
        core.train_from_iterator(counted, _trainer(kind, vocab, named))
    if not counted.num_characters:
        raise UserError("there is no text to learn a vocabulary from; check the paths")
    core.post_processor = processors.ByteLevel(trim_offsets=False)
    if specials.bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{specials.bos} $A",
            pair=f"{specials.bos} $A {specials.bos} $B",
            special_tokens=[(specials.bos, core.token_to_id(specials.bos))],
        )
    roles = {"eos_token": specials.eos, "bos_token": specials.bos, "pad_token": specials.pad or specials.eos}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=list(specials.more),
        **{role: text for role, text in roles.items() if text},
    )
    tokenizer.chat_template = chat_template
    return tokenizer


class _Counted:
    """Passes texts on and counts their characters."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts, self.num_characters = texts, 0

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            self.num_characters += len(text)
            yield text


def _trainer(kind: str, vocab: int, named: Sequence[str]) -> Any:
    from tokenizers import AddedToken, pre_tokenizers, trainers

    special = [AddedToken(text, normalized=False, special=True) for text in named]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if kind == "bpe":
        return trainers.BpeTrainer(vocab_size=vocab, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    return trainers.UnigramTrainer(
        vocab_size=vocab, special_tokens=special, initial_alphabet=alphabet, show_progress=False, shrinking_factor=0.75
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Train in one thread: sums in a fixed order, the same vocabulary every time."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("TOKENIZERS_PARALLELISM")
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def num_rows(tokenizer: Any) -> int:
    """How many embeddings a model for this tokenizer gets: its length, rounded up to a multiple of 128."""
    return -(-len(tokenizer) // PAD_TO) * PAD_TO


def extend_model(model: nn.Module, tokenizer: Any) -> list[int]:
    """Give `model` an embedding for every token of a tokenizer that has grown; new rows start at the mean of the old ones.

    Rows are padded to a multiple of 128; old rows are untouched, so that old text gives the logits it gave.

    Returns:
        The ids of the tokens that are new (for `lora new_tokens`); empty if the model has room for all.
    """
    import torch

    from bottega.models import layers

    old = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) <= old:
        return []
    model.resize_token_embeddings(num_rows(tokenizer), mean_resizing=False)
    matrices = [model.get_input_embeddings().weight]
    if not layers.is_tied(model) and model.get_output_embeddings() is not None:
        matrices.append(model.get_output_embeddings().weight)
    with torch.no_grad():
        for matrix in matrices:
            matrix[old:] = matrix[:old].float().mean(0).to(matrix.dtype)
        bias = getattr(model.get_output_embeddings(), "bias", None)
        if bias is not None:
            bias[old:] = bias[:old].mean()
    return list(range(old, len(tokenizer)))
