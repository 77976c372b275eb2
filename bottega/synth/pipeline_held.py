"""Held-out seeds in other words: the questions of test.jsonl that no wording of a seed gives away.

Left out: questions that nobody wrote. A paraphrase has the answer of its seed; one that is the seed word for word, has other numbers or
another language, or asks for something else as the teacher judges it, goes to test_rejects.jsonl.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

from bottega.core.errors import UserError
from bottega.synth.blocks import Context
from bottega.synth.flow import Flow, read_flow, running
from bottega.synth.pipeline import AT_ONCE, Job
from bottega.synth.pipeline_account import Account, Row, Step
from bottega.synth.teacher import BudgetEnds, TeacherGone

MOST = 4
"""Wordings that the flow asks for."""


def follows(flow: Flow) -> bool:
    """Whether the flow's teacher follows instructions: one that goes on with texts cannot be asked for other words."""
    return not any(stage.kind == "continue" for stage in flow.stages)


def check_count(count: int) -> None:
    """Raises UserError for more wordings than the flow asks for."""
    if not 0 <= count <= MOST:
        raise UserError(f"paraphrases is {count}, but must be from 0 to {MOST}; change it")


async def paraphrased(
    jobs: Sequence[Job], asker: Any, count: int, *, rejected: Callable[[dict[str, Any]], None]
) -> tuple[list[Job], list[Account]]:
    """The jobs with up to `count` other wordings of each held-out question, and an account each (of one that cannot be asked, none)."""
    flow = read_flow("paraphrase", samples=MOST)
    places = asyncio.Semaphore(AT_ONCE)

    async def one(job: Job) -> tuple[Job, Account | None]:
        if not count or not job.held or not follows(job.flow):
            return job, None
        async with places:
            return await _of(job, flow, asker, count, rejected)

    found = await asyncio.gather(*(one(job) for job in jobs))
    return [job for job, _ in found], [account for _, account in found if account is not None]


async def _of(
    job: Job, flow: Flow, asker: Any, count: int, rejected: Callable[[dict[str, Any]], None]
) -> tuple[Job, Account]:
    account = Account(leaf=job.leaf.path, sink=rejected)
    wordings: dict[int, list[str]] = {}

    async def rows() -> AsyncIterator[Row]:
        for number, (question, answer, context) in enumerate(job.held):
            account.asked += 1
            yield {"seed_question": question, "seed_response": answer, "context": context, "pairs": [], "_held": number}

    context = Context(
        account=account, step=Step(name=""), asker=asker, language=job.language, wanted=lambda: len(job.held) * MOST,
        prompts=replace(job, flow=flow).prompts(),
    )  # fmt: skip
    try:
        async with running(flow.stages, rows(), context) as stream:
            async for row in stream:
                some = wordings.setdefault(row["_held"], [])
                if len(some) < count:
                    some.append(str(row["question"]).strip())
                    account.kept += 1
    except (BudgetEnds, TeacherGone) as error:
        account.why, account.cut = str(error), True
    made = tuple(
        (text, answer, context)
        for number, (_, answer, context) in enumerate(job.held)
        for text in wordings.get(number, ())
    )
    return replace(job, paraphrases=made), account
