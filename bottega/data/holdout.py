"""A share of the rows of several sources, kept out for validation: whole rows, or passages where there are few documents.

Left out: validation from files of its own (the recipe names them); named parts on disk (split.py).

Of a text that is given as several files the longest one gives the held-out passages, so that a share of the text is
kept out and not a share of each copy; what the copies say of them is cut out of the training text, and counted.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from bottega.core.errors import UserError
from bottega.core.types import Document, Labelled
from bottega.data import overlap
from bottega.data.chunk import chunk
from bottega.data.near import same_texts
from bottega.data.sources import Problem
from bottega.data.split import split

MIN_DOCUMENTS, PIECE = 10, 1000
"""With fewer documents than this, passages of so many characters are split for validation instead of documents."""
_PLACE = "__passage__"
_COPY = "__copy__"


class Apart(NamedTuple):
    """The rows to train on, by source, those kept out, and what was done, in lines for a person."""

    train: list[list[Any]]
    held_out: list[Any]
    notes: tuple[str, ...] = ()


def hold_out(sources: list[list[Any]], *, share: float, seed: int, passages: bool) -> Apart:
    """Keep out a share of the rows of all sources together, with their near duplicates; bad rows stay where they are.

    Args:
        share: of the rows (passages, by `passages` below 10 documents) to keep out, above 0 and below 1.
        passages: the rows are texts to go on reading, so that few documents may be split in passages.

    Raises:
        UserError: too few rows, or a part or a source that would be empty.
    """
    documents = [item for items in sources for item in items if isinstance(item, Document)]
    if not passages or len(documents) >= MIN_DOCUMENTS:
        return _apart(sources, share, seed)
    copies = _copies(documents)
    pieces = [[piece for item in items for piece in _pieces(item, id(item) in copies)] for items in sources]
    cut = _apart(pieces, share, seed)
    train, held_out = [_joined(items) for items in cut.train], _joined(cut.held_out)
    train, told = _cut_out(train, [item.text for item in held_out if isinstance(item, Document)], share)
    few = f"fewer than {MIN_DOCUMENTS} documents: passages of {PIECE:,} characters are kept out, not documents"
    return Apart(train, held_out, (few, *_told_copies(copies), *told))


def _apart(sources: list[list[Any]], share: float, seed: int) -> Apart:
    good = [item for items in sources for item in items if not isinstance(item, Problem) and not _is_copy(item)]
    if len(good) < 2:
        raise UserError(f"validation: {share} needs at least 2 rows to split, and there is {len(good)}; give a file")
    labelled = bool(good) and all(
        isinstance(item, Labelled) and isinstance(item.label, str | bool | int) for item in good
    )
    by_label = (lambda item: str(item.label)) if labelled else None  # every label in both parts
    parts = split(good, seed=seed, shares={"train": 1 - share, "validation": share}, stratify=by_label)
    out = {id(item) for item in parts["validation"]}
    kept = [[item for item in items if id(item) not in out] for items in sources]
    if not parts["validation"] or not all(any(not isinstance(i, Problem) for i in items) for items in kept):
        raise UserError(f"validation: {share} leaves a part of the {len(good)} rows empty; give more rows, or a file")
    return Apart(kept, parts["validation"])


def _is_copy(item: Any) -> bool:
    return isinstance(item, Document) and _COPY in item.meta


def _copies(documents: list[Document]) -> dict[int, tuple[str, str]]:
    """Documents (by id) whose text a longer one holds too: their file and its file."""
    by_length = sorted(documents, key=lambda document: -len(document.text))
    found: dict[int, tuple[str, str]] = {}
    texts, files = [one.text for one in by_length], [one.where.file for one in by_length]
    for first, second in same_texts(texts, files):
        found.setdefault(id(by_length[second]), (files[second], files[first]))
    return found


def _told_copies(copies: dict[int, tuple[str, str]]) -> list[str]:
    return [
        f"{short} is the text of {long} in another form: passages are kept out of {long}"
        for short, long in copies.values()
    ]


def _pieces(item: Any, copy: bool) -> list[Any]:
    """A document as passages, each with its number; a copy whole and marked; anything else as it is."""
    if not isinstance(item, Document):
        return [item]
    if copy:
        return [dataclasses.replace(item, meta={**item.meta, _COPY: True})]
    parts = chunk(item.text, size=PIECE)
    return [
        dataclasses.replace(item, text=part.text, meta={**item.meta, _PLACE: (id(item), number)})
        for number, part in enumerate(parts)
    ]


def _joined(items: list[Any]) -> list[Any]:
    """Passages that follow one another in their document put together again."""
    joined: list[Any] = []
    last: tuple[int, int] | None = None
    for item in items:
        place = item.meta.get(_PLACE) if isinstance(item, Document) else None
        if place is not None and last == (place[0], place[1] - 1):
            joined[-1] = dataclasses.replace(joined[-1], text=joined[-1].text + item.text)
        else:
            joined.append(item)
        last = place
    return joined


def _cut_out(sources: list[list[Any]], held_out: list[str], share: float) -> tuple[list[list[Any]], list[str]]:
    """The training texts without what stands in held-out ones, and the count of it."""
    runs = overlap.runs_of(held_out)
    words = stretches = 0
    kept: list[list[Any]] = []
    for items in sources:
        left: list[Any] = []
        for item in items:
            if not isinstance(item, Document):
                left.append(item)
                continue
            cut = overlap.without(item.text, runs)
            words, stretches = words + cut.words, stretches + cut.stretches
            left += [dataclasses.replace(item, text=piece) for piece in cut.pieces] if cut.stretches else [item]
        if not any(not isinstance(item, Problem) for item in left):
            where = next(item.where.file for item in items if isinstance(item, Document))
            raise UserError(
                f"validation: {share} leaves nothing of {where} to train on, for its text stands in held-out passages; give a file"
            )
        kept.append(left)
    if not stretches:
        return kept, []
    still = overlap.found_in(runs, (item.text for items in kept for item in items if isinstance(item, Document)))
    said = (
        f"{words:,} words in {stretches} stretches of the training text stand in held-out passages too and were cut out"
    )
    return kept, [f"{said}; {still:,} of {len(runs):,} held-out five-word runs are left in it"]
