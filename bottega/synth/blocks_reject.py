"""Blocks that reject what a rule can see: false arithmetic, another language than the leaf's, a paraphrase that is none.

Left out: the rules themselves (blocks_arithmetic.py, blocks_language.py), judges (blocks_teacher.py).
"""

from __future__ import annotations

import re

from bottega.data.near import words_of
from bottega.synth.blocks import Block, Context, Stream, text_of
from bottega.synth.blocks_arithmetic import false_equations
from bottega.synth.blocks_language import language_of

_NUMBERS = re.compile(r"\d+(?:[.,]\d+)*")


def arithmetic(*, column: str) -> Block:
    """Reject texts that write down an equation of numbers that does not hold (12 x 3 = 35)."""
    name = column

    async def block(rows: Stream, context: Context) -> Stream:
        async for row in rows:
            wrong = false_equations(text_of(row.get(name)))
            if wrong:
                context.reject(row, "false arithmetic", detail=wrong[0])
            else:
                yield row

    return block


def reworded(*, column: str, original: str) -> Block:
    """Reject a text that is its original word for word, or that has other numbers."""
    name = column

    async def block(rows: Stream, context: Context) -> Stream:
        async for row in rows:
            text, known = text_of(row.get(name)), text_of(row.get(original))
            if words_of(text) == words_of(known):
                context.reject(row, "the same words")
            elif sorted(_NUMBERS.findall(text)) != sorted(_NUMBERS.findall(known)):
                context.reject(row, "other numbers", detail=text[:200])
            else:
                yield row

    return block


def language(*, columns: list[str]) -> Block:
    """Reject rows that are written in another language than their leaf."""

    async def block(rows: Stream, context: Context) -> Stream:
        async for row in rows:
            found = language_of(" ".join(text_of(row.get(name)) for name in columns))
            if found and context.language and found != context.language:
                context.reject(row, "wrong language", score=found)
            else:
                yield row

    return block
