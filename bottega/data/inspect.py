"""One row the way the model will see it: token by token with its mask, for the terminal and as JSON.

Left out: many rows at once (report.py).
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from bottega.core.errors import UserError
from bottega.core.types import Conversation, Document, Preference, Sample
from bottega.data.chat import Encoded, Template, encode_many, text_tokens, to_message, tokenize
from bottega.data.formats import samples
from bottega.data.prepare import ends, fork, untrained
from bottega.data.sources import Problem
from bottega.data.spans import Chat, generated

_GREEN, _DIM, _BOLD, _OFF = "\x1b[30;42m", "\x1b[2m", "\x1b[1m", "\x1b[0m"


def inspect(
    path: str | Path,
    tokenizer: Any,
    template: Template | str | None = None,
    *,
    format: str | None = None,
    row: int = 1,
    mask: str = "assistant",
    thinking: str = "keep",
    max_tokens: int | None = None,
) -> dict[str, Any]:
    """One row's tokens with the weight of each, its trained stretches, and what the template says about itself.

    Args:
        template: a Template, a name of the table, a file, or None for the tokenizer's own.
        row: the row's number as errors name it (1-based record or line).
        max_tokens: a limit to compare with.

    Returns:
        A JSON-able dict: file, row, kind, template, mask, sequences [{name, num_tokens, num_trained, tokens [{id,
        token, text, trains}], trained [text]}], notes.

    Raises:
        UserError: there is no such row, or it cannot be used (named with its column).
    """
    if not isinstance(template, Template):
        template = Template.find(template, tokenizer)
    template = template.bind(tokenizer)
    sample = _sample(path, format, row)
    result: dict[str, Any] = {"file": str(path), "row": row, "kind": type(sample).__name__.lower(), "mask": mask}
    notes: list[str] = []
    if isinstance(sample, Document):
        encoded = [("text", _document(sample, tokenizer))]
    else:
        result["template"] = {"name": template.name, "sha256": template.sha256}
        notes += template.notes(tokenizer)
        encoded = _conversations(sample, tokenizer, template, mask, thinking)
    result["sequences"] = [_sequence(name, one, tokenizer) for name, one in encoded]
    if isinstance(sample, Preference):
        prefix, *_ = fork(encoded[0][1].tokens, encoded[1][1].tokens)
        result["shared_prefix_tokens"] = len(prefix.ids)
    if isinstance(sample, Conversation):
        result["template_marks_agree"] = _cross_check(sample, template, encoded[0][1], mask)
    notes += [note for _, one in encoded for note in one.notes]
    for sequence in result["sequences"]:
        if max_tokens is not None and sequence["num_tokens"] > max_tokens:
            notes.append(f"{sequence['num_tokens']:,} tokens are more than max_tokens {max_tokens:,}")
        if sequence["num_trained"] == 0:
            notes.append("nothing to learn in this row under this mask; it would be dropped")
    return result | {"notes": list(dict.fromkeys(notes))}


def _sample(path: str | Path, format: str | None, row: int) -> Sample:
    number = 0
    for sample in samples(path, format=format):
        number = sample.where.row
        if number == row:
            if isinstance(sample, Problem):
                raise UserError(str(sample))
            return sample
    raise UserError(f"{path} has no row {row}; its last is {number}")


def _document(sample: Document, tokenizer: Any) -> Encoded:
    _, offsets = tokenize([sample.text], tokenizer)[0]
    tokens = text_tokens([sample.text], tokenizer)[0]
    size = len(sample.text)
    offsets = [*offsets, *[(size, size)] * (len(tokens.ids) - len(offsets))]
    return Encoded(tokens=tokens, text=sample.text, offsets=offsets, spans=())


def _conversations(
    sample: Sample, tokenizer: Any, template: Template, mask: str, thinking: str
) -> list[tuple[str, Encoded]]:
    if isinstance(sample, Conversation):
        named = [("conversation", sample)]
    elif isinstance(sample, Preference):
        prompt = untrained(sample.prompt)
        sides = (("chosen", sample.chosen), ("rejected", sample.rejected))
        named = [(n, Conversation(turns=(*prompt, *t), tools=sample.tools, where=sample.where)) for n, t in sides]
    else:
        raise UserError(
            f"{sample.where} is a labelled text, which has no mask; inspect rows of chats, preferences or text"
        )
    answers = encode_many([c for _, c in named], tokenizer, template, mask=mask, thinking=thinking)
    for answer in answers:
        if isinstance(answer, Problem):
            raise UserError(str(answer))
    return [(name, answer) for (name, _), answer in zip(named, answers) if isinstance(answer, Encoded)]


def _sequence(name: str, encoded: Encoded, tokenizer: Any) -> dict[str, Any]:
    ids, trains = encoded.tokens
    names = tokenizer.convert_ids_to_tokens(list(ids))
    tokens = []
    before = (-1, -1)
    for id_, token, (start, end), weight in zip(ids, names, encoded.offsets, trains):
        if start < 0 or start == end:
            text = token if id_ in (tokenizer.bos_token_id, tokenizer.eos_token_id) else ""
        else:
            text = "" if (start, end) == before else encoded.text[max(start, before[1]) : end]
        before = (start, end)
        tokens.append({"id": int(id_), "token": token, "text": text, "trains": float(weight)})
    return {
        "name": name,
        "num_tokens": len(tokens),
        "num_trained": sum(token["trains"] > 0 for token in tokens),
        "num_answers": len(ends(trains)),
        "tokens": tokens,
        "trained": [
            "".join(token["text"] for token in run)
            for trained, run in itertools.groupby(tokens, key=lambda token: token["trains"] > 0)
            if trained
        ],
    }


def _cross_check(sample: Conversation, template: Template, encoded: Encoded, mask: str) -> bool | None:
    """Whether the template's own `{% generation %}` marks hold the same answers; None when it has none."""
    chat = Chat(messages=tuple(to_message(turn) for turn in sample.turns), tools=sample.tools)
    marks = generated(chat, template.jinja)
    if marks is None or mask != "assistant" or any(turn.weight is not None for turn in sample.turns):
        return None
    if len(marks) != len(encoded.spans):
        return False
    core = [
        (encoded.text[a:b].strip(), encoded.text[s.start : s.end].strip()) for (a, b), s in zip(marks, encoded.spans)
    ]
    return all(marked and (marked in ours or ours in marked) for marked, ours in core)


def render(result: dict[str, Any], *, colour: bool) -> str:
    """The row for a person: trained tokens on green (or between ⟦ and ⟧), a bar between tokens, context dim."""
    lines = []
    head = f"{result['file']}:{result['row']}  {result['kind']}"
    if "template" in result:
        head += f"  template {result['template']['name']}  mask {result['mask']}"
    lines.append(f"{_BOLD}{head}{_OFF}" if colour else head)
    for sequence in result["sequences"]:
        lines.append(f"{sequence['name']}: {sequence['num_tokens']} tokens, {sequence['num_trained']} trained")
        lines.append(_coloured(sequence["tokens"]) if colour else _bracketed(sequence["tokens"]))
    marks = result.get("template_marks_agree")
    if marks is not None:
        lines.append(f"the template's own generation marks {'agree' if marks else 'DISAGREE'} with this mask")
    return "\n".join(lines + [f"note: {note}" for note in result["notes"]])


def _shown(text: str) -> str:
    visible = text.replace("\n", "⏎\n").replace("\t", "→")
    return "".join(c if c == "\n" or c.isprintable() else f"\\u{ord(c):04x}" for c in visible)


def _coloured(tokens: list[dict[str, Any]]) -> str:
    pieces = []
    for token in tokens:
        style = _GREEN if token["trains"] > 0 else _DIM
        lines = [f"{style}{line}{_OFF}" if line else "" for line in _shown(token["text"]).split("\n")]
        pieces.append("\n".join(lines))
    return "|".join(piece for piece in pieces if piece)


def _bracketed(tokens: list[dict[str, Any]]) -> str:
    pieces = []
    for trained, run in itertools.groupby(tokens, key=lambda token: token["trains"] > 0):
        text = "|".join(filter(None, (_shown(token["text"]) for token in run)))
        pieces.append(f"⟦{text}⟧" if trained else text)
    return "".join(pieces)
