"""The block that lets the teacher talk with itself: a user who asks on, an assistant who answers, several turns.

Left out: single questions (blocks_teacher.py).
"""

from __future__ import annotations

from typing import Any

from bottega.core.errors import Unanswered, UserError
from bottega.core.journal import Answer
from bottega.synth.blocks import Block, Context, Stream, column
from bottega.synth.blocks_teacher import number_of, ordered
from bottega.synth.pipeline_account import Row


def dialogue(
    *,
    asks: str,
    answers: str,
    turns: int = 2,
    opening: str = "",
    output: str = "messages",
    max_tokens: int = 512,
    temperature: float = 0.7,
) -> Block:
    """Make a conversation of `turns` questions and answers about each row, in the column `output`.

    Args:
        asks, answers: prompts that write the next question and its answer; they see the row and `conversation`.
        opening: a column that holds the first question; empty: it is asked for too.
    """
    if turns < 1:
        raise UserError(f"dialogue: turns is {turns}, but must be at least 1; change it")
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": 1.0}

    async def block(rows: Stream, context: Context) -> Stream:
        user, assistant = context.prompts.find(asks), context.prompts.find(answers)

        async def say(prompt: Any, row: Row, name: str) -> str:
            answer: Answer = await context.asker.ask(prompt.turns(row, ""), number=number_of(row, 0), **sampling)
            found = prompt.parse([name]).read(answer.text, cut=answer.finish == "length")
            if not found:
                raise Unanswered("form", f"the reply is not in the form asked for: {answer.text[:200]!r}")
            return str(found[0][name])

        async def work(row: Row) -> list[dict[str, str]]:
            said: list[dict[str, str]] = []
            for number in range(turns):
                seen = {**row, "conversation": said}
                question = column(row, opening) if opening and not number else await say(user, seen, "question")
                said = [*said, {"role": "user", "content": question}]
                reply = await say(assistant, {**seen, "conversation": said, "question": question}, "response")
                said = [*said, {"role": "assistant", "content": reply}]
            return said

        async for row, said in ordered(rows, context, work):
            context.step.calls += 2 * turns - bool(opening)
            if len({one["content"] for one in said}) < len(said):
                context.reject(row, "the conversation repeats itself", score=len(said))
            else:
                yield {**row, output: said}

    return block
