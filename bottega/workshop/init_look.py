"""What `init` sees in DATA: its kind, how much there is, and for labels which objective they ask for.

Left out: the recipe's text (init.py), the model (init_model.py). A thing is guessed from every row, never from the first alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bottega.core.errors import UserError
from bottega.core.types import Conversation, Document, Labelled, Preference, Turn
from bottega.data.formats import format_of, samples
from bottega.data.labels import survey
from bottega.data.sources import Problem, places

CHARACTERS_PER_TOKEN = 4
OBJECTIVES: dict[type, str] = {Document: "pretrain", Conversation: "sft", Preference: "dpo"}
NAMES: dict[type, str] = {Document: "texts", Conversation: "chats", Preference: "pairs", Labelled: "labelled texts"}
MOST_CLASSES = 20
"""More numbers than these, or one with a fraction, are taken for amounts and not for classes."""


def look(path: str, format: str | None) -> dict[str, Any]:
    """What the rows of `path` are.

    Returns: data, files, format, objective, rows, bad (with an example), tokens and longest (estimates); for labels also
        labels (name -> rows, or words for tags).

    Raises:
        UserError: no row can be used, or nothing can be learned from rows of this kind.
    """
    counts: dict[type, int] = {}
    characters = longest = bad = answered = 0
    example = ""
    labelled: list[Labelled] = []
    for sample in samples(path, format=format):
        if isinstance(sample, Problem):
            bad += 1
            example = example or str(sample)
            continue
        counts[type(sample)] = counts.get(type(sample), 0) + 1
        answered += isinstance(sample, Conversation) and any(turn.role == "assistant" for turn in sample.turns)
        if isinstance(sample, Labelled):
            labelled.append(sample)
        size = _characters(sample)
        characters, longest = characters + size, max(longest, size)
    kind = _kind(path, counts, example)
    if kind is Conversation and not answered:
        raise UserError(
            f"{path} asks {counts[kind]:,} questions and answers none; a model learns from its own answers to them by a reward: "
            "start from recipes/grpo.yaml, or give rows with answers"
        )
    objective, labels = _labels(path, labelled) if labelled else (OBJECTIVES[kind], {})
    return {
        "data": path,
        "files": len(places(path)),
        "format": format or format_of(places(path)[0]),
        "objective": objective,
        "rows": sum(counts.values()),
        "bad": bad,
        "example": example,
        "tokens": characters // CHARACTERS_PER_TOKEN,
        "longest": longest // CHARACTERS_PER_TOKEN,
        **({"labels": labels} if labels else {}),
    }


def _kind(path: str, counts: dict[type, int], example: str) -> type:
    if not counts:
        raise UserError(f"no row of {path} can be used, for example {example}; see `bottega data check {path}`")
    if len(counts) > 1:
        held = ", ".join(f"{count:,} {NAMES[each]}" for each, count in counts.items())
        raise UserError(f"{path} holds {held}, and a stage learns from one kind: name a file or folder with one")
    return next(iter(counts))


def _labels(path: str, rows: list[Labelled]) -> tuple[str, dict[str, int]]:
    """The objective that the labels ask for, and each label's count."""
    objective = _objective(rows)
    if objective == "kto":
        liked = sum(bool(row.label) for row in rows)
        return objective, {"liked": liked, "not liked": len(rows) - liked}
    if not any(row.text.strip() for row in rows):
        raise UserError(f"{path} holds numbers without a text, from which nothing can be learned; add a column `text`")
    try:
        found = survey(rows, objective)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return objective, dict(zip(found.labels, found.counts))


def _objective(rows: Iterable[Labelled]) -> str:
    rows = list(rows)
    if any(row.prompt for row in rows):
        return "kto"
    if any(row.words for row in rows):
        return "tagging"
    if any(isinstance(row.label, tuple) for row in rows):
        return "multilabel"
    numbers = [_number(row.label) for row in rows]
    known = [number for number in numbers if number is not None]
    if len(known) == len(numbers) and (len(set(known)) > MOST_CLASSES or any(not n.is_integer() for n in known)):
        return "regression"
    return "classification"


def _number(label: Any) -> float | None:
    try:
        return None if isinstance(label, bool) else float(label)
    except (TypeError, ValueError):
        return None


def _characters(sample: Any) -> int:
    if isinstance(sample, Document | Labelled):
        return len(sample.text) + (_said(sample.prompt) if isinstance(sample, Labelled) else 0)
    if isinstance(sample, Preference):
        return _said(sample.prompt) + max(_said(sample.chosen), _said(sample.rejected))
    return _said(sample.turns)


def _said(turns: tuple[Turn, ...]) -> int:
    return sum(len(turn.content) for turn in turns)
