"""Blocks for a teacher that goes on writing instead of following instructions, and checks of what it wrote against the document.

Left out: prompts in tags (blocks_teacher.py). A base model that never saw an instruction has seen texts with questions behind them:
it is given the text and the beginning of a question, and what it writes next is cut at marks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from bottega.core.errors import UserError
from bottega.core.journal import Answer
from bottega.core.types import RAW, Turn
from bottega.data.sources import FIELD
from bottega.synth.blocks import Block, Context, Stream, column, text_of
from bottega.synth.blocks_teacher import MOST_REPLIES, number_of, ordered
from bottega.synth.pipeline_account import Row

SENTENCE = re.compile(r"(?<=[.!?])\s+")
"""Between two sentences."""


def fill(text: str, row: Row) -> str:
    """`{{ column }}` replaced by the row's value.

    Raises:
        UserError: the row has no such column.
    """
    return FIELD.sub(lambda match: text_of(column(row, match[1])), text)


def cut(written: str, marks: Sequence[str]) -> list[str] | None:
    """What stands before, between and behind the marks, each once and in order; None where one is missing or a part is empty.

    >>> cut(" When does the mill open? A: 7", ["A:"])
    ['When does the mill open?', '7']
    """
    parts, rest = [], written
    for mark in marks:
        before, found, rest = rest.partition(mark)
        if not found:
            return None
        parts.append(before.strip())
    parts.append(rest.strip())
    return parts if all(parts) else None


def continue_text(
    *,
    text: str,
    outputs: list[str],
    marks: Sequence[str] = (),
    stop: Sequence[str] = ("\n",),
    n: int = 1,
    max_tokens: int = 64,
    temperature: float = 0.8,
    top_p: float = 1.0,
) -> Block:
    """Let the teacher go on with a text, no chat template around it; what it writes is cut into `outputs` at the `marks`.

    Args:
        text: how the text begins, `{{ column }}` from the row. marks: one between each two outputs. stop: where writing ends.
        n: times, each with its own seed.
    """
    if not 1 <= n <= MOST_REPLIES:
        raise UserError(f"continue: n is {n}, but must be 1 to {MOST_REPLIES}; change it")
    if len(marks) != len(outputs) - 1:
        raise UserError(
            f"continue: {len(outputs)} outputs need {len(outputs) - 1} marks, not {len(marks)}; change marks"
        )
    sampling: dict[str, Any] = {
        "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "stop": list(stop),
    }  # fmt: skip

    async def block(rows: Stream, context: Context) -> Stream:
        async def work(row: Row) -> list[Answer]:
            begun = [Turn(role=RAW, content=fill(text, row))]
            return [await context.asker.ask(begun, number=number_of(row, at), **sampling) for at in range(n)]

        async for row, replies in ordered(rows, context, work):
            context.step.calls += len(replies)
            for reply in replies:
                parts = None if reply.finish == "length" else cut(reply.text, marks)
                if parts is None:
                    context.reject(row, "not in the form asked for", detail=reply.text[:400])
                else:
                    yield {**row, **dict(zip(outputs, parts))}

    return block


def confirm(*, ask: str, column: str, max_tokens: int = 64) -> Block:
    """Ask again, in chat and without chance; the row stays if the reply is what its column says (case and a full stop apart).

    Args:
        ask: the question, `{{ column }}` from the row.
    """
    name = column
    sampling: dict[str, Any] = {"max_tokens": max_tokens, "temperature": 0.0, "top_p": 1.0}

    async def block(rows: Stream, context: Context) -> Stream:
        async def work(row: Row) -> Answer:
            return await context.asker.ask([Turn(role="user", content=fill(ask, row))], **sampling)

        async for row, reply in ordered(rows, context, work):
            context.step.calls += 1
            if _plain(reply.text) == _plain(text_of(row.get(name))):
                yield row
            else:
                context.reject(row, "asked again, another answer", detail=reply.text[:400])

    return block


def stands(*, column: str, within: str) -> Block:
    """Keep rows whose column stands word for word in another (case and a final full stop apart)."""
    return _held(column, within, "not in the text", lambda value: [_plain(value)])


def names(*, column: str, within: str) -> Block:
    """Keep rows whose column names something, and nothing that another column does not: capitalised words after the first, numbers."""
    return _held(column, within, "names what is not in the text", named)


def named(text: str) -> list[str]:
    """The words with a capital letter, the first one apart, and the numbers.

    >>> named("When does the Gelnov mill open on floor 3?")
    ['Gelnov', '3']
    """
    words = re.findall(r"\w+(?:['’-]\w+)*", text)
    return [word for place, word in enumerate(words) if word[0].isdigit() or (place and word[0].isupper())]


def sentence(*, column: str, within: str, output: str) -> Block:
    """The sentence of a text in which the row's column stands goes into `output`; what stands in none, or in several, is rejected."""
    name = column

    async def block(rows: Stream, context: Context) -> Stream:
        async for row in rows:
            part = _plain(row.get(name, ""))
            whole = [one.strip() for one in SENTENCE.split(text_of(row.get(within))) if one.strip()]
            found = [one for one in whole if part and _is_in(part, one.lower())]
            if len(found) == 1:
                yield {**row, output: found[0]}
            else:
                told = f"{part}: {len(found)} sentences"
                context.reject(row, "stands in no one sentence", detail=told[:400])

    return block


def _held(name: str, within: str, reason: str, wanted: Callable[[str], list[str]]) -> Block:
    async def block(rows: Stream, context: Context) -> Stream:
        async for row in rows:
            found = wanted(text_of(column(row, name)))
            whole = text_of(column(row, within)).lower()
            if found and all(one and _is_in(one.lower(), whole) for one in found):
                yield row
            else:
                context.reject(row, reason, detail=", ".join(found)[:400] or "names nothing")

    return block


def _is_in(part: str, whole: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", whole) is not None


def _plain(text: Any) -> str:
    return " ".join(str(text).split()).removesuffix(".").strip().lower()
