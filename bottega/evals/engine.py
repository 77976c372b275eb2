"""What a kind of task asks of a model: prompts as ids, replies, and log-probabilities of given continuations.

Left out: endpoints. The model is called through a Scorer and a Sampler only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from torch import nn

from bottega.core.errors import UserError
from bottega.core.types import Attached, Inputs, Reply, Row, Tokens, Turn
from bottega.data import both_sides
from bottega.data.chat import Template, encode_prompt, tokenize
from bottega.data.pack import micro_batches
from bottega.data.spans import learn
from bottega.models import attention, kinds
from bottega.models.generate import Generator, context_limit, evaluating
from bottega.models.layout import lay
from bottega.models.score import Scorer

MICRO_TOKENS = 4096
Fit = Literal["refuse", "cut", "skip"]


def end_of_turn(tokenizer: Any, template: Template) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """What ends an answer in this template, beside the end tokens: token ids, or strings where it is not one token."""
    end = learn(template.bind(tokenizer).jinja).ends["assistant"].strip()
    if not end:
        return (), ()
    ids = tokenizer(end, add_special_tokens=False)["input_ids"]
    return ((ids[0],), ()) if len(ids) == 1 else ((), (end,))


class Engine:
    """A model with its tokenizer, ready to be asked."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        template: Template | None = None,
        inputs: Inputs | None = None,
        batch: int = 64,
    ) -> None:
        self.model, self.tokenizer, self.batch = model, tokenizer, batch
        self.inputs = inputs
        self.template = template
        self.generator = Generator(model, tokenizer, inputs=inputs)
        self._scorer: Scorer | None = None

    def chat_template(self) -> Template:
        """The template given, else the tokenizer's own."""
        if self.template is None:
            self.template = Template.of(self.tokenizer)
        return self.template

    def plain(self, text: str) -> list[int]:
        """Ids of a text, with BOS where the tokenizer uses one.

        Raises:
            UserError: an empty text and no BOS.
        """
        ids = tokenize([text], self.tokenizer)[0][0]
        if not ids:
            raise UserError("a prompt is empty and this tokenizer has no BOS token: give the task a prompt")
        return ids

    def chat(self, turns: Sequence[Turn]) -> list[int]:
        """Ids of a conversation with the prompt to generate behind it."""
        return encode_prompt(turns, self.tokenizer, self.chat_template())

    def replies(
        self, prompts: Sequence[Sequence[int]], *, max_tokens: int, stop: Sequence[str], chat: bool, fit: Fit = "refuse"
    ) -> list[Reply]:
        """Greedy replies; in chat they end with the turn.

        Args:
            fit: where the model's positions end, the prompt is refused if the longest reply does not fit (refuse), or the reply is cut
                (cut), also to nothing (skip).

        Raises:
            UserError: a prompt that is refused.
        """
        stop_ids, strings = self.generator.stop_ids(), tuple(stop)
        if chat:
            more, texts = end_of_turn(self.tokenizer, self.chat_template())
            stop_ids, strings = (*stop_ids, *more), (*strings, *texts)
        options = {"max_tokens": max_tokens, "stop": strings, "stop_ids": stop_ids, "batch": self.batch, "logps": False}
        if fit == "refuse":
            return self.generator.sample(prompts, **options)
        rooms: dict[int, list[int]] = {}
        for at, prompt in enumerate(prompts):
            rooms.setdefault(_room(self.limit() - len(prompt), max_tokens), []).append(at)
        if 0 in rooms and fit == "cut":
            at = rooms[0][0]
            raise UserError(
                f"prompt {at} has {len(prompts[at])} tokens, which leave no room for a reply in the model's {self.limit()} positions: "
                "shorten it, or use a model with more"
            )
        found = [Reply(text="", finish="length")] * len(prompts)
        for room, members in rooms.items():
            some = [prompts[at] for at in members]
            for at, reply in zip(
                members, self.generator.sample(some, **options | {"max_tokens": room}) if room else ()
            ):
                found[at] = reply
        return found

    def limit(self) -> int:
        """Positions that a sequence may have."""
        prefix = self.inputs.num_prefix if self.inputs is not None else 0
        return (context_limit(self.generator.forward.config) or 10**9) - prefix

    def logps(self, rows: Sequence[Row]) -> list[list[np.ndarray]]:
        """Log-probabilities of the supervised tokens of every branch of every row, float32.

        Raises:
            UserError: a row longer than the model's positions.
        """
        limit, packed = self.limit(), self.model_packs()
        forward = self.generator.forward
        if forward.both_sides:
            start, end = kinds.start_of(forward.config), kinds.end_of(forward.config)
            both = [both_sides.scored(row.prefix, row.branches, start=start, end=end) for row in rows]
            rows = [replace(row, prefix=read, branches=written) for row, (read, written) in zip(rows, both)]
        sizes = []
        for row in rows:
            longest = len(row.prefix.ids) + max(len(branch.ids) for branch in row.branches)
            if longest > limit:
                raise UserError(
                    f"item {row.index} has {longest} tokens, but the model has {limit} positions: shorten its prompt"
                )
            sizes.append(row.num_tokens if packed else len(row.branches) * longest)
        num_prefix = self.inputs.num_prefix if self.inputs is not None else 0
        scorer = self.scorer()
        found: list[list[np.ndarray]] = [[] for _ in rows]
        with evaluating(self.model):
            for members in micro_batches(sizes, max_tokens=MICRO_TOKENS, packed=packed):
                chosen = [rows[at] for at in members]
                layout, targets = lay(chosen, packed=packed, num_prefix=num_prefix, sides=forward.both_sides)
                logp_S = scorer(layout, targets, ("logp",))["logp"].float().cpu().numpy()
                sequence_S = targets.sequence_S.cpu().numpy()
                number = 0
                for at, row in zip(members, chosen):
                    for _ in row.branches:
                        found[at].append(logp_S[sequence_S == number])
                        number += 1
        return found

    def model_packs(self) -> bool:
        """Whether the loader found packed rows exact and installed our attention function."""
        return getattr(self.generator.forward.config, "_attn_implementation", None) == attention.NAME

    def scorer(self) -> Scorer:
        """The Scorer over this model, made once."""
        if self._scorer is None:
            attached = Attached(
                name="evaluated", model=self.model, groups=[], save=_never, merge=None, inputs=self.inputs
            )
            vocabulary = self.generator.forward.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
            with evaluating(self.model):
                self._scorer = Scorer(attached, vocabulary=vocabulary)
        return self._scorer


def _room(left: int, wanted: int) -> int:
    """Tokens of a reply: what is wanted, or what is left, in steps of 32 so that prompts of like length go together."""
    return wanted if left >= wanted else max(0, left - left % 32 if left >= 32 else left)


def _never(folder: str) -> None:
    raise AssertionError(f"an evaluation saves no model: {folder}")


def continuation(prompt: Sequence[int], whole: Sequence[int]) -> tuple[int, Tokens]:
    """How many ids two encodings share at the front, and the rest of the whole as a target."""
    shared = 0
    for left, right in zip(prompt, whole):
        if left != right:
            break
        shared += 1
    rest = whole[shared:]
    return shared, Tokens(list(rest), [1.0] * len(rest))
