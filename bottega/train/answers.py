"""Replies as they are judged, and what greedy answers to held-out prompts are worth: rewards, distance from a teacher.

Left out: the rounds that are learned from (rollout.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bottega.core.types import Reply, Row, Sampler, Tokens
from bottega.data.prompts import Prompt
from bottega.grade.rewards import Answer
from bottega.train.parts import Parts
from bottega.train.rewards import Composition
from bottega.train.scoring import score_rows


def as_answer(prompt: Prompt, reply: Reply) -> Answer:
    """A reply as it is judged."""
    return Answer(
        prompt=prompt.text,
        reply=reply.text,
        finish=reply.finish,
        num_tokens=len(reply.ids),
        truth=prompt.truth,
        row=prompt.row,
        prompt_ids=prompt.ids,
        reply_ids=reply.ids,
    )


def held_out(
    prompts: Sequence[Prompt],
    sampler: Sampler,
    rewards: Mapping[str, Composition],
    *,
    max_tokens: int,
    stops: Mapping[str, Any],
) -> Callable[[int], Mapping[str, float]]:
    """A function step -> mean of each composition over greedy answers to held-out prompts, with their length and share cut."""

    def validate(_: int) -> Mapping[str, float]:
        replies = sampler.sample([prompt.ids for prompt in prompts], max_tokens=max_tokens, logps=False, **stops)
        answers = [as_answer(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]
        found = {name: float(reward(answers).total.mean()) for name, reward in rewards.items()}
        return found | {
            "length": float(np.mean([len(reply.ids) for reply in replies])),
            "cut": float(np.mean([reply.finish == "length" for reply in replies])),
        }

    return validate


def held_out_divergence(
    prompts: Sequence[Prompt],
    sampler: Sampler,
    parts: Parts,
    *,
    max_tokens: int,
    stops: Mapping[str, Any],
    micro_tokens: int,
) -> Callable[[int], Mapping[str, float]]:
    """A function step -> how far the student is from its teacher, nats a token of its greedy answers to held-out prompts."""

    def validate(_: int) -> Mapping[str, float]:
        replies = sampler.sample([prompt.ids for prompt in prompts], max_tokens=max_tokens, logps=False, **stops)
        rows = [
            Row(
                index=at,
                prefix=Tokens(prompt.ids, [0.0] * len(prompt.ids)),
                branches=(Tokens(reply.ids, [1.0] * len(reply.ids)),),
            )
            for at, (prompt, reply) in enumerate(zip(prompts, replies, strict=True))
        ]
        found = score_rows(parts, rows, ("divergence",), micro_tokens=micro_tokens)
        return {"loss": float(np.concatenate([one["divergence"] for one in found]).mean())}

    return validate
