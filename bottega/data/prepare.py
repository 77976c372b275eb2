"""Samples to rows of token ids: text, chats and preferences, with the over-length policy and the account of every row.

Left out: packing and order (pack.py, order.py); shards on disk.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from bottega.core.errors import UserError
from bottega.core.types import Conversation, Document, Labelled, Preference, Row, Sample, Tokens, Turn
from bottega.data.chat import Encoded, Template, encode_many, text_tokens, uses_bos
from bottega.data.intake import Intake, Ledger
from bottega.data.sources import Problem

KINDS = ("text", "chat", "preference")
POLICIES = ("error", "drop", "split", "truncate")
BATCH = 512
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How samples become rows; see `rows` for what the fields mean."""

    kind: str
    max_tokens: int
    over_length: str = "error"
    mask: str = "assistant"
    thinking: str = "keep"
    difficulty: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"there is no kind of rows {self.kind!r}; choose one of {', '.join(KINDS)}")
        if self.over_length not in POLICIES:
            raise UserError(f"there is no over-length policy {self.over_length!r}; choose one of {', '.join(POLICIES)}")
        if self.kind == "preference" and self.over_length == "split":
            raise UserError("a preference cannot be split into windows; set over_length to error, drop or truncate")
        if self.kind == "preference" and self.mask not in ("assistant", "last"):
            raise UserError(f"the mask {self.mask!r} would train the prompt of preferences; choose assistant or last")
        if self.max_tokens < 2:
            raise UserError(f"max_tokens is {self.max_tokens}; a row needs at least 2, one to see and one to learn")


def rows(
    samples: Iterable[Sample | Problem],
    tokenizer: Any,
    template: Template | None = None,
    *,
    kind: str = "chat",
    max_tokens: int,
    over_length: str = "error",
    mask: str = "assistant",
    thinking: str = "keep",
    difficulty: str | None = None,
    allow_loss: int | None = None,
) -> tuple[list[Row], Intake]:
    """Rows to train on and the account of what was read.

    Args:
        template: None means the tokenizer's own. Ids and weights of the rows are int32 and float32 arrays.
        kind: `text` (all but the first token train), `chat` (masked), `preference` (shared prefix, chosen and
            rejected).
        max_tokens: the most ids of a row (of a prefix with one branch, for preferences), at least 2.
        over_length: what happens to longer rows: `error`, `drop`, `split` (windows) or `truncate`.
        mask, thinking: as in `chat.encode_many`.
        difficulty: a column with a number, which rows then carry as the extra `difficulty` (a curriculum orders by it).
        allow_loss: rows that may be lost; None: 1 percent of files over 1,000 rows, none of smaller ones.

    Raises:
        UserError: more rows are lost than allowed, one is too long under `error`, none is left, or an unknown name.
        Unsafe: a stranger's template breaks a limit.
    """
    plan = Plan(
        kind=kind, max_tokens=max_tokens, over_length=over_length, mask=mask, thinking=thinking, difficulty=difficulty
    )
    ledger = Ledger(allow_loss)
    bound = (template or Template.of(tokenizer)).bind(tokenizer)
    made: list[Row] = []
    for row in iterate(samples, tokenizer, bound, plan=plan, ledger=ledger):
        made.append(row)
    tokens = sum(row.num_tokens for row in made)
    trained = sum(int(np.count_nonzero(branch.trains)) for row in made for branch in row.branches)
    return made, ledger.close(taken=len(made), tokens=tokens, trained=trained)


def iterate(
    samples: Iterable[Sample | Problem], tokenizer: Any, template: Template, *, plan: Plan, ledger: Ledger
) -> Iterator[Row]:
    """Rows one after another, the account kept in `ledger`; memory is bounded by a batch of 512 samples.

    Raises:
        UserError, Unsafe: as `rows`.
    """
    index = 0
    for sample, answer in encoded(samples, tokenizer, template, plan=plan, ledger=ledger):
        for prefix, branches, extras in fitted(sample, answer, tokenizer, plan=plan, ledger=ledger):
            if plan.difficulty is not None:
                extras["difficulty"] = [float(sample.meta[plan.difficulty])] * len(branches)
            yield Row(index=index, prefix=compact(prefix), branches=tuple(map(compact, branches)), extras=extras)
            index += 1


def compact(tokens: Tokens) -> Tokens:
    """The same tokens as arrays (int32 ids, float32 weights): 8 bytes a token where lists take about 40."""
    ids: Any = np.asarray(tokens.ids, dtype=np.int32)
    trains: Any = np.asarray(tokens.trains, dtype=np.float32)
    return Tokens(ids, trains)


def encoded(
    samples: Iterable[Sample | Problem], tokenizer: Any, template: Template, *, plan: Plan, ledger: Ledger
) -> Iterator[tuple[Sample, Any]]:
    """Each usable sample with its tokens (for preferences: prefix, chosen, rejected, margin), before any cutting.

    Raises:
        UserError, Unsafe: as `rows`.
    """
    encoders: dict[str, Callable[..., list[Any]]] = {"text": _sequences, "chat": _sequences, "preference": _preferences}
    noted = plan.kind == "text"
    for batch in _batched(samples, BATCH):
        found = [sample if isinstance(sample, Problem) else unfit(sample, plan) for sample in batch]
        good: list[Any] = [sample for sample, problem in zip(batch, found) if problem is None]
        if not noted and good:
            noted = True
            for note in template.notes(tokenizer):
                ledger.note(note)
        answers = iter(encoders[plan.kind](good, tokenizer, template, plan, ledger))
        for sample, problem in zip(batch, found):  # in the order of the rows, so that no count depends on the batches
            ledger.saw(sample.where)
            answer = problem or next(answers)
            if isinstance(answer, Problem):
                ledger.problem(answer)
            else:
                assert not isinstance(sample, Problem)
                yield sample, answer


def _batched(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _is_number(value: Any) -> bool:
    """A finite number, or a text that is one (as csv has it)."""
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def unfit(sample: Sample, plan: Plan) -> Problem | None:
    """Why a sample cannot be a row of this kind; None when it can."""
    where = sample.where
    if plan.difficulty is not None and not _is_number(sample.meta.get(plan.difficulty)):
        column = where._replace(column=plan.difficulty)
        return Problem(column, f"the column {plan.difficulty!r} holds no number to order rows by")
    if plan.kind == "preference":
        if not isinstance(sample, Preference):
            return Problem(where, f"a {type(sample).__name__} where a preference (chosen, rejected) is needed")
    elif isinstance(sample, Preference | Labelled):
        return Problem(where, f"a {type(sample).__name__} where {plan.kind} is needed; train it with another objective")
    elif plan.kind == "chat" and isinstance(sample, Conversation) and plan.mask in ("assistant", "last"):
        if not any(turn.role == "assistant" or turn.weight for turn in sample.turns):
            return Problem(where, "a chat without an assistant turn, so there is nothing to learn")
    return None


def _sequences(batch: Sequence[Sample], tokenizer: Any, template: Template, plan: Plan, ledger: Ledger) -> list[Any]:
    """Documents as they are; conversations rendered whole."""
    documents = [sample for sample in batch if isinstance(sample, Document)]
    plain = iter(text_tokens([d.text for d in documents], tokenizer) if documents else [])
    talks = [sample for sample in batch if isinstance(sample, Conversation)]
    spoken = iter(
        encode_many(
            talks, tokenizer, template, mask="all" if plan.kind == "text" else plan.mask, thinking=plan.thinking
        )
        if talks
        else []
    )
    answers: list[Any] = []
    for sample in batch:
        answer = next(plain) if isinstance(sample, Document) else next(spoken)
        for note in answer.notes if isinstance(answer, Encoded) else ():
            ledger.note(note)
        answers.append(answer.tokens if isinstance(answer, Encoded) else answer)
    return answers


def _preferences(
    batch: Sequence[Any], tokenizer: Any, template: Template, plan: Plan, ledger: Ledger
) -> list[tuple[Tokens, Tokens, Tokens, float | None] | Problem]:
    """Prefix, chosen and rejected of each preference."""
    both: list[Conversation] = []
    for pair in batch:
        prompt = untrained(pair.prompt)
        for side in (pair.chosen, pair.rejected):
            both.append(Conversation(turns=(*prompt, *side), tools=pair.tools, where=pair.where))
    encoded = encode_many(both, tokenizer, template, mask=plan.mask, thinking=plan.thinking)
    answers: list[tuple[Tokens, Tokens, Tokens, float | None] | Problem] = []
    for pair, chosen, rejected in zip(batch, encoded[::2], encoded[1::2]):
        problem = next((side for side in (chosen, rejected) if isinstance(side, Problem)), None)
        if problem is None:
            assert isinstance(chosen, Encoded) and isinstance(rejected, Encoded)
            answers.append((*fork(chosen.tokens, rejected.tokens), pair.margin))
        else:
            answers.append(problem)
    return answers


def untrained(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns as context: none trains."""
    return tuple(replace(turn, weight=0.0) for turn in turns)


def fork(chosen: Tokens, rejected: Tokens) -> tuple[Tokens, Tokens, Tokens]:
    """What both begin with and do not train, and the two that go on from there, each up to its last trained token.

    ids (1, 2, 3, 4) and (1, 2, 5), trained from place 2 -> prefix (1, 2), branches (3, 4) and (5). What a template writes behind an
    answer's end is cut off: no loss reads it, and a reward is read where a policy stops writing.
    """
    chosen, rejected = (to_last_trained(side) for side in (chosen, rejected))
    first = [next((i for i, w in enumerate(side.trains) if w > 0), len(side.ids)) for side in (chosen, rejected)]
    shared = len(os.path.commonprefix([list(chosen.ids)[: first[0]], list(rejected.ids)[: first[1]]]))
    prefix = Tokens(chosen.ids[:shared], chosen.trains[:shared])
    return (
        prefix,
        Tokens(chosen.ids[shared:], chosen.trains[shared:]),
        Tokens(rejected.ids[shared:], rejected.trains[shared:]),
    )


def to_last_trained(tokens: Tokens) -> Tokens:
    """The tokens up to the last one that trains (all of them where none does)."""
    size = max((i + 1 for i, weight in enumerate(tokens.trains) if weight > 0), default=len(tokens.ids))
    return Tokens(tokens.ids[:size], tokens.trains[:size])


Parts = tuple[Tokens, tuple[Tokens, ...], dict[str, list[float]]]


def fitted(sample: Sample, answer: Any, tokenizer: Any, *, plan: Plan, ledger: Ledger) -> Iterator[Parts]:
    """The parts (prefix, branches, extras) of the rows that come of one encoded sample, after the over-length policy.

    Raises:
        UserError: the sample is too long under `error`.
    """
    if plan.kind == "preference":
        yield from _fitted_pair(sample, answer, plan, ledger)
        return
    tokens: Tokens = answer
    if not any(weight > 0 for weight in tokens.trains):
        ledger.drop(sample.where, "nothing to learn under this mask")
        return
    size = len(tokens.ids)
    if size <= plan.max_tokens:
        yield Tokens((), ()), (tokens,), {}
        return
    _stop_or_count(sample, size, plan)
    if plan.over_length == "drop":
        ledger.drop(sample.where, f"longer than max_tokens {plan.max_tokens}")
        ledger.tokens_lost += size
        ledger.answers_cut += len(ends(tokens.trains))
        return
    if plan.over_length == "truncate":
        yield from _cut(sample, tokens, plan, ledger)
        return
    bos = tokenizer.bos_token_id if uses_bos(tokenizer) else None
    kept = 0
    for window in windows(tokens, plan.max_tokens, bos=bos):
        if any(weight > 0 for weight in window.trains):
            kept += 1
            yield Tokens((), ()), (window,), {}
        else:
            ledger.tokens_lost += len(window.ids)
    ledger.windows += kept - 1
    ledger.cut += 1


def _stop_or_count(sample: Sample, size: int, plan: Plan) -> None:
    if plan.over_length == "error":
        raise UserError(
            f"{sample.where} has {size:,} tokens, above max_tokens {plan.max_tokens:,}; set over_length to drop, "
            f"{'' if plan.kind == 'preference' else 'split '}or truncate, or raise max_tokens"
        )


def _cut(sample: Sample, tokens: Tokens, plan: Plan, ledger: Ledger) -> Iterator[Parts]:
    short = Tokens(tokens.ids[: plan.max_tokens], tokens.trains[: plan.max_tokens])
    ledger.tokens_lost += len(tokens.ids) - plan.max_tokens
    ledger.answers_cut += sum(end >= plan.max_tokens for end in ends(tokens.trains))
    if any(weight > 0 for weight in short.trains):
        ledger.cut += 1
        yield Tokens((), ()), (short,), {}
    else:
        ledger.tokens_lost += plan.max_tokens
        ledger.drop(sample.where, f"nothing to learn within max_tokens {plan.max_tokens}")


def _fitted_pair(sample: Sample, answer: Any, plan: Plan, ledger: Ledger) -> Iterator[Parts]:
    prefix, chosen, rejected, margin = answer
    extras = {} if margin is None else {"margin": [margin, margin]}
    longest = len(prefix.ids) + max(len(chosen.ids), len(rejected.ids))
    if longest > plan.max_tokens:
        _stop_or_count(sample, longest, plan)
        room = plan.max_tokens - len(prefix.ids)
        sides = [Tokens(side.ids[: max(room, 0)], side.trains[: max(room, 0)]) for side in (chosen, rejected)]
        before = len(chosen.ids) + len(rejected.ids)
        usable = all(any(weight > 0 for weight in side.trains) for side in sides) and sides[0] != sides[1]
        ledger.answers_cut += sum(len(prefix.ids) + len(side.ids) > plan.max_tokens for side in (chosen, rejected))
        if plan.over_length == "drop" or not usable:
            ledger.tokens_lost += len(prefix.ids) + before
            what = "longer than" if plan.over_length == "drop" else "nothing to compare within"
            ledger.drop(sample.where, f"{what} max_tokens {plan.max_tokens}")
            return
        ledger.tokens_lost += before - sum(len(side.ids) for side in sides)
        ledger.cut += 1
        chosen, rejected = sides
    if not prefix.ids:
        chosen, rejected = (Tokens(side.ids, [0.0, *side.trains[1:]]) for side in (chosen, rejected))
    if not all(any(weight > 0 for weight in side.trains) for side in (chosen, rejected)):
        ledger.drop(sample.where, "nothing to learn under this mask")
        return
    yield prefix, (chosen, rejected), extras


def ends(trains: Any) -> list[int]:
    """The last place of each trained stretch: (0, 1, 1, 0, 1) -> [2, 4]."""
    return [i for i, (weight, after) in enumerate(zip(trains, [*trains[1:], 0.0])) if weight > 0 and not after > 0]


def windows(tokens: Tokens, max_tokens: int, *, bos: int | None) -> Iterator[Tokens]:
    """Windows of at most `max_tokens` ids that together train every target once.

    Later windows start with the BOS, where rows have one, or with the id before them, as context that does not train.
    ids 0..4, max 3, no BOS -> (0, 1, 2), (2, 3, 4) with the 2 of the second not trained.
    """
    ids, trains = list(tokens.ids), list(tokens.trains)
    yield Tokens(ids[:max_tokens], trains[:max_tokens])
    step = max_tokens - 1
    for start in range(max_tokens, len(ids), step):
        head = ids[start - 1] if bos is None else bos
        yield Tokens([head, *ids[start : start + step]], [0.0, *trains[start : start + step]])
