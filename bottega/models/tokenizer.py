"""Vocabularies from text: byte-level BPE and byte-level unigram, saved as Hugging Face folders; and growing one that
exists.

Left out: normalising text. Whatever goes in comes out: encode then decode gives every text back, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bottega.core.errors import UserError

if TYPE_CHECKING:
    from bottega.models.layers import Model

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
    from tokenizers import AddedToken, decoders, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = specials or Specials()
    named = specials.tokens()
    if vocab < MIN_VOCAB + len(named):
        raise UserError(
            f"vocab {vocab} is too small: 256 bytes and {len(named)} special tokens need {MIN_VOCAB + len(named)}"
        )
    if kind not in LEARNERS:
        raise UserError(f"tokenizer kind {kind!r} is not one of {', '.join(LEARNERS)}")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    splitter = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level]) if digits else level
    counted = _Counted(texts)
    special = [AddedToken(text, normalized=False, special=True) for text in named]
    core = LEARNERS[kind](counted, splitter, vocab, special)
    if not counted.num_characters:
        raise UserError("there is no text to learn a vocabulary from; check the paths")
    core.add_special_tokens(special)
    core.decoder = decoders.ByteLevel()
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


def _alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _learn_bpe(texts: Iterable[str], splitter: Any, vocab: int, special: Sequence[Any]) -> Any:
    from tokenizers import Tokenizer, models, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = splitter
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=list(special), initial_alphabet=_alphabet(), show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    return core


def _learn_unigram(texts: Iterable[str], splitter: Any, vocab: int, special: Sequence[Any]) -> Any:
    from tokenizers import Tokenizer, models

    from bottega.models.unigram import count_words, learn_pieces

    words = count_words([word for word, _ in splitter.pre_tokenize_str(text)] for text in texts)
    pieces = learn_pieces(words, size=vocab - len(special), alphabet=_alphabet())
    core = Tokenizer(models.Unigram([(token.content, 0.0) for token in special] + pieces))
    core.pre_tokenizer = splitter
    return core


LEARNERS: dict[str, Any] = {"bpe": _learn_bpe, "unigram": _learn_unigram}
"""Kind of vocabulary -> function(texts, splitter, vocab, special tokens) -> a tokenizers.Tokenizer."""


def num_rows(tokenizer: Any) -> int:
    """How many embeddings a model for this tokenizer gets: its length, rounded up to a multiple of 128."""
    return -(-len(tokenizer) // PAD_TO) * PAD_TO


def extend_model(model: Model, tokenizer: Any) -> list[int]:
    """Give `model` an embedding for every token of a tokenizer that has grown; new rows start at the mean of the old
    ones.

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
