"""The texts of a sample, one by one and in order, and the same sample with other texts; and a sample as one line of JSON.

Left out: roles, names of tools, call ids, tool definitions and labels, which are structure and not text; files
(convert.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from bottega.core.types import Conversation, Document, Labelled, Preference, Sample, Turn, Where

Change = Callable[[str], str]
KINDS: dict[str, type[Any]] = {
    "document": Document,
    "conversation": Conversation,
    "preference": Preference,
    "labelled": Labelled,
}
_STRUCTURE = ("id", "type", "name", "role", "from")
"""Keys of tool calls and of columns beside the text whose texts are left as they are."""


def rewritten(sample: Sample, change: Change) -> Sample:
    """The sample with `change` applied to each of its texts: turns, thinking, arguments of tool calls, other columns."""
    meta = _leaves(sample.meta, change)
    if isinstance(sample, Document):
        return replace(sample, text=change(sample.text), meta=meta)
    if isinstance(sample, Conversation):
        return replace(sample, turns=_turns(sample.turns, change), meta=meta)
    if isinstance(sample, Preference):
        prompt, chosen, rejected = (_turns(side, change) for side in (sample.prompt, sample.chosen, sample.rejected))
        return replace(sample, prompt=prompt, chosen=chosen, rejected=rejected, meta=meta)
    words = tuple(change(word) for word in sample.words)
    return replace(sample, prompt=_turns(sample.prompt, change), text=change(sample.text), words=words, meta=meta)


def _turns(turns: Sequence[Turn], change: Change) -> tuple[Turn, ...]:
    return tuple(
        replace(
            turn,
            content=change(turn.content),
            thinking=change(turn.thinking) if turn.thinking is not None else None,
            tool_calls=tuple(_leaves(call, change) for call in turn.tool_calls),
        )
        for turn in turns
    )


def _leaves(value: Any, change: Change, key: str = "") -> Any:
    if isinstance(value, str):
        return value if key in _STRUCTURE else change(value)
    if isinstance(value, Mapping):
        return {name: _leaves(inner, change, str(name)) for name, inner in value.items()}
    return [_leaves(inner, change) for inner in value] if isinstance(value, list | tuple) else value


def texts(sample: Sample) -> list[str]:
    """Every text of the sample, in the order in which `rewritten` visits them."""
    found: list[str] = []

    def keep(text: str) -> str:
        found.append(text)
        return text

    rewritten(sample, keep)
    return found


def learned(sample: Sample) -> list[str]:
    """The texts that are judged for quality: a document, the assistant's turns, a labelled text."""
    if isinstance(sample, Conversation):
        return [turn.content for turn in sample.turns if turn.role == "assistant"]
    if isinstance(sample, Preference):
        return [turn.content for turn in (*sample.chosen, *sample.rejected) if turn.role == "assistant"]
    return [sample.text]


def whole(sample: Sample) -> str:
    """All that the sample holds but its other columns, as one line: what makes two samples equal."""
    plain = asdict(sample)
    return json.dumps(
        [type(sample).__name__, {k: v for k, v in plain.items() if k not in ("where", "meta")}], default=str
    )


def keys(sample: Sample) -> Iterator[bytes]:
    """8-byte hashes by which a sample is found again: of the whole sample, then of each of its texts."""
    yield row_key(sample)
    for text in texts(replace(sample, meta={})):
        if text.strip():
            yield text_key(text)


def row_key(sample: Sample) -> bytes:
    """The hash of the whole sample but its other columns."""
    return digest("row\0" + whole(sample))


def text_key(text: str) -> bytes:
    """The hash of one text, white space folded."""
    return digest("text\0" + " ".join(text.split()))


def digest(text: str) -> bytes:
    """8 bytes of BLAKE2b."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def dumps(sample: Sample) -> str:
    """The sample as one line of JSON that `loads` turns back."""
    kind = next(name for name, cls in KINDS.items() if isinstance(sample, cls))
    return json.dumps({"kind": kind, **asdict(sample)}, default=str)


def loads(line: str) -> Sample:
    """What `dumps` wrote."""
    data = json.loads(line)
    cls = KINDS[data.pop("kind")]
    data["where"] = Where(*data["where"].values()) if isinstance(data["where"], dict) else Where(*data["where"])
    for name in ("turns", "prompt", "chosen", "rejected"):
        if name in data:
            data[name] = tuple(Turn(**{**turn, "tool_calls": tuple(turn["tool_calls"])}) for turn in data[name])
    for name in ("tools", "words"):
        if name in data:
            data[name] = tuple(data[name])
    if isinstance(data.get("label"), list):
        data["label"] = tuple(data["label"])
    return cls(**data)  # type: ignore[no-any-return]
