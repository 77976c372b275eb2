"""Samples back to records of another format, and files of them: jsonl, json, csv, MDS shards.

Left out: formats with less room than a row needs; such a row is named and counted, not squeezed.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bottega.core.errors import UserError
from bottega.core.rundir import atomic_write
from bottega.core.types import Conversation, Document, Labelled, Preference, Sample, Turn
from bottega.data import mds
from bottega.data.formats import samples, to_json
from bottega.data.intake import Ledger
from bottega.data.sources import Problem
from bottega.data.turns import BadRow

Record = dict[str, Any]


def _message(turn: Turn) -> Record:
    """A turn as an OpenAI message; what is not set is left out."""
    message: Record = {"role": turn.role, "content": turn.content}
    for name in ("thinking", "tool_call_id", "name", "weight"):
        value = getattr(turn, name)
        if value is not None:
            message["reasoning_content" if name == "thinking" else name] = value
    if turn.tool_calls:
        message["tool_calls"] = [dict(call) for call in turn.tool_calls]
    return message


def _messages(turns: Sequence[Turn]) -> list[Record]:
    return [_message(turn) for turn in turns]


def _rest(sample: Sample) -> Record:
    tools = getattr(sample, "tools", ())
    return dict(sample.meta) | ({"tools": [dict(tool) for tool in tools]} if tools else {})


def _conversation(sample: Sample) -> Conversation:
    if not isinstance(sample, Conversation):
        raise BadRow("", f"a {type(sample).__name__.lower()} cannot be written as a conversation")
    return sample


def _plain(turns: Sequence[Turn], what: str) -> None:
    """Refuse what texts alone cannot hold."""
    for place, turn in enumerate(turns):
        if turn.tool_calls or turn.role == "tool" or turn.thinking is not None or turn.weight is not None:
            raise BadRow(
                f"turn {place + 1}", f"{what} has no place for tools, thinking or weights; convert to messages"
            )


def to_messages(sample: Sample) -> Record:
    """OpenAI messages."""
    talk = _conversation(sample)
    return {"messages": _messages(talk.turns)} | _rest(talk)


_SAYS = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def to_sharegpt(sample: Sample) -> Record:
    """ShareGPT's from and value; a tool call becomes a `function_call` turn."""
    talk = _conversation(sample)
    said: list[Record] = []
    for place, turn in enumerate(talk.turns):
        if turn.thinking is not None or (turn.tool_calls and turn.content.strip()):
            raise BadRow(
                f"turn {place + 1}",
                "sharegpt has no place for thinking, or for words beside a call; convert to messages",
            )
        weight = {} if turn.weight is None else {"weight": turn.weight}
        if turn.tool_calls:
            calls = [call["function"] for call in turn.tool_calls]
            said.append({"from": "function_call", "value": to_json(calls[0] if len(calls) == 1 else calls)} | weight)
        else:
            said.append({"from": _SAYS[turn.role], "value": turn.content} | weight)
    return {"conversations": said} | _rest(talk)


def to_alpaca(sample: Sample) -> Record:
    """Alpaca, earlier turns as `history`."""
    talk = _conversation(sample)
    _plain(talk.turns, "alpaca")
    turns = list(talk.turns)
    record: Record = {}
    if turns and turns[0].role == "system":
        record["system"] = turns.pop(0).content
    roles = [turn.role for turn in turns]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise BadRow("turns", "alpaca needs user and assistant in turn; convert to messages")
    asked, answered = turns[-2:]
    pairs = [[turns[i].content, turns[i + 1].content] for i in range(0, len(turns) - 2, 2)]
    record |= {"instruction": asked.content, "input": "", "output": answered.content}
    return record | ({"history": pairs} if pairs else {}) | _rest(talk)


def to_prompt_completion(sample: Sample) -> Record:
    """A prompt and its completion; as texts when there is one exchange, else as messages."""
    talk = _conversation(sample)
    if len(talk.turns) < 2 or talk.turns[-1].role != "assistant":
        raise BadRow("turns", "the last of at least two turns must be the assistant's; convert to messages")
    if [turn.role for turn in talk.turns] == ["user", "assistant"]:
        _plain(talk.turns, "prompt_completion")
        return {"prompt": talk.turns[0].content, "completion": talk.turns[1].content} | _rest(talk)
    return {"prompt": _messages(talk.turns[:-1]), "completion": _messages(talk.turns[-1:])} | _rest(talk)


def to_text(sample: Sample) -> Record:
    """Plain text."""
    if not isinstance(sample, Document):
        raise BadRow("", f"a {type(sample).__name__.lower()} is not plain text; its text depends on a template")
    return {"text": sample.text} | _rest(sample)


def to_preference(sample: Sample) -> Record:
    """Prompt, chosen and rejected as messages."""
    if not isinstance(sample, Preference):
        raise BadRow("", f"a {type(sample).__name__.lower()} cannot be written as a preference")
    sides = {name: _messages(getattr(sample, name)) for name in ("prompt", "chosen", "rejected")}
    if not sides["prompt"]:
        sides.pop("prompt")
    return sides | ({"margin": sample.margin} if sample.margin is not None else {}) | _rest(sample)


def to_unpaired(sample: Sample) -> Record:
    """KTO: prompt, completion, label; a preference gives a good and a bad row only by way of two conversions."""
    if not isinstance(sample, Labelled) or not sample.prompt or not isinstance(sample.label, bool):
        raise BadRow("label", "unpaired rows need a prompt, an answer and a label that is true or false")
    return {"prompt": _messages(sample.prompt), "completion": sample.text, "label": sample.label} | _rest(sample)


def to_labelled(sample: Sample) -> Record:
    """A text and its label."""
    if not isinstance(sample, Labelled) or sample.prompt:
        raise BadRow("label", "labelled rows need a text with a label and no prompt")
    label = list(sample.label) if isinstance(sample.label, tuple) else sample.label
    return {"text": sample.text, "label": label} | _rest(sample)


WRITERS: dict[str, Callable[[Sample], Record]] = {
    "messages": to_messages,
    "sharegpt": to_sharegpt,
    "alpaca": to_alpaca,
    "prompt_completion": to_prompt_completion,
    "text": to_text,
    "preference": to_preference,
    "unpaired": to_unpaired,
    "labelled": to_labelled,
}


def convert(
    paths: str | Path | Iterable[str | Path],
    *,
    to: str,
    out: str | Path,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    allow_loss: int | None = None,
) -> dict[str, Any]:
    """Write the rows in another format to `out` (.jsonl, .json, .csv, or a folder name.mds of shards); returns the account.

    Raises:
        UserError: an unknown format or suffix, or more rows than `allow_loss` (default: as for a run) that cannot be
            written.
    """
    if to not in WRITERS:
        raise UserError(f"cannot write the format {to!r}; choose one of {', '.join(WRITERS)}")
    file = Path(out)
    if file.suffix not in (".jsonl", ".json", ".csv", mds.SUFFIX):
        raise UserError(f"cannot write {file.name}; give a name that ends in .jsonl, .json, .csv or .mds (a folder)")
    ledger = Ledger(allow_loss)
    records: list[Record] = []
    for sample in samples(paths, format=format, columns=columns):
        ledger.saw(sample.where)
        if isinstance(sample, Problem):
            ledger.problem(sample)
            continue
        try:
            records.append(WRITERS[to](sample))
        except BadRow as error:
            ledger.problem(Problem(sample.where._replace(column=error.column), error.reason))
    intake = ledger.close(taken=len(records), tokens=0, trained=0)
    if file.suffix == mds.SUFFIX:
        plain = [json.loads(to_json(record)) for record in records]
        mds.write(file, plain, columns=mds.columns_of(plain))
    else:
        atomic_write(file, _written(records, file.suffix))
    return {
        "out": str(file),
        "format": to,
        "rows": len(records),
        "bad": dict(intake.bad),
        "examples": list(intake.examples),
    }


def _written(records: Sequence[Record], suffix: str) -> str:
    if suffix == ".jsonl":
        return "".join(to_json(record) + "\n" for record in records)
    if suffix == ".json":
        return json.dumps(list(records), ensure_ascii=False, indent=1, default=str) + "\n"
    columns = list(dict.fromkeys(name for record in records for name in record))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for record in records:
        values = (record.get(name, "") for name in columns)
        writer.writerow([to_json(v) if isinstance(v, list | dict | bool) else v for v in values])
    return text.getvalue()
