"""The rows with which a leaf goes into its flow: its seeds, and the chunks of its documents, round after round.

Left out: fetching documents (whoever calls gives their texts). Columns carry InstructLab's names, so that its pipelines run.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from bottega.core.types import Leaf, Seed
from bottega.synth.blocks_language import language_of
from bottega.synth.pipeline_account import Row

BARREN = 48
"""Rows without a new one, after which a leaf has no more to give."""
PER_SAMPLE = 20
"""Rows that go in for each one wanted, at most."""


def language_of_leaf(leaf: Leaf) -> str:
    """The language in which a leaf's people wrote; English where it cannot be told."""
    texts = [leaf.about, *(text for seed in leaf.seeds for pair in seed.pairs for text in pair)]
    return language_of(" ".join(texts)) or "en"


def asked_of(kind: str, question: str, context: str) -> str:
    """What a model is asked for a seed question: a grounded skill's context stands in front, knowledge is asked closed-book."""
    return f"{context.strip()}\n\n{question.strip()}" if kind == "grounded_skill" else question.strip()


def chunk_id(chunk: str) -> str:
    """What rows call the piece of a document from which they came: 16 hex digits of its SHA-256."""
    return hashlib.sha256(chunk.encode("utf-8", "replace")).hexdigest()[:16]


def first_rows(leaf: Leaf, chunks: Sequence[str], *, seed: int) -> list[Row]:
    """One round: each chunk with each seed in turn (knowledge), or each seed (skills).

    The seeds go round so that neighbouring chunks meet different ones, and every chunk comes once before any comes twice.
    """
    if leaf.kind != "knowledge":
        rows = [_skill(leaf, number) for number in range(len(leaf.seeds))]
        random.Random(f"{seed}|{leaf.path}").shuffle(rows)
        return rows
    order = list(range(len(chunks)))
    random.Random(f"{seed}|{leaf.path}").shuffle(order)
    seeds = leaf.seeds or (Seed(pairs=()),)
    return [
        _knowledge(leaf, chunks[at], seeds[(place + turn) % len(seeds)], turn)
        for turn in range(len(seeds))
        for place, at in enumerate(order)
    ]


def _knowledge(leaf: Leaf, chunk: str, seed: Seed, turn: int) -> Row:
    pairs = [{"question": question, "answer": answer} for question, answer in seed.pairs]
    row: Row = {
        "document": chunk,
        "document_outline": leaf.about,
        "domain": leaf.domain,
        "task_description": "",
        "icl_document": seed.context,
        "pairs": pairs,
        "_document": chunk_id(chunk),
    }
    for place in range(
        3 if pairs else 0
    ):  # InstructLab's prompts show three pairs: which three goes round with the turn
        pair = pairs[(turn + place) % len(pairs)]
        row |= {f"icl_query_{place + 1}": pair["question"], f"icl_response_{place + 1}": pair["answer"]}
    return row


def _skill(leaf: Leaf, number: int) -> Row:
    """A seed first, up to four others beside it as examples."""
    seed = leaf.seeds[number]
    question, answer = seed.pairs[0]
    others = [leaf.seeds[(number + step) % len(leaf.seeds)] for step in range(min(5, len(leaf.seeds)))]
    same = [one for one in others if one.context == seed.context] if seed.context else others
    return {
        "task_description": leaf.about,
        "document": "",
        "document_outline": "",
        "domain": leaf.domain,
        "seed_question": question,
        "seed_response": answer,
        "seed_context": seed.context,
        "context": "",
        "pairs": [{"question": q, "answer": a} for one in same for q, a in one.pairs],
    }


async def rounds(first: Sequence[Row], kept: Callable[[], int], most: int) -> AsyncIterator[Row]:
    """The rows again and again, each time for other answers, until `most` rows or until many in a row bring nothing new.

    Many: two rounds, and more than can be on their way through the flow.
    """
    given, last, before = 0, 0, 0
    for number in range(most if first else 0):
        for row in first:
            if kept() > before:
                before, last = kept(), given
            if given >= most or given - last >= max(BARREN, 2 * len(first)):
                return
            given += 1
            yield {**row, "_number": number}


def about_row(row: Row) -> dict[str, Any]:
    """What of a row goes into its metadata: where it came from and what judges said."""
    found = {name: row[name] for name in ("view", "persona", "scores") if row.get(name)}
    if "_document" in row:
        found["document"] = row["_document"]
    return found
