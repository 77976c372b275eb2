"""The fields of a form to an answer, by kind of question.

Left out: whether the answer may be (store/kinds.py checks). Numbers come as text here and leave as numbers, or as the text itself
where they are none, so that the check names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bottega.core.errors import UserError

Fields = Mapping[str, Sequence[str]]


def _one(form: Fields, name: str) -> str:
    return (form.get(name) or ("",))[0]


def _number(text: str) -> Any:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else text


def _choice(form: Fields) -> dict[str, Any]:
    said = _number(_one(form, "choice"))
    shown = [1, 0] if _one(form, "swapped") == "1" else [0, 1]
    return {"choice": said, "shown": shown}


def _score(form: Fields) -> dict[str, Any]:
    return {"score": _number(_one(form, "score"))}


def _text(form: Fields) -> dict[str, Any]:
    return {"text": _one(form, "text")}


def _labels(form: Fields) -> dict[str, Any]:
    return {"labels": list(form.get("label", ()))}


def _spans(form: Fields) -> dict[str, Any]:
    return {"spans": parse_spans(_one(form, "spans"))}


def parse_spans(text: str) -> list[list[Any]]:
    """Lines such as `3-5 person` or `7 place`, words counted from 1.

    >>> parse_spans("3-5 person")
    [[2, 4, 'person']]
    """
    spans = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        place, _, label = line.strip().partition(" ")
        first, _, last = place.partition("-")
        ends = [_number(first), _number(last or first)]
        if not all(isinstance(end, int) and end > 0 for end in ends) or not label.strip():
            raise UserError(
                f"line {number} is {line[:60]!r}; write first and last word and a label, such as 3-5 person"
            )
        spans.append([ends[0] - 1, ends[1] - 1, label.strip()])
    return spans


def show_spans(spans: Sequence[Sequence[Any]]) -> str:
    """The lines that `parse_spans` reads."""
    return "\n".join(f"{first + 1}-{last + 1} {label}" for first, last, label in spans)


READ: dict[str, Callable[[Fields], dict[str, Any]]] = {
    "compare": _choice,
    "rate": _score,
    "edit": _text,
    "class": _labels,
    "span": _spans,
    "write": _text,
}


def answer_of(kind: str, form: Fields) -> dict[str, Any]:
    """The answer that a form of this kind holds, with reasons and time."""
    made = READ[kind](form)
    made["tags"] = list(form.get("tag", ()))
    made["reason"] = _one(form, "reason")
    try:
        made["seconds"] = min(max(float(_one(form, "seconds") or "nan"), 0.0), 1e6)
    except ValueError:
        made["seconds"] = float("nan")
    if made["seconds"] != made["seconds"]:
        del made["seconds"]  # no script ran: nobody measured
    return made
