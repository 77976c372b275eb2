"""The six kinds of question put to people: what an item of each holds, what an answer is, and the check of both.

Left out: how they look on a page (studio/) and how answers become training rows (rows.py).

An item is a JSON object: `prompt` (a list of {role, content}), `answers` (a list of {text, source}), `text` or `words`, `given` (an
answer to start from: a pre-label) and `meta`. An answer is a JSON object too, with these keys by kind:

compare  choice: 0 or 1 (the answer's place in the item, not on the page), "tie" or "neither"
rate     score: 1 to the project's scale
edit     text: the answer as it should have been
class    labels: a list of the project's labels; one of them unless `several`
span     spans: a list of [first word, last word, label], both ends counted from 0
write    text
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bottega.core.errors import UserError

MAX_TEXT = 100_000
MAX_TURNS = 200
MAX_WORDS = 5_000
MAX_LABELS = 64
MAX_NAME = 200
TIES = ("tie", "neither")
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a project asks, and of how many.

    labels: for class and span. several: an item may have more than one class. scale: ratings go from 1 to this. tags: reasons to tick.
    per_item: so many people answer each item. gold_every: about one question in so many has a known answer (0: none).
    """

    labels: tuple[str, ...] = ()
    several: bool = False
    scale: int = 5
    tags: tuple[str, ...] = ()
    per_item: int = 1
    gold_every: int = 0
    instructions: str = ""

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Settings:
        raw: dict[str, Any] = json.loads(text)
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()})  # type: ignore[arg-type]


def check_settings(kind: str, settings: Settings) -> None:
    """Raises UserError with the first setting that cannot be."""
    if kind not in KINDS:
        raise UserError(f"{kind!r} is no kind of question; use one of {', '.join(KINDS)}")
    for name, values in (("labels", settings.labels), ("tags", settings.tags)):
        if len(values) > MAX_LABELS or len(set(values)) != len(values):
            raise UserError(f"{name} holds {len(values)} names; at most {MAX_LABELS}, each once")
        for value in values:
            if not value.strip() or len(value) > MAX_NAME or not value.isprintable():
                raise UserError(f"{value!r} in {name} is no name; use 1 to {MAX_NAME} visible characters")
    if kind in ("class", "span") and not settings.labels:
        raise UserError(f"a project of kind {kind} needs labels; name them with --label")
    for name, low, high in (("scale", 2, 10), ("per_item", 1, 100), ("gold_every", 0, 1000)):
        if not low <= getattr(settings, name) <= high:
            raise UserError(f"{name} is {getattr(settings, name)}; it goes from {low} to {high}")
    _text(settings.instructions, "instructions", empty=True)


def _text(value: Any, name: str, *, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise UserError(f"{name} is a {type(value).__name__}; a text is needed")
    if len(value) > MAX_TEXT:
        raise UserError(f"{name} has {len(value):,} characters; at most {MAX_TEXT:,} fit")
    if not empty and not value.strip():
        raise UserError(f"{name} is empty; a text is needed")
    return value


def _list(value: Any, name: str, low: int, high: int) -> Sequence[Any]:
    if not isinstance(value, list | tuple) or not low <= len(value) <= high:
        said = f"{len(value)} long" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
        raise UserError(f"{name} is {said}; a list of {low} to {high:,} is needed")
    return value


def _whole(value: Any, name: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"{name} is {value!r}; a whole number from {low} to {high} is needed")
    return value


def check_item(kind: str, settings: Settings, item: Mapping[str, Any]) -> Json:
    """The item in its one form.

    Raises:
        UserError: a part is missing, of another type or too long.
    """
    turns = _list(item.get("prompt", ()), "prompt", 0, MAX_TURNS)
    made: Json = {"prompt": [_turn(turn, f"prompt[{n}]") for n, turn in enumerate(turns)]}
    if kind in ("compare", "rate", "edit"):
        many = 2 if kind == "compare" else 1
        answers = _list(item.get("answers"), "answers", many, many)
        made["answers"] = [_candidate(answer, f"answers[{n}]") for n, answer in enumerate(answers)]
        if kind == "compare" and made["answers"][0]["text"] == made["answers"][1]["text"]:
            raise UserError("both answers are the same text, so there is nothing to compare")
    elif kind == "span":
        words = _list(item.get("words"), "words", 1, MAX_WORDS)
        made["words"] = [_text(word, f"words[{n}]") for n, word in enumerate(words)]
    elif kind == "class":
        made["text"] = _text(item.get("text"), "text")
    elif not turns:
        made["text"] = _text(item.get("text"), "text")
    if item.get("given") is not None:
        made["given"] = check_answer(kind, settings, made, item["given"])
    meta = item.get("meta") or {}
    if not isinstance(meta, Mapping) or len(json.dumps(meta, default=str)) > MAX_TEXT:
        raise UserError(f"meta is no object of at most {MAX_TEXT:,} characters")
    if meta:
        made["meta"] = json.loads(json.dumps(meta, default=str))
    return made


def _turn(turn: Any, name: str) -> Json:
    if not isinstance(turn, Mapping):
        raise UserError(f"{name} is a {type(turn).__name__}; an object with role and content is needed")
    role = _text(turn.get("role"), f"{name}.role")[:MAX_NAME]
    return {"role": role, "content": _text(turn.get("content"), f"{name}.content", empty=True)}


def _candidate(answer: Any, name: str) -> Json:
    if isinstance(answer, str):
        answer = {"text": answer}
    if not isinstance(answer, Mapping):
        raise UserError(f"{name} is a {type(answer).__name__}; a text, or an object with text and source, is needed")
    source = _text(answer.get("source") or "", f"{name}.source", empty=True)[:MAX_NAME]
    return {"text": _text(answer.get("text"), f"{name}.text"), "source": source}


def _compare(settings: Settings, item: Json, answer: Mapping[str, Any]) -> Json:
    choice = answer.get("choice")
    if choice in TIES and isinstance(choice, str):
        return {"choice": choice}
    return {"choice": _whole(choice, "choice", 0, 1)}


def _rate(settings: Settings, item: Json, answer: Mapping[str, Any]) -> Json:
    return {"score": _whole(answer.get("score"), "score", 1, settings.scale)}


def _written(settings: Settings, item: Json, answer: Mapping[str, Any]) -> Json:
    return {"text": _text(answer.get("text"), "text")}


def _class(settings: Settings, item: Json, answer: Mapping[str, Any]) -> Json:
    labels = _list(
        answer.get("labels"), "labels", 0 if settings.several else 1, len(settings.labels) if settings.several else 1
    )
    for label in labels:
        if label not in settings.labels:
            raise UserError(f"{label!r} is no label of this project; it has {', '.join(settings.labels[:10])}")
    return {"labels": [label for label in settings.labels if label in labels]}


def _span(settings: Settings, item: Json, answer: Mapping[str, Any]) -> Json:
    spans, last = [], -1
    for n, span in enumerate(_list(answer.get("spans"), "spans", 0, MAX_WORDS)):
        first, end, label = _list(span, f"spans[{n}]", 3, 3)
        first = _whole(first, f"spans[{n}]: the first word", 0, len(item["words"]) - 1)
        end = _whole(end, f"spans[{n}]: the last word", first, len(item["words"]) - 1)
        if label not in settings.labels:
            raise UserError(f"{label!r} is no label of this project; it has {', '.join(settings.labels[:10])}")
        spans.append([first, end, label])
    spans.sort()
    for first, end, _ in spans:
        if first <= last:
            raise UserError(f"two spans share word {first}; a word belongs to one span")
        last = end
    return {"spans": spans}


KINDS: dict[str, Callable[[Settings, Json, Mapping[str, Any]], Json]] = {
    "compare": _compare,
    "rate": _rate,
    "edit": _written,
    "class": _class,
    "span": _span,
    "write": _written,
}
"""Kind -> the check of an answer."""
TITLES = {
    "compare": "Which answer is better?",
    "rate": "How good is this answer?",
    "edit": "Make this answer right",
    "class": "What is this?",
    "span": "Mark the words",
    "write": "Write the answer",
}


def check_answer(kind: str, settings: Settings, item: Json, answer: Any) -> Json:
    """An answer in its one form: the kind's own keys, and `tags`, `reason`, `seconds`, `shown` where they were given.

    Raises:
        UserError: a part is missing, of another type, out of range or no choice of this project.
    """
    if not isinstance(answer, Mapping):
        raise UserError(f"the answer is a {type(answer).__name__}; an object is needed")
    made = KINDS[kind](settings, item, answer)
    tags = _list(answer.get("tags", ()), "tags", 0, len(settings.tags))
    for tag in tags:
        if tag not in settings.tags:
            raise UserError(f"{tag!r} is no reason of this project; it has {', '.join(settings.tags) or 'none'}")
    if tags:
        made["tags"] = [tag for tag in settings.tags if tag in tags]
    if reason := _text(answer.get("reason") or "", "reason", empty=True).strip():
        made["reason"] = reason
    seconds = answer.get("seconds")
    if seconds is not None:
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 1e6:
            raise UserError(f"seconds is {seconds!r}; a number from 0 to 1,000,000 is needed")
        made["seconds"] = round(float(seconds), 1)
    if kind == "compare" and answer.get("shown") is not None:
        made["shown"] = sorted((0, 1), reverse=answer["shown"] in ([1, 0], (1, 0)))
    return made


def core(kind: str, answer: Json) -> Any:
    """What two people must both say to agree: an answer without reasons and times, hashable; None for free text."""
    match kind:
        case "compare":
            return answer["choice"]
        case "rate":
            return answer["score"]
        case "class":
            return tuple(answer["labels"])
        case "span":
            return tuple(tuple(span) for span in answer["spans"])
    return None


def word_tags(item: Json, answer: Json) -> list[str]:
    """Spans as one tag a word: B-label, I-label, O (Ramshaw and Marcus 1995, as IOB2).

    >>> word_tags({"words": ["Anna", "Rossi", "sang"]}, {"spans": [[0, 1, "person"]]})
    ['B-person', 'I-person', 'O']
    """
    tags = ["O"] * len(item["words"])
    for first, last, label in answer["spans"]:
        tags[first] = f"B-{label}"
        tags[first + 1 : last + 1] = [f"I-{label}"] * (last - first)
    return tags


def spans_of(tags: Sequence[str]) -> list[list[Any]]:
    """The spans of one tag a word; a plain tag counts as its own label, neighbours with the same tag as one span.

    >>> spans_of(["B-person", "I-person", "O", "B-place"])
    [[0, 1, 'person'], [3, 3, 'place']]
    """
    spans: list[list[Any]] = []
    for at, tag in enumerate(tags):
        begins, label = tag.startswith("B-"), tag[2:] if tag[:2] in ("B-", "I-") else tag
        if label == "O":
            continue
        if spans and not begins and spans[-1][1] == at - 1 and spans[-1][2] == label:
            spans[-1][1] = at
        else:
            spans.append([at, at, label])
    return spans
