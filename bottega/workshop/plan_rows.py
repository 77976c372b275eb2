"""The rows of a stage as a plan needs them: how many, how long, and the heaviest micro-batch that will come.

Left out: what they cost (plan_memory.py, plan_time.py). Small data are read just as the run reads them; of large data every k-th
row is tokenised, and the plan says so; where the tokenizer is not here, four characters count as a token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bottega.core.errors import UserError
from bottega.core.types import Conversation, Document, Preference, Row, Tokens
from bottega.data import formats, prepare
from bottega.data.blocks import blocks
from bottega.data.chat import Template
from bottega.data.intake import Ledger
from bottega.data.pack import micro_batches
from bottega.data.sources import Problem, find
from bottega.models.generate import context_limit
from bottega.train.objectives import OBJECTIVES
from bottega.train.settings import SCORE_TOKENS
from bottega.workshop.recipe import Stage
from bottega.workshop.rows import DEFAULT_MAX_TOKENS
from bottega.workshop.sources import source_of

WHOLE_BYTES = 2_000_000
"""Files up to so many bytes together are tokenised whole."""
SAMPLE_ROWS, SEEN_ROWS = 1500, 200_000
"""Rows that are tokenised of larger ones, and rows that are read to count them."""
CHARACTERS_PER_TOKEN = 4
STEPS_AHEAD = 400
"""Steps whose micro-batches are looked at."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StageRows:
    """rows, tokens, trained: of one pass over the training rows; held_out: tokens of the evaluation; steps: optimizer
    steps; heaviest: the micro-batch with most tokens; micro_batches, step_tokens, step_squares: a step's micro-batches,
    tokens and sum of squared sequence lengths, on average; how: how they were counted, for the report."""

    rows: int
    tokens: float
    trained: float
    held_out: float
    steps: int
    heaviest: tuple[Row, ...]
    micro_batches: float
    step_tokens: float
    step_squares: float
    how: str

    @property
    def heavy_tokens(self) -> int:
        return sum(row.num_tokens for row in self.heaviest)


def look(stage: Stage, config: Any, tokenizer: Any, *, seed: int, packed: bool) -> StageRows:
    """Count the rows of a stage and lay out its first steps.

    Raises:
        UserError: rows that the run would refuse too.
    """
    size = sum(file.stat().st_size for part in stage.data for file in _files(part.path))
    limit = _limit(stage, config)
    made, grows, how = _made(stage, tokenizer, limit, whole=size <= WHOLE_BYTES)
    if not any(made):
        raise UserError(f"stage {stage.name}: no row of its data can be used; see `bottega data check`")
    share = stage.validation.share if stage.validation else None
    held = (share or 0.0) * sum(row.num_tokens for rows in made for row in rows) * grows
    kept = 1.0 - (share or 0.0)
    flat = [row for rows in made for row in rows]
    source = source_of(replace(stage, context=()), made, seed=seed)  # the longest rows take the most memory
    per_epoch = max(1, math.ceil(source.steps_per_epoch * grows * kept - 1e-9))
    count = max(1, round(len(flat) * grows * kept))
    steps = stage.steps or max(1, math.ceil((stage.epochs or 1.0) * per_epoch - 1e-9))
    facts = _steps(source, min(steps, STEPS_AHEAD), most_tokens(stage.loop), packed)
    tokens = sum(row.num_tokens for row in flat) * grows * kept
    trained = sum(float(np.count_nonzero(b.trains)) for row in flat for b in row.branches) * grows * kept
    return StageRows(rows=count, tokens=tokens, trained=trained, held_out=held, steps=steps, how=how, **facts)


def most_tokens(loop: Mapping[str, Any]) -> int:
    """The setting micro_tokens; where it is `auto`, what that starts from."""
    return SCORE_TOKENS if loop["micro_tokens"] == "auto" else int(loop["micro_tokens"])


def _files(path: str) -> list[Path]:
    return [Path(str(file)) for file in find([path])]


def _limit(stage: Stage, config: Any) -> int:
    own = context_limit(config)
    return stage.max_tokens or min(DEFAULT_MAX_TOKENS, own or DEFAULT_MAX_TOKENS)


def _steps(source: Any, steps: int, micro_tokens: int, packed: bool) -> dict[str, Any]:
    """The heaviest micro-batch of the first steps, and what a step is made of on average."""
    heaviest: list[Row] = []
    most, batches, tokens, squares, seen = -1.0, 0, 0, 0.0, 0
    for rows in source.ahead(steps):
        sizes = [_cost(row, packed) for row in rows]
        for members in micro_batches(sizes, max_tokens=micro_tokens, packed=packed):
            weight = sum(sizes[i] for i in members) if packed else len(members) * max(sizes[i] for i in members)
            if weight > most:
                most, heaviest = weight, [rows[i] for i in members]
            batches += 1
        tokens += sum(row.num_tokens for row in rows)
        squares += sum(float(len(row.prefix.ids) + len(b.ids)) ** 2 for row in rows for b in row.branches)
        seen += 1
    return {
        "heaviest": tuple(heaviest),
        "micro_batches": batches / seen,
        "step_tokens": tokens / seen,
        "step_squares": squares / seen,
    }


def _cost(row: Row, packed: bool) -> int:
    if packed:
        return row.num_tokens
    return len(row.branches) * max(len(row.prefix.ids) + len(b.ids) for b in row.branches)


def _made(stage: Stage, tokenizer: Any, limit: int, *, whole: bool) -> tuple[list[list[Row]], float, str]:
    """Rows by source, the factor to the whole, and how it was done."""
    kind = OBJECTIVES[stage.objective.name].data
    seen = [[s for s in islice(_samples(part), SEEN_ROWS) if not isinstance(s, Problem)] for part in stage.data]
    total = sum(len(samples) for samples in seen)
    every = 1 if whole else max(1, total // SAMPLE_ROWS)
    chosen = [samples[::every] for samples in seen]
    grows = total / max(1, sum(len(samples) for samples in chosen))
    told = f"all {total:,} rows" if every == 1 else f"every {every}th of {total:,} rows"
    if any(len(samples) == SEEN_ROWS for samples in seen):
        told += f" (only the first {SEEN_ROWS:,} of a source were read: there are more)"
    if tokenizer is None:
        made = [[row for s in samples for row in _guessed(s, kind, limit)] for samples in chosen]
        return made, grows, f"{told}, {CHARACTERS_PER_TOKEN} characters taken for a token (no tokenizer here)"
    template = Template.find(stage.template, tokenizer)
    if kind not in prepare.KINDS:
        made = [[row for s in samples for row in _guessed(s, kind, limit)] for samples in chosen]
        return made, grows, f"{told}, {CHARACTERS_PER_TOKEN} characters taken for a token"
    plan = prepare.Plan(
        kind=kind,
        max_tokens=limit,
        over_length=stage.over_length or "error",
        mask=stage.mask,
        thinking=stage.thinking,
    )
    bound = template.bind(tokenizer)
    made = [list(prepare.iterate(samples, tokenizer, bound, plan=plan, ledger=Ledger(10**9))) for samples in chosen]
    if stage.blocks:
        made = [list(blocks(rows, length=limit)) for rows in made]
    return made, grows, f"{told} tokenised"


def _samples(part: Any) -> Iterator[Any]:
    return formats.samples(part.path, format=part.format, columns=part.columns)


def _guessed(sample: Any, kind: str, limit: int) -> Iterator[Row]:
    """A row as long as the sample's characters suggest, cut or split at the limit."""
    if isinstance(sample, Preference):
        shared, chosen, rejected = (_said(turns) for turns in (sample.prompt, sample.chosen, sample.rejected))
        shared = min(shared, limit - 2)
        branches = tuple(_plain(0, min(own, limit - shared)) for own in (chosen, rejected))
        yield Row(index=0, prefix=_plain(shared, 0), branches=branches)
        return
    if isinstance(sample, Conversation) and kind == "chat":
        answers = _said([turn for turn in sample.turns if turn.role == "assistant"])
        yield Row(index=0, branches=(_plain(min(_said(sample.turns) - answers, limit - 1), min(answers, limit)),))
        return
    size = _said(sample.turns) if isinstance(sample, Conversation) else _length(sample)
    for start in range(0, size, limit):
        yield Row(index=0, branches=(_plain(1, max(1, min(limit, size - start) - 1)),))


def _said(turns: Sequence[Any]) -> int:
    return max(1, sum(len(turn.content) for turn in turns) // CHARACTERS_PER_TOKEN)


def _length(sample: Any) -> int:
    text = sample.text if isinstance(sample, Document) else str(getattr(sample, "text", ""))
    return max(2, len(text) // CHARACTERS_PER_TOKEN)


def _plain(context: int, answer: int) -> Tokens:
    """So many tokens that are only read, and so many that are learned."""
    ids: Any = np.ones(context + answer, dtype=np.int32)
    trains: Any = np.concatenate([np.zeros(context, np.float32), np.ones(answer, np.float32)])
    return Tokens(ids, trains)
