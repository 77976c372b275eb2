"""The table of formats, and finding the format of a file by looking at its rows.

Left out: what each format means (shapes.py), reading files (sources.py). To add a format, write one function record
    -> sample in shapes.py and register it here.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bottega.core.errors import UserError
from bottega.core.types import Sample, Where
from bottega.data import documents, shapes
from bottega.data.shapes import ANSWERS, PAIRS
from bottega.data.sources import TYPE_KEY, Problem, Record, Span, read, read_span
from bottega.data.turns import BadRow

Format = Callable[[Record, Where], "Sample | tuple[Sample, ...]"]
FORMATS: dict[str, Format] = {
    "messages": shapes.messages,
    "sharegpt": shapes.sharegpt,
    "alpaca": shapes.alpaca,
    "prompt_completion": shapes.prompt_completion,
    "prompt_response": shapes.prompt_completion,
    "text": shapes.text,
    "prompt": shapes.prompt,
    "preference": shapes.preference,
    "unpaired": shapes.unpaired,
    "labelled": shapes.labelled,
    "tagged": shapes.tagged,
    "steps": shapes.steps,
    "scored": shapes.scored,
    "text_only": shapes.text,
    "text2text": shapes.prompt_completion,
    "conversation": shapes.messages,
    "paired_conversation": shapes.preference,
    "paired_text_to_text": shapes.preference,
    "text_to_textlist": shapes.textlist,
    "text_to_scored_textlist": shapes.scored,
    "float_only": shapes.float_only,
    "image_text": shapes.image_text,
}
"""Name -> function. From `text_only` on: LMFlow's nine types, which its files name themselves."""


def _looks_like(record: Record) -> str | None:
    """The format of one record by its columns; None when no format fits."""
    has = {key for key, value in record.items() if value is not None}
    if record.get(TYPE_KEY) in FORMATS:
        return str(record[TYPE_KEY])
    if {"chosen", "rejected"} <= has:
        return "preference"
    if has & {"messages", "conversations"} and has & {"label", "kto_tag"}:
        return "unpaired"
    if "messages" in has:
        return "messages"
    if has & {"conversations", "conversation"}:
        return "sharegpt"
    if "prompt" in has and has & set(ANSWERS) and has & {"label", "kto_tag"}:
        return "unpaired"
    if "labels" in has and isinstance(record["labels"], list) and has & {"steps", "completions"}:
        return "steps"
    several = next((record[k] for k in ("output", "responses", "completions") if isinstance(record.get(k), list)), None)
    if (
        several
        and has & {"input", "prompt", "question"}
        and not any("role" in i for i in several if isinstance(i, Mapping))
    ):
        return "scored" if isinstance(several[0], Mapping) else "text_to_textlist"
    if "instruction" in has and has & {"output", "response", "completion"}:
        return "alpaca"
    if any(asked in has and answered in has for asked, answered in PAIRS):
        return "prompt_completion"
    if has & {"tokens", "words"} and has & {"tags", "ner_tags", "labels"}:
        return "tagged"
    if has & {"text", "sentence"} and has & {"label", "labels", "score"}:
        return "labelled"
    if has & {"text", "content", "document"}:
        return "text"
    return "prompt" if has & set(shapes.ASKED) else None


def detect(records: Iterable[Record]) -> str:
    """The format that most of the records look like.

    Raises:
        UserError: none fits; names the columns found and the remedy.
    """
    votes: dict[str, int] = {}
    columns: list[str] = []
    for record in records:
        columns = columns or [key for key in record if key != TYPE_KEY]
        name = _looks_like(record)
        if name is not None:
            votes[name] = votes.get(name, 0) + 1
    if not votes:
        raise UserError(
            f"no known format has the columns {', '.join(columns[:8]) or '(none)'}; name one of "
            f"{', '.join(list(FORMATS)[:10])}, or map your columns, e.g. prompt=question response=answer"
        )
    return max(votes, key=lambda name: votes[name])


def format_of(path: str | Path, *, columns: Mapping[str, str] | None = None) -> str | None:
    """The format of one file, by its first 64 rows; None when none of them can be read.

    Raises:
        UserError: the columns fit no format.
    """
    if "://" not in str(path) and Path(path).suffix.lower() in documents.SUFFIXES:
        return "text"
    head = [record for _, record in itertools.islice(read(path, columns=columns), 64)]
    good = [record for record in head if not isinstance(record, Problem)]
    try:
        return detect(good) if good else None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def samples(
    paths: str | Path | Iterable[str | Path], *, format: str | None = None, columns: Mapping[str, str] | None = None
) -> Iterator[Sample | Problem]:
    """Every sample of every file, in order; a row that cannot be used is a Problem in its place.

    Args:
        paths: files or folders, one or many; each file's format is found by looking at its first 64 rows.
        format: a name of FORMATS instead.
        columns: wanted name -> name in the file, for plain tables.

    Raises:
        UserError: an unknown format name, a file that is missing or empty, or columns that fit no format.
    """
    _check_name(format)
    for _, group in itertools.groupby(read(paths, columns=columns), key=lambda pair: pair[0].file):
        head = list(itertools.islice(group, 64))
        good = [record for _, record in head if not isinstance(record, Problem)]
        if not good:
            # nothing to look at in the head: go on until a record shows the format, or the file ends
            for pair in group:
                head.append(pair)
                if not isinstance(pair[1], Problem):
                    good = [pair[1]]
                    break
        function = FORMATS[format or detect(good)] if good else shapes.text
        for where, record in itertools.chain(head, group):
            yield from _parsed(function, record, where)


def _check_name(format: str | None) -> None:
    if format is not None and format not in FORMATS:
        raise UserError(f"there is no format {format!r}; choose one of {', '.join(FORMATS)}")


def settled(path: str | Path, *, format: str | None = None, columns: Mapping[str, str] | None = None) -> str:
    """The format that `samples` reads one file in.

    Raises:
        UserError: as `samples`.
    """
    _check_name(format)
    pairs = (record for _, record in read(path, columns=columns))
    if format is not None:
        next(pairs)  # an empty file is refused here
        return format
    good = [record for record in itertools.islice(pairs, 64) if not isinstance(record, Problem)]
    if not good:
        good = list(itertools.islice((record for record in pairs if not isinstance(record, Problem)), 1))
    return detect(good) if good else "text"


def span_samples(
    path: str | Path, span: Span, *, format: str, columns: Mapping[str, str] | None = None
) -> Iterator[Sample | Problem]:
    """The samples of a stretch of a file, as `samples` gives them for the whole; `format`: a name of FORMATS."""
    for where, record in read_span(path, span, columns=columns):
        yield from _parsed(FORMATS[format], record, where)


def _parsed(function: Format, record: Record | Problem, where: Where) -> Iterator[Sample | Problem]:
    if isinstance(record, Problem):
        yield record
        return
    try:
        sample = function(record, where)
    except BadRow as error:
        yield Problem(where._replace(column=error.column), error.reason)
        return
    if isinstance(sample, tuple):
        yield from sample
    else:
        yield sample


def to_json(value: Any) -> str:
    """One line of JSON for a record, as every file of this room is written."""
    return json.dumps(value, ensure_ascii=False, default=str)
