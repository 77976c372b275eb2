"""How varied the rows are, and what they share with seeds, documents and evaluation sets: a leaf, and all together.

Left out: likeness of meaning. Runs of eight words count as shared. Every row is measured, as it goes by: memory does not grow.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from bottega.data.near import words_of
from bottega.synth.pipeline import Job
from bottega.synth.pipeline_account import Account
from bottega.synth.pipeline_files import said
from bottega.synth.pipeline_leaks import OVERLAP, overlap, runs

BITS = 26
"""Places of a counter, as a power of two: 8 MiB, and within a thousandth for some ten million different things."""


class Counter:
    """How many different things were added, by linear counting (Whang et al. 1990): with m places of which v stay empty, -m ln(v/m).

    Counts of thousands are exact but for one in a million; memory does not grow.
    """

    def __init__(self) -> None:
        self.seen = 0
        self._bits = np.zeros(1 << (BITS - 3), np.uint8)

    def add(self, things: Sequence[str]) -> None:
        """Each by its hash."""
        self.seen += len(things)
        places = np.fromiter((zlib.crc32(one.encode()) >> (32 - BITS) for one in things), np.int64, len(things))
        np.bitwise_or.at(self._bits, places >> 3, (1 << (places & 7)).astype(np.uint8))

    def share(self) -> float:
        """Different ones by all; 0 without any."""
        if not self.seen:
            return 0.0
        used = int(np.bitwise_count(self._bits).sum(dtype=np.int64))
        size = 1 << BITS
        return round(min(-size * math.log1p(-used / size) if used < size else size, self.seen) / self.seen, 4)


@dataclass(kw_only=True, slots=True)
class Measured:
    """The texts of a leaf, measured as they go by."""

    seeds: frozenset[int] = frozenset()
    documents: frozenset[int] = frozenset()
    texts: int = 0
    words: Counter = field(default_factory=Counter)
    pairs: Counter = field(default_factory=Counter)
    shared: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def add(self, text: str) -> None:
        split = words_of(text)
        self.texts += 1
        self.words.add(split)
        self.pairs.add([f"{one} {other}" for one, other in zip(split, split[1:])])
        for place, known in enumerate((self.seeds, self.documents)):
            self.shared[place] += overlap(text, known, size=OVERLAP) if known else 0.0

    def variety(self) -> dict[str, float]:
        return {
            "words": round(self.words.seen / self.texts, 1) if self.texts else 0.0,
            "distinct_words": self.words.share(),
            "distinct_pairs": self.pairs.share(),
        }

    def numbers(self) -> dict[str, float]:
        means = [round(total / self.texts, 4) if self.texts else 0.0 for total in self.shared]
        return {**self.variety(), "with_seeds": means[0], "with_documents": means[1]}


def report(rows: Iterable[Mapping[str, Any]], jobs: Sequence[Job], accounts: Sequence[Account]) -> dict[str, Any]:
    """Numbers a leaf; rows of a leaf lie together, as train.jsonl has them.

    Returns: for each leaf with rows: `rows`, `words` (mean length), `distinct_words` and `distinct_pairs` (different ones by
    all, Li et al. 2016, distinct-1 and distinct-2), `with_seeds` and `with_documents` (mean share of a row's eight-word runs that
    stand there), `near_duplicates` and `contaminated` (rows that went for it).
    """
    known = {job.leaf.path: job for job in jobs}
    measured = {}
    for leaf, some in groupby(rows, key=lambda row: str(row["metadata"]["leaf"])):
        found = _of(known[leaf])
        for row in some:
            found.add(said(row))
        measured[leaf] = found.numbers()
    leaves = {}
    for account in accounts:
        leaves[account.leaf] = {
            "rows": account.kept,
            **(measured.get(account.leaf) or Measured().numbers()),
            "near_duplicates": _gone(account, "near duplicate"),
            "contaminated": _gone(account, "contaminated"),
        }
    evaluations = {
        name: {"texts": one.texts, "too_short": one.short} for job in jobs[:1] for name, one in job.evaluations.items()
    }
    return {"run_of_words": OVERLAP, "evaluations": evaluations, "leaves": leaves}


def _of(job: Job) -> Measured:
    seeds = [text for seed in job.leaf.seeds for pair in seed.pairs for text in pair]
    documents = [*job.chunks, *(seed.context for seed in job.leaf.seeds)]
    return Measured(seeds=runs(seeds, size=OVERLAP), documents=runs(documents, size=OVERLAP))


def variety(texts: Iterable[str]) -> dict[str, float]:
    """Mean length in words; different words, and pairs of neighbours, by all.

    >>> variety(["a b a", "a b"])
    {'words': 2.5, 'distinct_words': 0.4, 'distinct_pairs': 0.6667}
    """
    measured = Measured()
    for text in texts:
        measured.add(text)
    return measured.variety()


def _gone(account: Account, reason: str) -> int:
    return sum(count for step in account.steps for why, count in step.rejected.items() if why.startswith(reason))
