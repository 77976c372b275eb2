"""Where a stage's rows come from: every row once an epoch, a mixture, or an order of difficulty.

Left out: reading and tokenising (rows.py), and how each source works (the train room).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bottega.core.errors import UserError
from bottega.core.types import Row
from bottega.data.mix import Chain, shares
from bottega.data.order import Banded, Order
from bottega.data.shards import ShardRows
from bottega.train.context import Growing, Length
from bottega.train.curriculum import ByLoss
from bottega.train.mixture import Mixture, Phase
from bottega.train.source import Dataset
from bottega.workshop.recipe_parts import Curriculum, Part, Stage

DIFFICULTY = "difficulty"
"""The extra of a row that holds the column a curriculum orders by."""
StageSource = Dataset | Mixture | ByLoss | Growing


def source_of(stage: Stage, rows: Sequence[Sequence[Row]], *, seed: int) -> StageSource:
    """The source that the stage describes, over the rows of each of its parts.

    Raises:
        UserError: the mixture ends before the stage does, or there are too many rows for a curriculum by loss.
    """
    if stage.curriculum:
        return _curriculum(stage.curriculum, rows, stage.batch, seed)
    inner = _mixture(stage, rows, seed) if is_mixture(stage) else Dataset(Chain(rows), batch=stage.batch, seed=seed)
    if not stage.context:
        return inner
    steps = steps_of(stage, inner.steps_per_epoch)
    return Growing(inner, [Length(part.tokens, round(part.until * steps)) for part in stage.context])


def steps_of(stage: Stage, steps_per_epoch: int) -> int:
    """The optimizer steps of a stage."""
    return stage.steps or max(1, math.ceil((stage.epochs or 1.0) * steps_per_epoch - 1e-9))


def is_mixture(stage: Stage) -> bool:
    """Whether rows are drawn in shares, rather than every row once an epoch."""
    return stage.mixture is not None or any(part.weight is not None or part.epochs is not None for part in stage.data)


def _mixture(stage: Stage, rows: Sequence[Sequence[Row]], seed: int) -> Mixture:
    sizes = [len(one) for one in rows]
    own = [part.weight for part in stage.data if part.weight is not None]
    schedule = stage.mixture.schedule if stage.mixture else ()
    first = shares(
        sizes,
        weights=own or None,
        epochs=[part.epochs for part in stage.data],
        temperature=stage.mixture.temperature if stage.mixture else 1.0,
    )
    phases = [Phase(0, tuple(first))] if not schedule or schedule[0].tokens else []
    phases += [Phase(phase.tokens, tuple(shares(sizes, weights=phase.weights))) for phase in schedule]
    caps = [_cap(part, size) for part, size in zip(stage.data, sizes, strict=True)]
    source = Mixture(rows, phases, batch=stage.batch, seed=seed, caps=caps)
    wanted = steps_of(stage, source.steps_per_epoch) * stage.batch
    if source.limit is not None and wanted - stage.batch >= source.limit:
        raise UserError(
            f"the stage {stage.name} takes {wanted:,} rows, and its sources have {source.limit:,} with the `epochs` that each may "
            f"come: take {-(-source.limit // stage.batch):,} steps, or raise the epochs of a source"
        )
    return source


def _cap(part: Part, size: int) -> int | None:
    return None if part.epochs is None else max(1, round(part.epochs * size))


def _curriculum(wanted: Curriculum, rows: Sequence[Sequence[Row]], batch: int, seed: int) -> StageSource:
    whole, hard_first = Chain(rows), wanted.first == "hard"
    if wanted.by == "loss":
        return ByLoss(whole, batch=batch, seed=seed, bands=wanted.bands, hard_first=hard_first)
    keys = np.concatenate([_keys(wanted.by, one) for one in rows])

    def ordered(epoch: int) -> Order | None:
        if epoch >= wanted.epochs:
            return None
        return Banded(keys, seed, epoch, bands=wanted.bands, reverse=hard_first)

    return Dataset(whole, batch=batch, seed=seed, ordered=ordered)


def _keys(by: str, rows: Sequence[Row]) -> np.ndarray:
    """The number by which each row is ordered."""
    if by == "length":
        return (
            rows.lengths().astype(float)
            if isinstance(rows, ShardRows)
            else np.array([float(row.num_tokens) for row in rows])
        )
    if isinstance(rows, ShardRows):
        return rows.column(DIFFICULTY)
    return np.array([row.extras[DIFFICULTY][0] for row in rows])
