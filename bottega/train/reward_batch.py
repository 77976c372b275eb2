"""A reward model as the reward of a stage that learns from its own answers: on the policy's base where it is an adapter of it.

Left out: training it (objectives/reward.py), scores of files (workshop/scores.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from bottega.core.errors import UserError
from bottega.core.types import Row, Tokens
from bottega.grade.rewards import Answer
from bottega.train.parts import Parts
from bottega.train.reward_scores import RewardModel, reward_rows

Reads = Callable[[Answer], tuple[Sequence[int], Sequence[int]]]
"""An answer as the reward model's own token ids: the prompt's and the reply's."""


class ModelReward:
    """Rewards of answers by a reward model; a prompt is computed once for all answers to it that follow one another.

    In one of two places: `parts` (set when they are built), where the model is joined to the policy's (view `reward`), or `apart`, a
    model of its own beside it, which `reads` its own token ids.

    Args:
        mean, deviation: taken off and divided by, so that rewards of several sources can be added (1 and 0 leave them).
    """

    parts: Parts | None = None

    def __init__(
        self,
        *,
        apart: RewardModel | None = None,
        reads: Reads | None = None,
        mean: float = 0.0,
        deviation: float = 1.0,
        micro_tokens: int = 4096,
    ) -> None:
        if deviation <= 0:
            raise UserError(
                f"the reward's deviation is {deviation:g}, and rewards are divided by it: write one above 0"
            )
        self.apart, self.reads, self.micro_tokens = apart, reads or _own_ids, micro_tokens
        self.mean, self.deviation = mean, deviation

    def __call__(self, answers: Sequence[Answer]) -> list[float | None]:
        """One number an answer."""
        rows: list[Row] = []
        for prompt, group in groupby(map(self.reads, answers), key=lambda ids: tuple(ids[0])):
            branches = tuple(Tokens(reply, [1.0] * len(reply)) for _, reply in group)
            rows.append(Row(index=len(rows), prefix=Tokens(prompt, [0.0] * len(prompt)), branches=branches))
        if self.apart is not None:
            found = self.apart.score(rows, micro_tokens=self.micro_tokens)
        else:
            parts = self.parts
            assert parts is not None, "the stage's parts are set before the first round"
            found = reward_rows(
                parts.scorer,
                rows,
                packed=parts.packed,
                pad_id=parts.pad_id,
                view="reward",
                micro_tokens=self.micro_tokens,
                world=parts.world,
            )
        flat = (np.concatenate(found).astype(np.float64) - self.mean) / self.deviation
        if not np.isfinite(flat).all():
            raise UserError("the reward model gave a reward that is not finite: it is broken; train it again")
        return [float(value) for value in flat]


def _own_ids(answer: Answer) -> tuple[Sequence[int], Sequence[int]]:
    return answer.prompt_ids, answer.reply_ids
