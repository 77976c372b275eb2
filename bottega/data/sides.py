"""Which rows of large sources are held out: the same rows as in memory (holdout.py), found in one pass, written down by place.

Left out: tokenising either side (tokenise.py). Memory: the near-duplicate index (near.py) and some 100 bytes a row, not the rows.

A row's place is (file, row, number): the file's place in its source, the row in the file, and which of the samples of that row it
is. Rows that cannot be used stay in training, where they are counted.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.core.types import Document, Sample
from bottega.data import formats
from bottega.data.holdout import MIN_DOCUMENTS
from bottega.data.near import groups
from bottega.data.sources import Problem, find
from bottega.data.split import places_held_out, text_of

TRAIN, HELD_OUT = "train", "validation"


class Stretch(NamedTuple):
    """A source to be split: its path, format and columns, and the sha256 of its files."""

    path: str
    format: str | None
    columns: Mapping[str, str] | None
    digests: Sequence[str]


def numbered(samples: Iterable[Sample | Problem]) -> Iterator[tuple[Sample | Problem, int]]:
    """Samples with their number among those of the same row."""
    last, number = None, 0
    for sample in samples:
        place = (sample.where.file, sample.where.row)
        number = number + 1 if place == last else 0
        last = place
        yield sample, number


def held_out(sources: Sequence[Stretch], *, share: float, seed: int, passages: bool, cache: Path) -> Path | None:
    """The file that says which rows of the sources are held out, made if it is not there; None: too few documents to split by rows.

    Args:
        share, seed, passages: as in `holdout.hold_out`.

    Raises:
        UserError: too few rows, or a part or a source that would be empty.
    """
    known = [1, share, seed, passages, [[list(s.digests), s.format, dict(s.columns or {})] for s in sources]]
    key = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:32]
    path = cache / f"held-{key}.i64"
    if path.is_file():
        return path
    places, counts = array("q"), [0] * len(sources)
    documents = 0

    def texts() -> Iterator[str]:
        nonlocal documents
        for number, source in enumerate(sources):
            files = {str(file): i for i, file in enumerate(find([source.path]))}
            found = formats.samples(source.path, format=source.format, columns=source.columns)
            for sample, one in numbered(found):
                if not isinstance(sample, Problem):
                    documents += isinstance(sample, Document)
                    counts[number] += 1
                    places.extend((number, files[sample.where.file], sample.where.row, one))
                    yield text_of(sample)

    leader = groups(texts())
    if passages and documents < MIN_DOCUMENTS:
        return None
    chosen = places_held_out(leader, share=share, seed=seed)
    table = np.array(places, dtype="<i8").reshape(-1, 4)[chosen]
    left = np.array(counts) - np.bincount(table[:, 0], minlength=len(sources))
    if not len(table) or left.min() < 1:
        raise UserError(f"validation: {share} leaves a part of the {sum(counts)} rows empty; give more rows, or a file")
    rundir.atomic_write(path, table.tobytes())
    return path


class Side:
    """One side of a split source: keeps the samples that belong to it."""

    def __init__(self, path: str | Path, source: int, files: Mapping[str, int], side: str) -> None:
        table = np.fromfile(path, dtype="<i8").reshape(-1, 4)
        mine = table[(table[:, 0] == source) & np.isin(table[:, 1], list(files.values()))]
        self.held = {(int(file), int(row), int(number)) for _, file, row, number in mine}
        self.files, self.side = files, side

    def __call__(self, samples: Iterable[Sample | Problem]) -> Iterator[Any]:
        """The samples of this side, in order."""
        for sample, number in numbered(samples):
            if isinstance(sample, Problem):
                if self.side == TRAIN:
                    yield sample
            elif ((self.files[sample.where.file], sample.where.row, number) in self.held) == (self.side == HELD_OUT):
                yield sample
