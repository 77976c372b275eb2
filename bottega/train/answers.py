"""Replies as they are judged, and the rewards of greedy answers to held-out prompts.

Left out: the rounds that are learned from (rollout.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bottega.core.types import Reply, Sampler
from bottega.data.prompts import Prompt
from bottega.grade.rewards import Answer
from bottega.train.rewards import Composition


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
