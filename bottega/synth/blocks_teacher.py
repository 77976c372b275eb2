"""The blocks that ask a teacher: generate, judge, agree, iterate. Rows go out in the order in which they came in.

Left out: conversations (blocks_dialogue.py). Up to 16 rows of a block wait for answers at once; when the leaf needs fewer
rows, fewer: what is asked for in vain is paid for.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from bottega.core.errors import Unanswered, UserError
from bottega.core.journal import Answer
from bottega.grade.judge import verdict
from bottega.grade.scorers import last_number
from bottega.synth.blocks import Block, Context, Stream, text_of
from bottega.synth.flow_prompts import OurPrompt, Prompt
from bottega.synth.pipeline_account import Row
from bottega.synth.teacher import BudgetEnds, TeacherGone

WINDOW = 16
MOST_REPLIES = 64


async def ordered(
    rows: Stream, context: Context, work: Callable[[Row], Awaitable[Any]]
) -> AsyncIterator[tuple[Row, Any]]:
    """`work` of several rows at once, the results in order; a row whose work is refused is rejected.

    When a budget ends, no further row is taken in; what was asked is waited for, then the end is raised.
    """
    pending: deque[tuple[Row, asyncio.Future[Any]]] = deque()
    source: Stream | None = rows
    ends: UserError | None = None
    try:
        while source is not None or pending:
            while source is not None and len(pending) < places(context, len(pending)):
                try:
                    row = await anext(source)
                except StopAsyncIteration:
                    source = None
                except (BudgetEnds, TeacherGone) as error:
                    source, ends = None, error
                else:
                    pending.append((row, asyncio.ensure_future(work(row))))
            context.step.waiting = len(pending)
            if not pending:
                break
            row, task = pending[0]
            try:
                result = await task
            except (BudgetEnds, TeacherGone) as error:
                source, ends = None, error
                context.step.unused += 1
            except Unanswered as error:
                context.reject(row, f"teacher: {error.reason}", detail=str(error))
            else:
                pending.popleft()
                yield row, result
                continue
            pending.popleft()
        if ends is not None:
            raise ends
    finally:
        context.step.unused += len(pending)
        context.step.waiting = 0
        for _, task in pending:
            task.cancel()


def places(context: Context, pending: int) -> int:
    """How many rows of a block may wait at once: as many as the leaf still needs, by what came of the rows so far.

    Rows on their way in later blocks count as had. The first rows go two at a time, until one shows what it brings.
    """
    step, account = context.step, context.account
    done = step.taken - pending
    if done < 1:
        return min(2, context.wanted())
    behind = account.behind(step)
    rate = max((account.kept + behind) / done, 0.1)
    return max(1, min(WINDOW, math.ceil((context.wanted() - behind) / rate)))


def number_of(row: Row, repeat: int) -> int:
    """Which of several answers to one question: the round, the iteration, then the repeat within the block."""
    return int(row.get("_number", 0)) * MOST_REPLIES + repeat


def generate(
    *,
    prompt: str | Prompt,
    outputs: list[str],
    n: int = 1,
    max_tokens: int = 1024,
    temperature: float = 0.7,
    top_p: float = 1.0,
    personas: Sequence[str] = (),
    columns: dict[str, Any] | None = None,
    parse: Any = None,
) -> Block:
    """Ask the teacher about each row; a reply becomes a row for each set of `outputs` that it holds.

    Args:
        prompt: a name of the prompts file. n: replies for each row and persona.
        personas: who the teacher is to be, one after the other. columns: values that the prompt sees besides the row's.
        parse: another way to read the reply (flow_instructlab.py).
    """
    if not 1 <= n <= MOST_REPLIES:
        raise UserError(f"generate: n is {n}, but must be 1 to {MOST_REPLIES}; change it")
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p}

    async def block(rows: Stream, context: Context) -> Stream:
        asked_with = context.prompts.find(prompt) if isinstance(prompt, str) else prompt
        reader = parse or asked_with.parse(outputs)

        async def work(row: Row) -> list[tuple[str, Answer | Unanswered]]:
            seen = {**row, **(columns or {})}
            ways = [(who, repeat) for who in personas or ("",) for repeat in range(n)]
            asked = [
                _one(context, asked_with, seen, who, number_of(row, repeat + at * n), sampling)
                for at, (who, repeat) in enumerate(ways)
            ]
            replies = await asyncio.gather(*asked, return_exceptions=True)
            for reply in replies:
                if isinstance(reply, BaseException) and not isinstance(reply, Unanswered):
                    raise reply
            return [(who, reply) for (who, _), reply in zip(ways, replies) if isinstance(reply, Answer | Unanswered)]

        async for row, replies in ordered(rows, context, work):
            context.step.calls += len(replies)
            for who, reply in replies:
                for made in _rows_of(row, who, reply, reader, context):
                    yield made

    return block


def _rows_of(row: Row, who: str, reply: Answer | Unanswered, reader: Any, context: Context) -> list[Row]:
    if isinstance(reply, Unanswered):
        context.reject(row, f"teacher: {reply.reason}", detail=str(reply))
        return []
    found = reader.read(reply.text, cut=reply.finish == "length")
    if not found:
        context.reject(row, "not in the form asked for", detail=reply.text[:400])
    more = {"persona": who} if who else {}
    return [{**row, **values, **more} for values in found]


async def _one(
    context: Context, prompt: Prompt | OurPrompt, row: Row, who: str, number: int, sampling: dict[str, Any]
) -> Answer:
    try:
        turns = prompt.turns(row, who)
    except UserError as error:
        if error.exit_code != 2:
            raise
        raise Unanswered("prompt", f"the prompt {prompt.name} refuses this row: {error}") from error
    return await context.asker.ask(turns, number=number, **sampling)


def judge(*, prompt: str, least: float | None = None, votes: int = 1, max_tokens: int = 512) -> Block:
    """Keep rows that a judge passes; the score goes into the row's `scores`, its reason to the rejects.

    Args:
        least: the least score that passes; else the prompt's own. votes: judgements a row, an odd number; their mean counts.
    """
    if votes < 1 or votes % 2 == 0:
        raise UserError(f"judge: votes is {votes}, but must be odd; change it")

    async def block(rows: Stream, context: Context) -> Stream:
        asked_with: OurPrompt = context.prompts.find(prompt)
        text = asked_with.text
        bar = least if least is not None else text.least
        if bar is None:
            raise UserError(f"the prompt {prompt!r} is no judge: it has no `least`; give the block one")
        reader = asked_with.parse(text.outputs)
        sampling = {"max_tokens": max_tokens, "temperature": 0.0 if votes == 1 else 0.7, "top_p": 1.0}

        async def work(row: Row) -> list[Answer]:
            asked = [_one(context, asked_with, row, "", number_of(row, vote), sampling) for vote in range(votes)]
            return list(await asyncio.gather(*asked))

        async for row, replies in ordered(rows, context, work):
            context.step.calls += len(replies)
            said = [(reader.read(reply.text, cut=reply.finish == "length") or [{}])[0] for reply in replies]
            scores = [verdict(one.get(text.outputs[-1], ""), low=text.low, high=text.high) for one in said]
            known = [score for score in scores if score is not None]
            if len(known) * 2 <= votes:
                context.reject(row, f"{prompt}: no verdict", detail=replies[0].text[:400])
                continue
            mean = sum(known) / len(known)
            if mean < bar:
                context.reject(row, prompt, score=mean, detail=said[0].get(text.outputs[0], "")[:400])
            else:
                yield {**row, "scores": {**row.get("scores", {}), prompt: mean}, prompt: mean}

    return block


def agree(
    *, prompt: str, column: str, output: str, n: int = 2, max_tokens: int = 1024, temperature: float = 0.7
) -> Block:
    """Verify a number: answer the question `n` more times on its own; the row stays if most answers end in its number.

    Source: Wang et al. 2023, "Self-consistency improves chain of thought reasoning", section 2.
    """
    name = column
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": 1.0}

    async def block(rows: Stream, context: Context) -> Stream:
        asked_with = context.prompts.find(prompt)
        reader = asked_with.parse([output])

        async def work(row: Row) -> list[Answer]:
            asked = [_one(context, asked_with, row, "", number_of(row, at + 1), sampling) for at in range(n)]
            return list(await asyncio.gather(*asked))

        async for row, replies in ordered(rows, context, work):
            context.step.calls += len(replies)
            wanted = last_number(text_of(row.get(name)))
            found = [last_number(one[output]) for reply in replies for one in reader.read(reply.text)[:1]]
            votes = Counter([wanted, *found])
            if wanted is None:
                context.reject(row, "no number to verify")
            elif votes[wanted] * 2 > n + 1:
                yield row
            else:
                context.reject(row, "answers do not agree", score=votes[wanted] / (n + 1), detail=str(found)[:200])

    return block


def iterate(*, times: int) -> Block:
    """From here on each row goes `times` times, each time for other answers."""

    async def block(rows: Stream, context: Context) -> Stream:
        async for row in rows:
            for number in range(times):
                yield {**row, "_number": int(row.get("_number", 0)) * times + number}

    return block
