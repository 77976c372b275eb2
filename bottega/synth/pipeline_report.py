"""How varied the rows are, and what they share with seeds, documents and evaluation sets: a leaf, and all together.

Left out: likeness of meaning. Runs of eight words count as shared; at most 2,000 rows of a leaf are measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from bottega.data.near import words_of
from bottega.synth.pipeline import Job
from bottega.synth.pipeline_account import Account
from bottega.synth.pipeline_files import said
from bottega.synth.pipeline_leaks import OVERLAP, overlap, runs

MOST = 2000


def report(rows: Iterable[Mapping[str, Any]], jobs: Sequence[Job], accounts: Sequence[Account]) -> dict[str, Any]:
    """Numbers a leaf.

    Returns: for each leaf with rows: `rows`, `words` (mean length), `distinct_words` and `distinct_pairs` (different ones by
    all, Li et al. 2016, distinct-1 and distinct-2), `with_seeds` and `with_documents` (mean share of a row's eight-word runs that
    stand there), `near_duplicates` and `contaminated` (rows that went for it).
    """
    by_leaf: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        texts = by_leaf[row["metadata"]["leaf"]]
        if len(texts) < MOST:
            texts.append(said(row))
    known = {job.leaf.path: job for job in jobs}
    leaves = {}
    for account in accounts:
        job, texts = known[account.leaf], by_leaf.get(account.leaf, [])
        seeds = [text for seed in job.leaf.seeds for pair in seed.pairs for text in pair]
        leaves[account.leaf] = {
            "rows": account.kept,
            **variety(texts),
            "with_seeds": _share(texts, seeds),
            "with_documents": _share(texts, [*job.chunks, *(seed.context for seed in job.leaf.seeds)]),
            "near_duplicates": _gone(account, "near duplicate"),
            "contaminated": _gone(account, "contaminated"),
        }
    evaluations = {
        name: {"texts": one.texts, "too_short": one.short} for job in jobs[:1] for name, one in job.evaluations.items()
    }
    return {"run_of_words": OVERLAP, "evaluations": evaluations, "leaves": leaves}


def variety(texts: Sequence[str]) -> dict[str, float]:
    """Mean length in words; different words, and pairs of neighbours, by all.

    >>> variety(["a b a", "a b"])
    {'words': 2.5, 'distinct_words': 0.4, 'distinct_pairs': 0.6667}
    """
    split = [words_of(text) for text in texts]
    words = [word for one in split for word in one]
    pairs = [pair for one in split for pair in zip(one, one[1:])]
    return {
        "words": round(mean(map(len, split)), 1) if split else 0.0,
        "distinct_words": round(len(set(words)) / len(words), 4) if words else 0.0,
        "distinct_pairs": round(len(set(pairs)) / len(pairs), 4) if pairs else 0.0,
    }


def _share(texts: Sequence[str], others: Iterable[str]) -> float:
    known = runs(others, size=OVERLAP)
    return round(mean(overlap(text, known, size=OVERLAP) for text in texts), 4) if texts else 0.0


def _gone(account: Account, reason: str) -> int:
    return sum(count for step in account.steps for why, count in step.rejected.items() if why.startswith(reason))
