"""The block that lets the teacher play the user who begins: from the raw beginning of its own chat template, where it has one here.

Left out: what follows the first message (blocks_teacher.py, blocks_dialogue.py).
"""

from __future__ import annotations

from typing import Any

from bottega.core.errors import Unanswered
from bottega.core.journal import Answer
from bottega.core.types import Turn
from bottega.synth.blocks import Block, Context, Stream
from bottega.synth.blocks_teacher import generate, number_of, ordered
from bottega.synth.pipeline_account import Row

LONGEST = 2_000
"""Characters of a first message."""


def first_message(
    *, prompt: str, opening: str, output: str = "question", max_tokens: int = 200, temperature: float = 1.0
) -> Block:
    """A user's first message to an assistant, in the column `output`.

    A teacher whose template is known (a model of this machine, an endpoint with --api completions) is given the template up to the
    place where a user's words begin, and goes on (Magpie, arXiv 2406.08464, section 2); one that is talked to by chat alone is asked.

    Args:
        opening: the prompt whose system message tells the assistant's subject. prompt: what a teacher is asked who cannot go on.
    """
    asked = generate(prompt=prompt, outputs=[output], max_tokens=max_tokens, temperature=temperature)
    sampling: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "top_p": 1.0}

    async def block(rows: Stream, context: Context) -> Stream:
        if not getattr(context.asker.teacher, "opens", False):
            async for made in asked(rows, context):
                yield made
            return
        about = context.prompts.find(opening)

        async def work(row: Row) -> str:
            system = [turn for turn in about.turns(row, "") if turn.role == "system"][:1]
            number = number_of(row, 0)
            answer: Answer = await context.asker.ask(
                [*system, Turn(role="user", content="")], number=number, **sampling
            )
            text = answer.text.strip()
            if not text or answer.finish == "length" or len(text) > LONGEST:
                raise Unanswered("no end", f"the message has no end, or is empty: {text[:200]!r}")
            return text

        async for row, text in ordered(rows, context, work):
            context.step.calls += 1
            yield {**row, output: text}

    return block
