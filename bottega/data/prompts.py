"""Samples to prompts: the token ids that an answer is to follow, and what is known of the right answer.

Left out: sampling answers (train/rollout.py); samples to rows that are learned as they are (prepare.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bottega.core.errors import UserError
from bottega.core.types import NOWHERE, Conversation, Document, Labelled, Preference, Sample, Turn, Where
from bottega.data.chat import Template, encode_prompt, tokenize
from bottega.data.intake import Intake, Ledger
from bottega.data.sources import Problem

TRUTHS = ("answer", "truth", "solution", "label")
"""Columns that hold the right answer, where the sample has no answer of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """ids: what is computed; text: as a person reads it; truth: the right answer, if the data has one; row: its other columns."""

    ids: tuple[int, ...]
    text: str
    truth: Any = None
    row: Mapping[str, Any] = field(default_factory=dict)
    where: Where = NOWHERE


def prompts(
    samples: Iterable[Sample | Problem],
    tokenizer: Any,
    template: Template,
    *,
    max_tokens: int,
    over_length: str = "error",
    allow_loss: int | None = None,
) -> tuple[list[Prompt], Intake]:
    """Prompts and the account of what was read.

    A conversation is asked up to its last question, and its own answer is the truth; of a preference the prompt is asked; a text is
    simply continued.

    Args:
        max_tokens: the most ids of a prompt. over_length: error or drop.

    Raises:
        UserError: more rows are lost than allowed, a prompt is too long under `error`, or none is left.
    """
    if over_length not in ("error", "drop"):
        raise UserError(
            f"a prompt that is cut asks something else; set over_length to drop or error, not {over_length}"
        )
    ledger, found = Ledger(allow_loss), []
    bound = template.bind(tokenizer)
    for sample in samples:
        if isinstance(sample, Problem):
            ledger.saw(sample.where)
            ledger.problem(sample)
            continue
        ledger.saw(sample.where)
        prompt = _prompt(sample, tokenizer, bound)
        if isinstance(prompt, Problem):
            ledger.problem(prompt)
        elif len(prompt.ids) > max_tokens:
            if over_length == "error":
                raise UserError(
                    f"{sample.where} has {len(prompt.ids):,} tokens, and a prompt may have {max_tokens:,} so that its answer fits; "
                    "set over_length to drop, or lower rollout.max_tokens"
                )
            ledger.drop(sample.where, f"a prompt longer than {max_tokens} tokens")
        else:
            found.append(prompt)
    return found, ledger.close(taken=len(found), tokens=sum(len(one.ids) for one in found), trained=0)


def _prompt(sample: Sample, tokenizer: Any, template: Template) -> Prompt | Problem:
    truth = next((sample.meta[name] for name in TRUTHS if sample.meta.get(name) is not None), None)
    if isinstance(sample, Document):
        ids = tokenize([sample.text], tokenizer)[0][0]
        if not ids:
            return Problem(sample.where, "an empty text, and this tokenizer has no BOS token to begin with")
        return Prompt(ids=tuple(ids), text=sample.text, truth=truth, row=sample.meta, where=sample.where)
    if isinstance(sample, Preference | Labelled):
        turns: Sequence[Turn] = sample.prompt
        tools: tuple[Any, ...] = getattr(sample, "tools", ())
    else:
        assert isinstance(sample, Conversation)
        turns, tools = list(sample.turns), sample.tools
        if turns and turns[-1].role == "assistant":
            truth = turns[-1].content if truth is None else truth
            turns = turns[:-1]
    if not turns or turns[-1].role == "assistant":
        return Problem(sample.where, "no question at the end, so there is nothing to answer")
    ids = encode_prompt(Conversation(turns=tuple(turns), tools=tools, where=sample.where), tokenizer, template)
    return Prompt(ids=tuple(ids), text=turns[-1].content, truth=truth, row=sample.meta, where=sample.where)
