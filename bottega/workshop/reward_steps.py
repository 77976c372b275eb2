"""The reward `steps`: a model that judges each step of an answer (objective process_reward), and its worst, mean or last one counts.

Left out: on the policy's own base: it is loaded beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from bottega.core.errors import UserError
from bottega.core.types import Conversation, Turn
from bottega.data.chat import Template, encode_prompt
from bottega.data.steps import lines, step_row
from bottega.grade.rewards import Answer
from bottega.models.reward import BY_STEPS
from bottega.train.reward_scores import load_reward

REDUCE: dict[str, Callable[[np.ndarray], float]] = {
    "min": np.min,
    "mean": np.mean,
    "last": lambda numbers: numbers[-1],
    "product": np.prod,
}


def reward_steps(
    *, path: str | None = None, stage: str | None = None, reduce: Literal["min", "mean", "last", "product"] = "min"
) -> Callable[[Sequence[Answer]], list[float | None]]:
    """The probability that a step is right, over an answer's lines: the least of them, their mean, the last one, or their product.

    path: a run or a stage's result of objective process_reward; or stage: an earlier stage of the same recipe. An answer without a line
    has no opinion.

    Raises:
        UserError: there is no such model.
    """
    assert path is not None, "recipe_order.py puts the stage's path here"
    model = load_reward(path)
    head = model.scorer.reward
    if getattr(head, "reads", "") != BY_STEPS:
        raise UserError(
            f"{path} judges whole replies; use it as the reward `model`, or train one with objective process_reward"
        )
    template = Template.of(model.tokenizer)

    def score(answers: Sequence[Answer]) -> list[float | None]:
        said = [lines(answer.reply) for answer in answers]
        rows = [
            step_row(
                at,
                encode_prompt(
                    Conversation(turns=(Turn(role="user", content=answer.prompt),)), model.tokenizer, template
                ),
                steps,
                [0.0] * len(steps),
                model.tokenizer,
            )
            for at, (answer, steps) in enumerate(zip(answers, said, strict=True))
            if steps
        ]
        found = iter(model.steps(rows))
        return [float(REDUCE[reduce](1 / (1 + np.exp(-next(found))))) if steps else None for steps in said]

    return score
