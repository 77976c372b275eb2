"""One function a format: a record (a row as it was read) to a sample.

Left out: which function reads which file (formats.py), reading files (sources.py).

Every function takes the record and its place, and raises BadRow, with the column at fault, for a row that cannot be
used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bottega.core.types import Conversation, Document, Labelled, Preference, Sample, Turn, Where
from bottega.data.sources import TYPE_KEY, Record
from bottega.data.turns import (
    BadRow,
    is_transcript,
    prompt_of,
    text_of,
    tools_of,
    transcript_of,
    turn_of,
    turns_of,
)

PAIRS = tuple(
    (asked, answered)
    for asked, answers in (
        ("prompt", ("completion", "response", "answer", "output", "continuation", "target")),
        ("instruction", ("output", "response", "completion", "answer")),
        ("inputs", ("targets", "outputs")),
        ("input", ("output", "target", "completion", "response", "answer")),
        ("question", ("answer", "response", "output", "completion")),
        ("query", ("response", "answer", "output", "completion")),
        ("context", ("continuation", "answer", "completion", "response")),
    )
    for answered in answers
)
"""Columns that make an exercise: what was asked and what is answered, in the order in which they are looked for."""
ASKED = ("prompt", "question", "instruction", "query")
"""Columns that ask something, of rows that hold no answer."""
ANSWERS = ("completion", "response", "answer", "output")
_PRETRAINING = re.compile(r"<\|(system|user|assistant)\|>\n?")
_NAMED_KEYS = {"system", "tools", "messages", "conversations", "chosen", "rejected", TYPE_KEY}


def _need(record: Record, *names: str) -> Any:
    """The value of the first of `names` that the record has.

    Raises:
        BadRow: none is there.
    """
    for name in names:
        if record.get(name) is not None:
            return record[name]
    empty = next((name for name in names if name in record), None)
    if empty is not None:
        raise BadRow(empty, f"the column {empty!r} is empty")
    have = ", ".join(key for key in list(record)[:8] if key != TYPE_KEY) or "nothing"
    raise BadRow(names[0], f"there is no column {' or '.join(map(repr, names[:3]))}; the row has {have}")


def _first(record: Record, names: Sequence[str]) -> str:
    """The first of `names` that the record has, else the first name."""
    return next((name for name in names if record.get(name) is not None), names[0])


def _meta(record: Record, *used: str) -> dict[str, Any]:
    taken = {*used, *_NAMED_KEYS}
    return {key: value for key, value in record.items() if key not in taken}


def _system(record: Record) -> tuple[Turn, ...]:
    text = record.get("system")
    return (Turn(role="system", content=text),) if isinstance(text, str) and text.strip() else ()


def _with_system(record: Record, turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    return turns if turns and turns[0].role == "system" else (*_system(record), *turns)


def _answer(text: str, column: str) -> Turn:
    if not text.strip():
        raise BadRow(column, "an answer without text")
    return Turn(role="assistant", content=text)


def _unmasked(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """InstructLab's `unmask`: every turn trains, except the system's; the end token only behind answers."""
    return tuple(
        turn if turn.role == "system" else replace(turn, weight=1.0, ends=turn.role == "assistant") for turn in turns
    )


def messages(record: Record, where: Where) -> Sample:
    """OpenAI messages, with tools and tool calls; InstructLab's rows with `unmask` or the role `pretraining`."""
    value = _need(record, "messages")
    rest = _meta(record, "unmask")
    if isinstance(value, list) and any(isinstance(m, Mapping) and m.get("role") == "pretraining" for m in value):
        return _pretraining(value, where, rest)
    turns = _with_system(record, turns_of(value, "messages"))
    if record.get("unmask") is True:
        turns = _unmasked(turns)
    return Conversation(turns=turns, tools=tools_of(record.get("tools")), where=where, meta=rest)


def _pretraining(value: list[Any], where: Where, meta: dict[str, Any]) -> Sample:
    """InstructLab's older rows: one message of role `pretraining` whose text carries the turns' marks."""
    text = "".join(text_of(m.get("content"), f"messages[{i}].content") for i, m in enumerate(value))
    pieces = _PRETRAINING.split(text)
    if len(pieces) < 3 or pieces[0].strip():
        return Document(text=text, where=where, meta=meta)
    turns = tuple(Turn(role=role, content=said.strip("\n")) for role, said in zip(pieces[1::2], pieces[2::2]))
    return Conversation(turns=_unmasked(turns), where=where, meta=meta)


def sharegpt(record: Record, where: Where) -> Sample:
    """ShareGPT: `conversations` of from/value, roles human, gpt, observation, function_call, system."""
    column = _first(record, ("conversations", "conversation"))
    turns = _with_system(record, turns_of(_need(record, column), column))
    rest = _meta(record, column)
    return Conversation(turns=turns, tools=tools_of(record.get("tools")), where=where, meta=rest)


def alpaca(record: Record, where: Where) -> Sample:
    """Alpaca: instruction, optional input, output; optional system and history (pairs of earlier turns)."""
    instruction = text_of(_need(record, "instruction"), "instruction")
    extra = record.get("input")
    asked = f"{instruction}\n\n{text_of(extra, 'input')}" if extra not in (None, "") else instruction
    column = _first(record, ("output", "response", "completion"))
    history: list[Turn] = []
    for place, pair in enumerate(record.get("history") or []):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow(f"history[{place}]", "expected a pair of texts: what was asked and what was answered")
        history.append(Turn(role="user", content=text_of(pair[0], f"history[{place}]")))
        history.append(_answer(text_of(pair[1], f"history[{place}]"), f"history[{place}]"))
    last = _answer(text_of(_need(record, column), column), column)
    turns = (*_system(record), *history, Turn(role="user", content=asked), last)
    return Conversation(turns=turns, where=where, meta=_meta(record, "instruction", "input", "history", column))


def prompt_completion(record: Record, where: Where) -> Sample:
    """A prompt and its completion (or response, answer, output), as texts or as lists of messages."""
    have = (pair for pair in PAIRS if all(record.get(name) is not None for name in pair))
    asked, answered = next(have, ("", ""))
    if not asked:
        asked = next((name for name, _ in PAIRS if record.get(name) is not None), "")
        _need(record, *(answer for name, answer in PAIRS if name == asked), *([] if asked else ["prompt"]))
    prompt, answer = record[asked], record[answered]
    turns = _with_system(record, prompt_of(prompt, asked))
    if isinstance(answer, list):
        turns += turns_of(answer, answered)
    else:
        turns += (_answer(text_of(answer, answered), answered),)
    return Conversation(
        turns=turns, tools=tools_of(record.get("tools")), where=where, meta=_meta(record, asked, answered)
    )


def prompt(record: Record, where: Where) -> Sample:
    """Something asked and not answered: a text or a list of messages; the other columns stay with it."""
    column = _first(record, ASKED)
    turns = _with_system(record, prompt_of(_need(record, column), column))
    if not turns or turns[-1].role == "assistant":
        raise BadRow(column, "a prompt that ends with an answer")
    return Conversation(turns=turns, tools=tools_of(record.get("tools")), where=where, meta=_meta(record, column))


def text(record: Record, where: Where) -> Sample:
    """Plain text to go on with."""
    column = _first(record, ("text", "content", "document"))
    said = text_of(_need(record, column), column)
    if not said.strip():
        raise BadRow(column, "a text without a character")
    return Document(text=said, where=where, meta=_meta(record, column))


def _side(value: Any, column: str, prompt: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """One side of a preference, with the prompt in front if it is there."""
    if isinstance(value, str):
        if is_transcript(value):
            return transcript_of(value, column)
        return (*prompt, _answer(value, column))
    if isinstance(value, Mapping):
        if "messages" in value:
            return _with_system(dict(value), turns_of(value["messages"], f"{column}.messages"))
        return (*prompt, turn_of(value, column))
    turns = turns_of(value, column)
    return turns if turns[: len(prompt)] == prompt else (*prompt, *turns)


def _margin(record: Record) -> float | None:
    value = _number(record.get("margin"))
    if value is None and record.get("margin") is not None:
        raise BadRow("margin", f"the margin {record['margin']!r} is not a finite number")
    high, low = _number(record.get("score_chosen")), _number(record.get("score_rejected"))
    return high - low if value is None and high is not None and low is not None else value


def _number(value: Any) -> float | None:
    """A finite number, also when written as text (in csv files); None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def preference(record: Record, where: Where) -> Sample:
    """Chosen and rejected: texts, messages or HH transcripts, with a prompt or with what both share as one."""
    asked = next(
        (n for n in ("prompt", "question", "query", "input", "instruction") if record.get(n) is not None), None
    )
    before = _system(record)
    if asked is not None:
        before = _with_system(record, prompt_of(record[asked], asked))
    elif record.get("conversations") is not None:
        before = _with_system(record, turns_of(record["conversations"], "conversations"))
    chosen = _side(_need(record, "chosen"), "chosen", before)
    rejected = _side(_need(record, "rejected"), "rejected", before)
    shared = 0
    for one, other in zip(chosen, rejected):
        if one != other:
            break
        shared += 1
    if chosen == rejected:
        raise BadRow("rejected", "chosen and rejected are the same, so there is nothing to prefer")
    for column, side in (("chosen", chosen[shared:]), ("rejected", rejected[shared:])):
        if not any(turn.role == "assistant" for turn in side):
            raise BadRow(column, "no answer after what both sides share")
    return Preference(
        prompt=chosen[:shared],
        chosen=chosen[shared:],
        rejected=rejected[shared:],
        tools=tools_of(record.get("tools")),
        margin=_margin(record),
        where=where,
        meta=_meta(record, "margin", *([asked] if asked else [])),
    )


_TAGS = {
    "true": True,
    "good": True,
    "desirable": True,
    "1": True,
    "false": False,
    "bad": False,
    "undesirable": False,
    "0": False,
}


def unpaired(record: Record, where: Where) -> Sample:
    """KTO: a prompt, a completion and whether it is good (`label` or `kto_tag`)."""
    column = _first(record, ("label", "kto_tag"))
    raw = _need(record, column)
    label = raw if isinstance(raw, bool) else _TAGS.get(str(raw).strip().lower())
    if label is None:
        raise BadRow(column, f"the label {raw!r} is neither true nor false")
    if "messages" in record or "conversations" in record:
        name = _first(record, ("messages", "conversations"))
        turns = turns_of(record[name], name)
        if turns[-1].role != "assistant":
            raise BadRow(name, "the last turn is not an answer")
        prompt, answer, used = _with_system(record, turns[:-1]), turns[-1].content, name
    else:
        used = _first(record, ANSWERS)
        value = _need(record, used)
        prompt = _with_system(record, prompt_of(_need(record, "prompt", "question", "instruction"), "prompt"))
        answer = (
            turns_of(value, used)[-1].content
            if isinstance(value, list)
            else _answer(text_of(value, used), used).content
        )
    return Labelled(text=answer, label=label, prompt=prompt, where=where, meta=_meta(record, column, used, "prompt"))


def labelled(record: Record, where: Where) -> Sample:
    """A text with its class, classes or number."""
    column = _first(record, ("text", "sentence", "content"))
    label_column = _first(record, ("label", "labels", "score", "target"))
    value = _need(record, label_column)
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRow(label_column, f"the label {value!r} is not a finite number")
    if isinstance(value, list):
        value = tuple(map(str, value))
    elif not isinstance(value, str | int | float):
        raise BadRow(label_column, f"expected a class or a number, found {type(value).__name__}")
    said = text_of(_need(record, column), column)
    return Labelled(text=said, label=value, where=where, meta=_meta(record, column, label_column))


def tagged(record: Record, where: Where) -> Sample:
    """Words and a tag for each (named entities, parts of speech)."""
    column, tags = _first(record, ("tokens", "words")), _first(record, ("tags", "ner_tags", "labels"))
    words, labels = _need(record, column), _need(record, tags)
    if not isinstance(words, list) or not isinstance(labels, list) or len(words) != len(labels) or not words:
        raise BadRow(tags, "expected a list of words and a list of as many tags")
    bare = next((i for i, word in enumerate(words) if not isinstance(word, str) or not word.strip()), None)
    if bare is not None:
        raise BadRow(f"{column}[{bare}]", "a word without text")
    if any(not isinstance(tag, str | int) or isinstance(tag, bool) for tag in labels):
        raise BadRow(tags, "a tag is a name or a whole number")
    spoken = tuple(word.strip() for word in words)
    return Labelled(
        text=" ".join(spoken),
        label=tuple(map(str, labels)),
        words=spoken,
        where=where,
        meta=_meta(record, column, tags),
    )


def steps(record: Record, where: Where) -> Sample:
    """A prompt, an answer in steps, and of each whether it is right (process supervision)."""
    column, marks = _first(record, ("steps", "completions")), "labels"
    parts, labels = _need(record, column), _need(record, marks)
    if not isinstance(parts, list) or not isinstance(labels, list) or len(parts) != len(labels) or not parts:
        raise BadRow(marks, "expected a list of steps and a list of as many labels")
    if any(not isinstance(step, str) or not step.strip() for step in parts):
        raise BadRow(column, "a step is a text")
    if any(not isinstance(label, bool) for label in labels):
        raise BadRow(marks, "a step's label is true or false")
    prompt = _with_system(record, prompt_of(_need(record, "prompt", "question", "instruction"), "prompt"))
    meta = _meta(record, column, marks, "prompt")
    said = tuple(map(str, labels))
    return Labelled(text="\n".join(parts), label=said, words=tuple(parts), prompt=prompt, where=where, meta=meta)


def float_only(record: Record, where: Where) -> Sample:
    """LMFlow's `float_only`: a number without a text (the output of a reward model)."""
    value = _number(_need(record, "value"))
    if value is None:
        raise BadRow("value", f"{record['value']!r} is not a finite number")
    return Labelled(text="", label=value, where=where, meta=_meta(record, "value"))


def image_text(record: Record, where: Where) -> Sample:
    """LMFlow's `image_text`: refused."""
    raise BadRow(
        "images", "vision is out of scope, so image_text rows cannot be read; give text_only or conversation rows"
    )


def textlist(record: Record, where: Where) -> tuple[Sample, ...]:
    """Several answers to one prompt (LMFlow's `text_to_textlist`): one conversation an answer."""
    asked = _first(record, ("input", "prompt"))
    answers = _need(record, "output", "outputs", "responses")
    if not isinstance(answers, list) or not answers:
        raise BadRow("output", "expected a list with at least one answer")
    turns = _with_system(record, prompt_of(_need(record, asked), asked))
    rest = _meta(record, asked, "output", "outputs", "responses")
    return tuple(
        Conversation(turns=(*turns, _answer(text_of(said, f"output[{n}]"), f"output[{n}]")), where=where, meta=rest)
        for n, said in enumerate(answers)
    )


def scored(record: Record, where: Where) -> tuple[Sample, ...]:
    """Scored answers to one prompt (LMFlow's `text_to_scored_textlist`): the best against each that scores lower."""
    asked = _first(record, ("input", "prompt", "question"))
    column = _first(record, ("output", "responses", "completions"))
    answers = _need(record, column)
    if not isinstance(answers, list) or len(answers) < 2:
        raise BadRow(column, "expected a list of at least two scored answers")
    pairs = []
    for place, item in enumerate(answers):
        score = _number(item.get("score")) if isinstance(item, Mapping) else None
        if score is None:
            raise BadRow(f"{column}[{place}].score", "expected an object with a text and a finite score")
        spot = f"{column}[{place}].text"
        pairs.append((score, _answer(text_of(item.get("text", item.get("content")), spot), spot)))
    pairs.sort(key=lambda pair: -pair[0])
    best, lower = pairs[0], [pair for pair in pairs if pair[0] < pairs[0][0]]
    if not lower:
        raise BadRow(column, f"all scores are {best[0]:g}, so there is nothing to prefer")
    prompt = _with_system(record, prompt_of(_need(record, asked), asked))
    rest = _meta(record, asked, column)
    return tuple(
        Preference(prompt=prompt, chosen=(best[1],), rejected=(said,), margin=best[0] - score, where=where, meta=rest)
        for score, said in lower
    )
