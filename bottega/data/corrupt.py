"""Texts with parts hidden, to be found again: what encoders and encoder-decoders learn from in pretraining.

Left out: when a text is hidden anew (train/corrupted.py), and sentence permutation (BART's second noise).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bottega.core.errors import UserError
from bottega.core.types import Row, Tokens

MEAN_SPAN = 3.0
"""Tokens of a hidden span (Raffel et al. 2020, section 3.3.4; Lewis et al. 2020, section 2.2)."""
NOISE = {"masked": 0.15, "spans": 0.15, "infilled": 0.3}
"""The share of tokens that is hidden where nobody says otherwise, as the papers have it."""

Corrupt = Callable[[Row, np.random.Generator], Row]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """What a tokenizer puts around a text, and what hides parts of it. front, back: ids around every text; start: with which an
    encoder-decoder begins to write; plain: the ids that may stand in for others."""

    front: tuple[int, ...]
    back: tuple[int, ...]
    start: tuple[int, ...]
    mask: int | None
    sentinels: tuple[int, ...]
    plain: np.ndarray

    @classmethod
    def of(cls, tokenizer: Any, start: Sequence[int] = ()) -> Marks:
        """Found by tokenising a text with marks and without."""
        bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
        whole = list(tokenizer("a")["input_ids"])
        at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        special = set(tokenizer.all_special_ids)
        named = [
            (name, number) for name, number in tokenizer.get_vocab().items() if re.fullmatch(r"<extra_id_\d+>", name)
        ]
        order = sorted(named, key=lambda one: int(re.sub(r"\D", "", one[0])))
        sentinels = tuple(number for _, number in order)
        plain = np.array(sorted(set(range(len(tokenizer))) - special - set(sentinels)), dtype=np.int32)
        return cls(
            front=tuple(whole[:at]),
            back=tuple(whole[at + len(bare) :]),
            start=tuple(start),
            mask=tokenizer.mask_token_id,
            sentinels=sentinels,
            plain=plain,
        )

    @property
    def around(self) -> int:
        """Ids that a text gets in addition."""
        return len(self.front) + len(self.back)

    def inner(self, ids: np.ndarray) -> np.ndarray:
        """A text's own ids, without marks at its ends."""
        outer = {*self.front, *self.back}
        first, last = 0, len(ids)
        while first < last and int(ids[first]) in outer:
            first += 1
        while last > first and int(ids[last - 1]) in outer:
            last -= 1
        return ids[first:last]


def corruption(kind: str, marks: Marks, noise: float | None = None) -> Corrupt:
    """How texts are hidden for an encoder (`encoder`) or for an encoder-decoder.

    Args:
        noise: share of tokens that is hidden; None: 0.15, and 0.3 for infilling.

    Raises:
        UserError: the tokenizer has nothing to hide a text behind.
    """
    if kind == "encoder":
        if marks.mask is None:
            raise UserError("the tokenizer has no mask token, which masked language modelling needs; add one to it")
        return lambda row, rng: masked(row, rng, marks, NOISE["masked"] if noise is None else noise)
    if len(marks.sentinels) > 1:
        return lambda row, rng: spans_hidden(row, rng, marks, NOISE["spans"] if noise is None else noise)
    if marks.mask is not None:
        return lambda row, rng: infilled(row, rng, marks, NOISE["infilled"] if noise is None else noise)
    raise UserError("the tokenizer has neither sentinels (<extra_id_0> ...) nor a mask token to hide spans behind")


def masked(row: Row, rng: np.random.Generator, marks: Marks, noise: float) -> Row:
    """Tokens drawn at random are asked for; of these 80 percent are masked, 10 percent replaced, 10 percent left.

    Devlin et al. 2019 (arXiv 1810.04805), section 3.1; drawn anew at every visit as in Liu et al. 2019 (arXiv 1907.11692), section 4.1.
    """
    assert marks.mask is not None
    own = marks.inner(np.asarray(row.branches[0].ids))
    count = max(1, round(noise * len(own)))
    chosen = np.sort(rng.choice(len(own), size=min(count, len(own)), replace=False))
    seen, fate = own.astype(np.int32).copy(), rng.random(len(chosen))
    seen[chosen[fate < 0.8]] = marks.mask
    strange = chosen[(fate >= 0.8) & (fate < 0.9)]
    seen[strange] = rng.choice(marks.plain, size=len(strange))
    ids = np.concatenate([marks.front, seen, marks.back]).astype(np.int32)
    trains = np.zeros(len(ids), dtype=np.float32)
    trains[len(marks.front) + chosen] = 1.0
    asked = own[chosen].astype(np.float32)
    return dataclasses.replace(row, branches=(_tokens(ids, trains),), tokens={"label": asked})  # type: ignore[dict-item]


def spans_hidden(row: Row, rng: np.random.Generator, marks: Marks, noise: float) -> Row:
    """Spans replaced by sentinels are written out behind theirs: Raffel et al. 2020 (arXiv 1910.10683), section 3.1.4, figure 2.

    "Thank you for inviting me" -> read "Thank <0> inviting me", write "<0> you for <1>".
    """
    own = marks.inner(np.asarray(row.branches[0].ids))
    read: list[int] = []
    write: list[int] = []
    number = 0
    for part, hidden in _parts(own, rng, noise, most=len(marks.sentinels) - 1):
        if hidden:
            read.append(marks.sentinels[number])
            write += [marks.sentinels[number], *part]
            number += 1
        else:
            read += part
    return _sides(row, read, [*write, marks.sentinels[number]], marks)


def infilled(row: Row, rng: np.random.Generator, marks: Marks, noise: float) -> Row:
    """Spans replaced by one mask each; the whole text is written: text infilling, Lewis et al. 2020 (arXiv 1910.13461), section 2.2.

    (Lengths are a random partition of mean 3, where the paper draws them from a Poisson distribution of mean 3.)
    """
    assert marks.mask is not None
    own = marks.inner(np.asarray(row.branches[0].ids))
    read: list[int] = []
    for part, hidden in _parts(own, rng, noise, most=len(own)):
        read += [marks.mask] if hidden else part
    return _sides(row, read, own.tolist(), marks)


def _sides(row: Row, read: list[int], write: list[int], marks: Marks) -> Row:
    source = [*marks.front, *read, *marks.back]
    written = [*marks.start, *write, *marks.back[-1:]]
    trains = [0.0] * len(marks.start) + [1.0] * (len(written) - len(marks.start))
    return dataclasses.replace(
        row, prefix=_tokens(source, [0.0] * len(source)), branches=(_tokens(written, trains),), tokens={}
    )


def _parts(own: np.ndarray, rng: np.random.Generator, noise: float, *, most: int) -> list[tuple[list[int], bool]]:
    """Stretches of a text in turn kept and hidden: a share `noise` is hidden, in spans of 3 tokens on average, kept ones between."""
    length = len(own)
    num_hidden = min(max(1, round(noise * length)), max(1, length - 1))
    kept = length - num_hidden
    count = min(max(1, round(num_hidden / MEAN_SPAN)), most, num_hidden, kept + 1)
    hidden_sizes = _composition(num_hidden, count, rng)
    kept_sizes = _composition(kept + 2, count + 1, rng)  # the first and the last may be empty
    kept_sizes[0], kept_sizes[-1] = kept_sizes[0] - 1, kept_sizes[-1] - 1
    parts, at = [], 0
    for number, size in enumerate(kept_sizes):
        parts.append((own[at : at + size].tolist(), False))
        at += size
        if number < count:
            parts.append((own[at : at + hidden_sizes[number]].tolist(), True))
            at += hidden_sizes[number]
    return parts


def _composition(total: int, count: int, rng: np.random.Generator) -> list[int]:
    """`count` positive whole numbers that add up to `total`, each such list equally likely."""
    cuts = np.sort(rng.choice(np.arange(1, total), size=count - 1, replace=False)) if count > 1 else np.zeros(0, int)
    return np.diff(np.concatenate([[0], cuts, [total]])).astype(int).tolist()


def _tokens(ids: Any, trains: Any) -> Tokens:
    packed: Any = (np.asarray(ids, dtype=np.int32), np.asarray(trains, dtype=np.float32))
    return Tokens(*packed)
