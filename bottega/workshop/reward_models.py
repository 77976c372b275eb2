"""The reward `model` of a recipe: where a reward model lies, and whether it shares the policy's base.

Left out: how it scores (train/reward_batch.py). One reward model a stage can be an adapter on the policy's base, which then lies
there once for policy, value, reward and reference; any other is loaded beside it, and the run says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bottega.core.errors import UserError
from bottega.core.types import Attached, Conversation, Turn
from bottega.data.chat import Template, encode_prompt
from bottega.grade.rewards import Answer
from bottega.models.place import place_of
from bottega.models.reward import ADAPTER, BY_STEPS, join, joined_names, shares_base
from bottega.train.parts import Parts
from bottega.train.reward_batch import ModelReward
from bottega.train.reward_scores import load_reward
from bottega.workshop.build import Setup


def reward_model(
    *, path: str | None = None, stage: str | None = None, mean: float = 0.0, deviation: float = 1.0
) -> None:
    """The options of the reward `model`: path: a run, a stage's result or a model folder with a reward head; or stage: an earlier
    stage of the same recipe (recipe_order.py puts its path here); mean, deviation: taken off and divided by.

    What makes it is RewardModels.open, which needs the policy."""


def refuse_steps(path: str, head: Any) -> None:
    """Raises UserError where the head reads steps, and a reply's end would be asked of it."""
    if head.reads == BY_STEPS:
        raise UserError(f"{path} judges steps (objective process_reward): use the reward `steps` with its path")


class RewardModels:
    """The reward models of a stage, each folder opened once. learners: what trains one, told of the parts too."""

    def __init__(self, setup: Setup, attached: Attached) -> None:
        self.setup, self.attached = setup, attached
        self.joined = ""
        self.learners: list[Any] = []
        self._waiting: list[ModelReward] = []

    def open(self, *, path: str, mean: float = 0.0, deviation: float = 1.0) -> ModelReward:
        """The reward of the model in `path`.

        Raises:
            UserError: there is no reward model.
        """
        if self._shares(path):
            if not self.joined:
                join(self.attached, path)
                refuse_steps(path, self.attached.reward)
                self.joined = path
                self.setup.note(f"reward {path}: an adapter on the policy's base, which lies in memory once")
            made = ModelReward(mean=mean, deviation=deviation)
            self._waiting.append(made)
            return made
        apart = load_reward(path, device=str(place_of(self.attached.model)))
        refuse_steps(path, apart.scorer.reward)
        self.setup.note(f"reward {path}: another base than the policy's, loaded beside it")
        return ModelReward(apart=apart, reads=_reader(apart.tokenizer), mean=mean, deviation=deviation)

    def new(self) -> ModelReward:
        """The reward of a model that was joined to the policy without a folder."""
        self.joined = ADAPTER
        made = ModelReward()
        self._waiting.append(made)
        return made

    def _shares(self, path: str) -> bool:
        if self.joined:
            return self.joined == path
        return self.attached.name in ("lora", "qlora") and shares_base(path, self.setup.loaded.identity)

    def join(self, parts: Parts) -> None:
        """The stage's parts are there: rewards on the policy's base can score."""
        for made in [*self._waiting, *self.learners]:
            made.parts = parts
        if self.learners:
            parts.taught = joined_names(self.attached, parts.scorer)


def _reader(tokenizer: Any) -> Callable[[Answer], tuple[list[int], list[int]]]:
    """An answer in the reward model's own tokens and template, up to the end of the reply's turn."""
    template = Template.of(tokenizer)

    def reads(answer: Answer) -> tuple[list[int], list[int]]:
        asked = Conversation(turns=(Turn(role="user", content=answer.prompt),))
        prompt = encode_prompt(asked, tokenizer, template)
        reply = tokenizer(answer.reply, add_special_tokens=False)["input_ids"]
        return prompt, reply or [tokenizer.eos_token_id or 0]

    return reads
