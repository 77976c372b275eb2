"""Chats and preferences as an encoder-decoder has them: what it reads (a row's prefix), and what it writes (its branches).

Left out: pretraining (corrupt.py) and the layout of both sides (models/layout.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bottega.core.errors import UserError
from bottega.core.types import Conversation, Preference, Row, Sample, Tokens, Turn
from bottega.data.chat import Template, encode_prompt
from bottega.data.intake import Intake, Ledger
from bottega.data.prepare import Plan
from bottega.data.sources import Problem


def rows(
    samples: Iterable[Sample | Problem],
    tokenizer: Any,
    template: Template,
    *,
    plan: Plan,
    start: Sequence[int],
    end: int,
    allow_loss: int | None = None,
) -> tuple[list[Row], Intake]:
    """Rows to train on and the account of what was read: one row an answer, the turns before it are read.

    Args:
        plan: kind `chat` or `preference`; max_tokens bounds each side; mask `assistant` (every answer) or `last`.
        start: ids with which writing begins, given and not learned. end: the id that ends either side.

    Raises:
        UserError: another mask, a row that is too long under `error`, more are lost than allowed, or none is left.
    """
    if plan.mask not in ("assistant", "last"):
        raise UserError(
            f"the mask {plan.mask!r} trains what is read; an encoder-decoder learns answers: assistant or last"
        )
    if plan.over_length == "split":
        raise UserError("an answer cannot be split into windows here; set over_length to error, drop or truncate")
    ledger = Ledger(allow_loss)
    made: list[Row] = []
    for sample in samples:
        ledger.saw(sample.where)
        found = _asked(sample, plan)
        if isinstance(found, Problem):
            ledger.problem(found)
            continue
        for turns, answers in found:
            read = [*encode_prompt(turns, tokenizer, template), end]
            written = [[*start, *_plain(answer, tokenizer), end] for answer in answers]
            if _fits(sample, [read, *written], plan, ledger):
                branches = tuple(_tokens(ids[: plan.max_tokens], len(start)) for ids in written)
                prefix = read if len(read) <= plan.max_tokens else [*read[: plan.max_tokens - 1], end]
                made.append(Row(index=len(made), prefix=_tokens(prefix, len(prefix)), branches=branches))
    tokens = sum(row.num_tokens for row in made)
    trained = sum(int(np.count_nonzero(branch.trains)) for row in made for branch in row.branches)
    return made, ledger.close(taken=len(made), tokens=tokens, trained=trained)


def _asked(sample: Sample | Problem, plan: Plan) -> list[tuple[Sequence[Turn], list[str]]] | Problem:
    """(turns that are read, answers that are written) of a sample: one answer of a chat, two of a preference."""
    if isinstance(sample, Problem):
        return sample
    if plan.kind == "preference":
        if not isinstance(sample, Preference):
            return Problem(sample.where, f"a {type(sample).__name__} where a preference (chosen, rejected) is needed")
        if len(sample.chosen) != 1 or len(sample.rejected) != 1 or not sample.prompt:
            return Problem(sample.where, "an encoder-decoder compares one answer with one other to a prompt")
        return [(sample.prompt, [sample.chosen[0].content, sample.rejected[0].content])]
    if not isinstance(sample, Conversation):
        return Problem(
            sample.where, f"a {type(sample).__name__} where a chat is needed; train it with another objective"
        )
    places = [i for i, turn in enumerate(sample.turns) if turn.role == "assistant" and i and turn.content.strip()]
    if plan.mask == "assistant":
        places = [i for i in places if sample.turns[i].weight != 0]
    if not places:
        return Problem(sample.where, "a chat without an answer to something, so there is nothing to learn")
    chosen = places[-1:] if plan.mask == "last" else places
    return [(sample.turns[:i], [sample.turns[i].content]) for i in chosen]


def _fits(sample: Any, sides: Sequence[Sequence[int]], plan: Plan, ledger: Ledger) -> bool:
    """Whether a row is taken; what is cut is counted."""
    longest = max(map(len, sides))
    if longest <= plan.max_tokens:
        return True
    if plan.over_length == "error":
        raise UserError(
            f"{sample.where} has a side of {longest:,} tokens, above max_tokens {plan.max_tokens:,}; set over_length to drop or "
            f"truncate, or raise max_tokens"
        )
    if plan.over_length == "drop":
        ledger.drop(sample.where, f"longer than max_tokens {plan.max_tokens}")
        ledger.tokens_lost += sum(map(len, sides))
        return False
    ledger.cut += 1
    ledger.tokens_lost += sum(max(0, len(side) - plan.max_tokens) for side in sides)
    ledger.answers_cut += sum(len(side) > plan.max_tokens for side in sides[1:])
    return True


def _plain(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _tokens(ids: Sequence[int], num_given: int) -> Tokens:
    trains = np.ones(len(ids), dtype=np.float32)
    trains[:num_given] = 0.0
    packed: Any = (np.asarray(ids, dtype=np.int32), trains)
    return Tokens(*packed)


def scored(
    prefix: Tokens, branches: Sequence[Tokens], *, start: Sequence[int], end: int
) -> tuple[Tokens, tuple[Tokens, ...]]:
    """A prompt and its continuations, as they are for a decoder, on both sides: the prompt is read, each continuation written."""
    read = [*map(int, prefix.ids), end]
    written = tuple(_tokens([*start, *map(int, branch.ids)], len(start)) for branch in branches)
    return _tokens(read, len(read)), written
