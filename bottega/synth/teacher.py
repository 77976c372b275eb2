"""Asking a teacher: through the journal, within a budget, never the same question twice at once.

Left out: who the teacher is (any Responder) and how an endpoint is tried again (models/remote.py).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bottega.core.errors import Unanswered, UserError
from bottega.core.journal import Answer, Journal, key
from bottega.core.types import Responder, Turn

GONE_AFTER = 25
"""Questions without an answer, one after another, after which the teacher counts as gone."""


class BudgetEnds(UserError):
    """A budget is used up; what is there is sound."""

    exit_code = 9


class TeacherGone(UserError):
    """The teacher does not answer anybody any more."""

    exit_code = 9


@dataclass(kw_only=True, slots=True)
class Budget:
    """What may be spent on a folder, all its runs together (minutes: this run); None: no limit.

    price_in, price_out: money per million tokens of prompts and of replies.
    """

    calls: int | None = None
    tokens: int | None = None
    minutes: float | None = None
    cost: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0

    def price(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What tokens cost."""
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6


@dataclass(kw_only=True, slots=True)
class Usage:
    """What was asked in this run: calls made, answers that the journal had, questions without an answer."""

    calls: int = 0
    from_journal: int = 0
    unanswered: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class Asker:
    """Questions to one teacher, each paid for once."""

    def __init__(
        self, teacher: Responder, journal: Journal, *, budget: Budget | None = None, revision: str = "", seed: int = 0
    ) -> None:
        self.teacher, self.journal, self.revision, self.seed = teacher, journal, revision, seed
        self.budget = budget or Budget()
        self.usage = Usage()
        self.began = time.monotonic()
        spent = journal.spent()
        self._calls = spent.calls
        self._tokens = [spent.prompt_tokens, spent.completion_tokens]
        self._asked: dict[bytes, asyncio.Future[Answer]] = {}
        self._silent = 0

    async def ask(self, turns: Sequence[Turn], *, number: int = 0, **sampling: Any) -> Answer:
        """One answer.

        Args:
            number: which of several answers to the same question; it makes the seed.
            sampling: max_tokens, temperature, top_p, stop: as the teacher takes them.

        Raises:
            Unanswered: this question gets none. BudgetEnds, TeacherGone: no further one will.
        """
        seed = (self.seed * 1_000_003 + number) & 0x7FFFFFFF
        prompt = [[turn.role, turn.content] for turn in turns]
        name = key(self.teacher.identity, self.revision, prompt, sampling, seed)
        if (known := self.journal.get(name)) is not None:
            self.usage.from_journal += 1
            return known
        if name not in self._asked:
            self._admit()
            task = asyncio.create_task(self._fetch(name, turns, {**sampling, "seed": seed}))
            task.add_done_callback(lambda _: self._asked.pop(name, None))
            self._asked[name] = task
        return await asyncio.shield(self._asked[name])

    async def finish(self) -> None:
        """Let what was asked come in: an answer that was paid for is kept, even if nobody waits for it any more."""
        if self._asked:
            await asyncio.gather(*self._asked.values(), return_exceptions=True)

    def _admit(self) -> None:
        limit, spent = self.budget, self._calls
        if limit.calls is not None and spent >= limit.calls:
            raise BudgetEnds(f"the budget of {limit.calls:,} calls is used up; raise --budget-calls to go on")
        if limit.tokens is not None and sum(self._tokens) >= limit.tokens:
            raise BudgetEnds(f"the budget of {limit.tokens:,} tokens is used up; raise --budget-tokens to go on")
        if limit.cost is not None and limit.price(*self._tokens) >= limit.cost:
            raise BudgetEnds(f"the budget of {limit.cost:g} is used up; raise --budget-cost to go on")
        if limit.minutes is not None and time.monotonic() - self.began >= limit.minutes * 60:
            raise BudgetEnds(f"the {limit.minutes:g} minutes are used up; run the same command again to go on")
        if self._silent >= GONE_AFTER:
            raise TeacherGone(
                f"{self.teacher.identity} gave no answer {GONE_AFTER} times in a row; see whether it runs, then run the same "
                "command again"
            )
        self._calls += 1

    async def _fetch(self, name: bytes, turns: Sequence[Turn], sampling: dict[str, Any]) -> Answer:
        began = time.monotonic()
        try:
            reply = await self.teacher.respond(turns, **sampling)
        except Unanswered as error:
            self.usage.unanswered[error.reason] += 1
            self._silent = GONE_AFTER if error.fatal else self._silent + 1
            self._calls -= 1  # it is not in the journal: the next run asks it again
            raise
        self._silent = 0
        counts = [int(reply.usage.get(part, 0)) for part in ("prompt_tokens", "completion_tokens")]
        answer = Answer(reply.text, reply.finish, *counts)
        self.journal.put(name, answer)
        self.usage.calls += 1
        self.usage.prompt_tokens += counts[0]
        self.usage.completion_tokens += counts[1]
        self.usage.seconds += time.monotonic() - began
        self._tokens = [self._tokens[0] + counts[0], self._tokens[1] + counts[1]]
        return answer


async def smoke(asker: Asker) -> None:
    """One question before all others, so that a wrong address, key or model is told at once and not leaf by leaf.

    Raises:
        UserError: the teacher does not answer.
    """
    turns = [Turn(role="user", content="Answer with the one word: ready")]
    try:
        await asker.ask(turns, max_tokens=16, temperature=0.0)
    except Unanswered as error:
        raise UserError(
            f"the teacher does not answer a first question ({error}); check its address, model and key"
        ) from error
