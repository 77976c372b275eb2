"""Answers that people liked or did not like to rows: the answer after its prompt, and beside it another row's answer.

Left out: pairs (prepare.py; a pair given here counts as a liked and a disliked answer), shards on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from bottega.core.errors import UserError
from bottega.core.types import Conversation, Labelled, Preference, Row, Sample, Tokens, Turn
from bottega.data.chat import Encoded, Template, encode_many
from bottega.data.intake import Intake, Ledger
from bottega.data.prepare import compact, untrained
from bottega.data.sources import Problem

BATCH = 512


def rows(
    samples: Iterable[Sample | Problem],
    tokenizer: Any,
    template: Template,
    *,
    max_tokens: int,
    over_length: str = "error",
    thinking: str = "keep",
    allow_loss: int | None = None,
) -> tuple[list[Row], Intake]:
    """Rows of two branches, the answer and the answer of the next row (the last row takes the first's), with the extra `label`.

    Args:
        samples: answers with the label true or false, or pairs, each of which makes two rows.
        max_tokens: the most ids of a prompt with its answer; a borrowed answer is cut to it. over_length: error, drop or truncate.

    Raises:
        UserError: a row is too long under `error`, more are lost than allowed, none is left, or all are liked or all disliked.
    """
    if over_length == "split":
        raise UserError("an answer cannot be split into windows; set over_length to error, drop or truncate")
    ledger = Ledger(allow_loss)
    made: list[tuple[Tokens, Tokens, float]] = []
    waiting: list[tuple[Sample, float, Conversation]] = []

    def flush() -> None:
        talks = [talk for _, _, talk in waiting]
        for (sample, liked, _), answer in zip(
            waiting, encode_many(talks, tokenizer, template, mask="last", thinking=thinking) if talks else []
        ):
            fitted = _fit(sample, answer, max_tokens, over_length, ledger)
            if fitted is not None:
                made.append((*fitted, liked))
        waiting.clear()

    for sample in samples:
        ledger.saw(sample.where)
        problem = _problem(sample)
        if problem is not None:
            ledger.problem(problem)
            continue
        assert not isinstance(sample, Problem)
        waiting += ((sample, liked, talk) for liked, talk in _talks(sample))
        if len(waiting) >= BATCH:
            flush()
    flush()
    kinds = {liked for _, _, liked in made}
    if len(kinds) == 1:
        raise UserError(
            f"all {len(made)} answers are {'liked' if 1.0 in kinds else 'disliked'}; rows of both kinds are needed to tell them apart"
        )
    found = list(_borrowing(made, max_tokens))
    tokens = sum(row.num_tokens for row in found)
    trained = sum(int(np.count_nonzero(row.branches[0].trains)) for row in found)
    return found, ledger.close(taken=len(found), tokens=tokens, trained=trained)


def _problem(sample: Sample | Problem) -> Problem | None:
    if isinstance(sample, Problem):
        return sample
    if isinstance(sample, Preference):
        return None
    if not isinstance(sample, Labelled) or not sample.prompt:
        return Problem(
            sample.where,
            f"a {type(sample).__name__} where an answer with a label is needed (prompt, completion, label)",
        )
    return None


def _talks(sample: Sample) -> list[tuple[float, Conversation]]:
    if isinstance(sample, Preference):
        sides = ((1.0, sample.chosen), (0.0, sample.rejected))
        return [(liked, _talk(sample.prompt, side, sample)) for liked, side in sides]
    assert isinstance(sample, Labelled)
    answer = (Turn(role="assistant", content=sample.text),)
    return [(float(bool(sample.label)), _talk(sample.prompt, answer, sample))]


def _talk(prompt: Sequence[Turn], answer: Sequence[Turn], sample: Any) -> Conversation:
    return Conversation(turns=(*untrained(prompt), *answer), tools=getattr(sample, "tools", ()), where=sample.where)


def _fit(
    sample: Sample, answer: Encoded | Problem, max_tokens: int, over_length: str, ledger: Ledger
) -> tuple[Tokens, Tokens] | None:
    """Prompt and answer, within the limit."""
    if isinstance(answer, Problem):
        ledger.problem(answer)
        return None
    ids, trains = list(answer.tokens.ids), list(answer.tokens.trains)
    learned = [i for i, weight in enumerate(trains) if weight > 0]
    if not learned:
        ledger.drop(sample.where, "nothing to learn under this mask")
        return None
    start, end = learned[0], learned[-1] + 1
    if end > max_tokens:
        if over_length == "error":
            raise UserError(
                f"{sample.where} has {end:,} tokens, above max_tokens {max_tokens:,}; write over_length: drop or truncate, or raise it"
            )
        if over_length == "drop" or start >= max_tokens:
            ledger.tokens_lost += end
            ledger.drop(sample.where, f"longer than max_tokens {max_tokens}")
            return None
        ledger.tokens_lost += end - max_tokens
        ledger.cut += 1
        end = max_tokens
    return Tokens(ids[:start], trains[:start]), Tokens(ids[start:end], trains[start:end])


def _borrowing(made: Sequence[tuple[Tokens, Tokens, float]], max_tokens: int) -> Iterator[Row]:
    for index, (prefix, own, liked) in enumerate(made):
        other = made[(index + 1) % len(made)][1]
        room = max_tokens - len(prefix.ids)
        borrowed = Tokens(other.ids[:room], other.trains[:room])
        branches = (compact(own), compact(borrowed))
        yield Row(index=index, prefix=compact(prefix), branches=branches, extras={"label": (liked, liked)})
