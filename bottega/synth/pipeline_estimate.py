"""What a run will take before it begins: calls, tokens, time and cost, from the flow's shape, then from ten real calls.

Left out: prices (the budget has them). The pilot's answers are in the journal: they are not asked for again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bottega.core.journal import Answer
from bottega.synth.flow import Flow
from bottega.synth.pipeline import Job, run_leaf
from bottega.synth.pipeline_account import Account
from bottega.synth.pipeline_held import MOST, follows
from bottega.synth.teacher import Asker, BudgetEnds

PILOT_CALLS = 10
TOKENS, SECONDS = (500.0, 150.0), 3.0
"""Guesses of one call before the first was made."""
PASS, SEVERAL = 0.75, 3.0
"""Guesses: the share that a judge passes; the rows that a reply holds where several are asked for."""


@dataclass(kw_only=True, slots=True)
class Shape:
    """A flow in numbers, a stage each: questions a row, and rows out for a row in."""

    calls: list[float]
    factors: list[float]

    def of(self, samples: int) -> float:
        """Calls for so many kept rows of a leaf."""
        through = 1.0
        calls = 0.0
        for asked, factor in zip(self.calls, self.factors):
            calls += through * asked
            through *= factor
        return calls * max(1.0, samples / max(through, 1e-9))


@dataclass(kw_only=True, slots=True)
class Estimate:
    """What a run will take. `pilot`: the calls it rests on; 0: a guess."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    cost: float
    pilot: int = 0

    def line(self) -> str:
        by = f"from {self.pilot} calls" if self.pilot else "a guess before the first call"
        tokens = self.prompt_tokens + self.completion_tokens
        cost = f", cost {self.cost:,.2f}" if self.cost else ""
        return f"estimate ({by}): {self.calls:,} calls, {tokens:,} tokens, {self.seconds / 60:,.1f} min{cost}"


def guessed(flow: Flow) -> Shape:
    """The shape of a flow that nobody has run: stages that ask for several rows give three a reply, judges pass most."""
    factors: list[float] = []
    for stage in flow.stages:
        several = stage.kind == "generate" and len(factors) == 0
        guess = {"judge": PASS, "filter": PASS, "generate": stage.calls * (SEVERAL if several else 1.0)}
        factors.append(guess.get(stage.kind, 1.0))
    return Shape(calls=[float(stage.calls) for stage in flow.stages], factors=factors)


def measured(flow: Flow, account: Account) -> Shape:
    """The shape as a pilot found it; stages that saw no row keep their guess."""
    shape = guessed(flow)
    for place, step in enumerate(account.steps[: len(flow.stages)]):
        done = step.taken - step.unused
        if done > 0 and (step.given or step.rejected):
            shape.factors[place] = max(step.given, 0.2) / done
            shape.calls[place] = step.calls / done if flow.stages[place].calls else 0.0
    return shape


@dataclass(kw_only=True)
class _Few:
    """An asker for a few questions; it hears how many tokens they took."""

    asker: Asker
    left: int
    asked: int = 0
    tokens: list[tuple[int, int]] = field(default_factory=list)

    @property
    def teacher(self) -> Any:
        return self.asker.teacher

    async def ask(self, turns: Any, **how: Any) -> Answer:
        if self.left <= 0:
            raise BudgetEnds("the pilot is over")
        self.left -= 1
        answer = await self.asker.ask(turns, **how)
        self.asked += 1
        self.tokens.append((answer.prompt_tokens, answer.completion_tokens))
        return answer


class _Nowhere:
    def __enter__(self) -> _Nowhere:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing."""

    def row(self, row: dict[str, Any]) -> None:
        """The pilot's rows are made again in the run, from the journal."""

    def reject(self, row: dict[str, Any]) -> None:
        """Nor are its rejects kept."""

    def auxiliary(self, row: dict[str, Any]) -> None:
        """Nothing."""


def held_calls(jobs: Sequence[Job], paraphrases: int) -> int:
    """Questions about the held-out seeds: each is put into other words, and each wording is judged."""
    return sum(len(job.held) * (1 + MOST) for job in jobs if paraphrases and follows(job.flow))


def estimate(jobs: Sequence[Job], asker: Asker, *, paraphrases: int = 0) -> Estimate:
    """The first estimate, of the flows' shapes alone."""
    calls = sum(guessed(job.flow).of(job.samples) for job in jobs) + held_calls(jobs, paraphrases)
    return _estimate(calls, TOKENS, SECONDS, asker, pilot=0)


async def pilot(jobs: Sequence[Job], asker: Asker, *, paraphrases: int = 0) -> Estimate:
    """The estimate after ten calls, shared among the flows; a row goes to its end before the next begins."""
    flows: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        flows[job.flow.name].append(job)
    shapes, tokens, asked = {}, [], 0
    for name, some in flows.items():
        few = _Few(asker=asker, left=max(1, PILOT_CALLS // len(flows)))
        account = await run_leaf(some[0], few, _Nowhere(), narrow=True)
        shapes[name] = measured(some[0].flow, account)
        tokens += few.tokens
        asked += few.asked
    calls = sum(shapes[job.flow.name].of(job.samples) for job in jobs) + held_calls(jobs, paraphrases)
    each = (sum(one for one, _ in tokens) / max(asked, 1), sum(one for _, one in tokens) / max(asked, 1))
    seconds = asker.usage.seconds / asker.usage.calls if asker.usage.calls else 0.0
    return _estimate(calls, each, seconds, asker, pilot=asked)


def _estimate(calls: float, tokens: tuple[float, float], seconds: float, asker: Asker, *, pilot: int) -> Estimate:
    counts = round(calls * tokens[0]), round(calls * tokens[1])
    at_once = getattr(getattr(asker.teacher, "gate", None), "most", 1)
    cost = asker.budget.price(*counts)
    return Estimate(
        calls=round(calls), prompt_tokens=counts[0], completion_tokens=counts[1], cost=cost, pilot=pilot,
        seconds=calls * seconds / max(1, min(at_once, 16)),
    )  # fmt: skip
