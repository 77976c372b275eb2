"""Labelled texts to rows: one label, several, or a number a text; a tag a word; two texts that belong together.

Left out: chats, preferences and texts to read (prepare.py); shards on disk.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bottega.core.errors import UserError
from bottega.core.types import Conversation, Labelled, Row, Sample, Tokens
from bottega.data.intake import Intake, Ledger
from bottega.data.sources import Problem

BATCH = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """The labels of a data set in order, and how many rows (for tags: words) have each; rows in all."""

    labels: tuple[str, ...]
    counts: tuple[int, ...]
    rows: int


def name_of(label: Any) -> str:
    """A label as a name: 1, 1.0 and True are what they are called in the data, whole numbers without a point."""
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return str(label).lower() if isinstance(label, bool) else str(label)


def names_of(sample: Labelled, kind: str) -> tuple[str, ...]:
    """The labels of one sample; several for `multilabel` and `tagging`."""
    if isinstance(sample.label, tuple):
        return tuple(map(name_of, sample.label))
    return (name_of(sample.label),)


def problem_of(sample: Sample | Problem, kind: str) -> Problem | None:
    """Why a sample cannot be a row of this kind; None when it can."""
    if isinstance(sample, Problem):
        return sample
    if kind == "contrastive":
        if isinstance(sample, Conversation) and len(_sides(sample)) == 2:
            return None
        return Problem(sample.where, "expected two texts that belong together (a prompt and its completion)")
    if not isinstance(sample, Labelled):
        return Problem(sample.where, f"a {type(sample).__name__} where a labelled text is needed")
    if kind == "tagging":
        if not sample.words or not isinstance(sample.label, tuple) or len(sample.words) != len(sample.label):
            return Problem(sample.where, "expected words and a tag for each (columns `tokens` and `tags`)")
        return None
    if not sample.text.strip():
        return Problem(sample.where, "a label without a text")
    if kind == "regression":
        return None if _number(sample.label) is not None else Problem(sample.where, f"{sample.label!r} is no number")
    if kind == "classification" and isinstance(sample.label, tuple):
        return Problem(sample.where, "several labels where one is needed; use objective multilabel")
    return None


def _number(label: Any) -> float | None:
    try:
        value = float(label)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _sides(sample: Conversation) -> list[str]:
    return [turn.content for turn in sample.turns if turn.role in ("user", "assistant") and turn.content.strip()]


def survey(samples: Iterable[Sample | Problem], kind: str) -> Survey:
    """The labels that occur, in the order of their names (numbers by size).

    Raises:
        UserError: fewer than two labels (one, for `multilabel`), or more than 10,000.
    """
    counts: Counter[str] = Counter()
    rows = 0
    for sample in samples:
        if problem_of(sample, kind) is None:
            assert isinstance(sample, Labelled)
            rows += 1
            counts.update(names_of(sample, kind) if kind == "tagging" else set(names_of(sample, kind)))
    if kind in ("regression", "contrastive"):
        return Survey(labels=(), counts=(), rows=rows)
    order = sorted(counts, key=lambda name: (0, _number(name), name) if _number(name) is not None else (1, 0.0, name))
    least = 1 if kind == "multilabel" else 2
    if len(order) < least:
        found = f"only {order[0]!r}" if order else "none"
        raise UserError(f"the data has {len(order)} labels ({found}); {kind} needs at least {least}")
    if len(order) > 10_000:
        raise UserError(f"the data has {len(order):,} labels; for numbers use objective regression")
    return Survey(labels=tuple(order), counts=tuple(counts[name] for name in order), rows=rows)


def balanced(found: Survey, kind: str) -> tuple[float, ...]:
    """Weights that make all labels count alike: n / (C n_c); for `multilabel`, rows without the label over rows with it.

    Counts 90 and 10 -> 100 / (2 * 90) = 0.5556 and 100 / (2 * 10) = 5.
    """
    if kind == "multilabel":
        return tuple((found.rows - count) / count for count in found.counts)
    total = sum(found.counts)
    return tuple(total / (len(found.counts) * count) for count in found.counts)


def rows(
    samples: Iterable[Sample | Problem],
    tokenizer: Any,
    *,
    kind: str,
    labels: Sequence[str] = (),
    max_tokens: int,
    over_length: str = "error",
    allow_loss: int | None = None,
) -> tuple[list[Row], Intake]:
    """Rows with their labels, and the account of what was read.

    A label's number lies in the extra `label` (`label.0` ... for several at once, `label` of the tokens for tags).

    Args:
        kind: classification, multilabel, regression, tagging or contrastive. labels: names in the order of the head.
        over_length: of longer texts: error, drop or truncate.

    Raises:
        UserError: a row is too long under `error`, more are lost than allowed, or none is left.
    """
    if over_length == "split":
        raise UserError("a labelled text cannot be split into windows; set over_length to error, drop or truncate")
    ledger = Ledger(allow_loss)
    number = {name: i for i, name in enumerate(labels)}
    made: list[Row] = []
    waiting: list[Any] = []

    def flush() -> None:
        for sample, row in zip(waiting, _encode(waiting, tokenizer, kind, number)):
            fitted = _fit(sample, row, max_tokens, over_length, ledger, tokenizer)
            if fitted is not None:
                made.append(Row(index=len(made), branches=fitted[0], extras=fitted[1], tokens=fitted[2]))
        waiting.clear()

    for sample in samples:
        ledger.saw(sample.where)
        problem = problem_of(sample, kind) or _unknown(sample, kind, number)
        if problem is not None:
            ledger.problem(problem)
            continue
        waiting.append(sample)
        if len(waiting) == BATCH:
            flush()
    flush()
    tokens = sum(row.num_tokens for row in made)
    trained = sum(int(np.count_nonzero(b.trains)) for row in made for b in row.branches)
    return made, ledger.close(taken=len(made), tokens=tokens, trained=trained)


def bare(
    texts: Sequence[str], tokenizer: Any, *, max_tokens: int, words: Sequence[Sequence[str]] | None = None
) -> tuple[list[Row], int]:
    """Rows of texts without labels, cut to `max_tokens`, and how many were cut; with `words` each word's first token is asked for.

    Raises:
        UserError: an empty text.
    """
    for number, text in enumerate(texts):
        if not text.strip():
            raise UserError(f"text {number} is empty; leave it out")
    if words is None:
        encoded = [(ids, [0.0] * len(ids), 0) for ids in encode(texts, tokenizer)]
    else:
        encoded = []
        for own in words:
            (ids,), (trains,), _, numbers = _tagged(own, ["?"] * len(own), tokenizer, {"?": 0})
            encoded.append((ids, trains, len(numbers["label"])))
    made, num_cut = [], 0
    for number, (ids, trains, num_tags) in enumerate(encoded):
        kept = cut(ids, max_tokens, tokenizer)
        num_cut += len(kept) < len(ids)
        trains = trains if len(kept) == len(ids) else [*trains[: len(kept) - 1], 0.0]
        asked = {"label": [0.0] * int(sum(trains))} if num_tags else {}
        made.append(Row(index=number, branches=(_compact(kept, trains),), tokens=asked))
    return made, num_cut


def words_of(sample: Labelled) -> tuple[str, ...]:
    """The words that a sample gives, or its text at its spaces."""
    return sample.words or tuple(sample.text.split())


def _compact(ids: Sequence[int], trains: Sequence[float]) -> Tokens:
    packed: Any = (np.asarray(ids, dtype=np.int32), np.asarray(trains, dtype=np.float32))
    return Tokens(*packed)


def _unknown(sample: Any, kind: str, number: dict[str, int]) -> Problem | None:
    if kind in ("regression", "contrastive"):
        return None
    strange = next((name for name in names_of(sample, kind) if name not in number), None)
    if strange is None:
        return None
    return Problem(sample.where, f"the label {strange!r} is not one of {', '.join(list(number)[:8])}")


Made = tuple[list[list[int]], list[list[float]], dict[str, list[float]], dict[str, list[float]]]
"""Ids and weights of the branches, extras, and numbers of the supervised tokens."""


def _encode(samples: Sequence[Any], tokenizer: Any, kind: str, number: dict[str, int]) -> list[Made]:
    if not samples:
        return []
    if kind == "contrastive":
        flat = encode([side for sample in samples for side in _sides(sample)], tokenizer)
        return [([a, b], [[0.0] * len(a), [0.0] * len(b)], {}, {}) for a, b in zip(flat[::2], flat[1::2])]
    if kind == "tagging":
        return [_tagged(s.words, names_of(s, "tagging"), tokenizer, number) for s in samples]
    made: list[Made] = []
    for sample, ids in zip(samples, encode([sample.text for sample in samples], tokenizer)):
        if kind == "regression":
            extras = {"label": [float(sample.label)]}
        elif kind == "classification":
            extras = {"label": [float(number[name_of(sample.label)])]}
        else:
            own = {number[name] for name in names_of(sample, kind)}
            extras = {f"label.{c}": [float(c in own)] for c in range(len(number))}
        made.append(([ids], [[0.0] * len(ids)], extras, {}))
    return made


def encode(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Ids as the tokenizer itself makes them, with the marks it puts around a text."""
    return [list(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"]]


def _tagged(words: Sequence[str], named: Sequence[str], tokenizer: Any, number: dict[str, int]) -> Made:
    """The first token of each word carries its tag."""
    starts, at = [], 0
    for word in words:
        starts.append(at)
        at += len(word) + 1
    encoded = tokenizer(" ".join(words), return_offsets_mapping=True, verbose=False)
    offsets = encoded["offset_mapping"]
    trains, tags, place = [0.0] * len(offsets), [], 0
    for start, word, tag in zip(starts, words, named):
        while place < len(offsets) and offsets[place][1] <= start:
            place += 1
        if place < len(offsets) and offsets[place][0] < start + len(word):
            trains[place] = 1.0
            tags.append(float(number[tag]))
            place += 1
    return [list(encoded["input_ids"])], [trains], {}, {"label": tags}


def _fit(
    sample: Any, row: Made, max_tokens: int, over_length: str, ledger: Ledger, tokenizer: Any
) -> tuple[tuple[Tokens, ...], dict[str, list[float]], dict[str, list[float]]] | None:
    branches, weights, extras, tokens = row
    longest = max(map(len, branches))
    if longest > max_tokens:
        if over_length == "error":
            raise UserError(
                f"{sample.where} has {longest:,} tokens, above max_tokens {max_tokens:,}; set over_length to drop or truncate, or "
                f"raise max_tokens"
            )
        if over_length == "drop":
            ledger.drop(sample.where, f"longer than max_tokens {max_tokens}")
            ledger.tokens_lost += sum(map(len, branches))
            return None
        ledger.cut += 1
        ledger.tokens_lost += sum(max(0, len(ids) - max_tokens) for ids in branches)
        branches = [cut(ids, max_tokens, tokenizer) for ids in branches]
        weights = [own[: max_tokens - 1] + [0.0] * (len(own) >= max_tokens) for own in weights]
        if tokens:
            tokens = {"label": tokens["label"][: int(sum(weights[0]))]}
    if tokens and not tokens["label"]:
        ledger.drop(sample.where, "no word with a tag within max_tokens")
        return None
    return tuple(_compact(ids, own) for ids, own in zip(branches, weights)), extras, tokens


def cut(ids: list[int], max_tokens: int, tokenizer: Any) -> list[int]:
    """The first `max_tokens` ids, the mark at a text's end kept."""
    if len(ids) <= max_tokens:
        return ids
    ends = {tokenizer.sep_token_id, tokenizer.eos_token_id} - {None}
    return [*ids[: max_tokens - 1], ids[-1] if ids[-1] in ends else ids[max_tokens - 1]]
