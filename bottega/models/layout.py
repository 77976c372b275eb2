"""How rows lie in a micro-batch: packed end to end in one row, or one sequence a row with padding.

Left out: which rows share a micro-batch (data/pack.py) and anything about their meaning.

Shapes: B rows, T positions, S supervised positions, Q sequences.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from bottega.core.types import EMPTY, Row, Targets
from bottega.models.attention import Block, Geometry

IN_PLACE = "label"
"""The name in `Row.tokens` of labels that belong to the token at which they are predicted, instead of to the one after it."""


NONE = (math.nan,)
"""The extra of a branch whose row does not have it, where others do (the margin of some pairs of a file)."""


Laid = TypeVar("Laid", "Layout", Targets)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Layout:
    """One micro-batch as the model sees it.

    ids_BT, positions_BT: token ids and positions (they restart with every sequence). mask_BT: 1 for real tokens, None when
    there is no padding. geometry: the blocks of a packed row. at_S: index into the B*T hidden states of the state that predicts each
    supervised token (or its own, for rows that are labelled in place). first_Q, last_Q: index of each sequence's first own and last
    token. source_BT, source_mask_BT: what an encoder-decoder reads; the rest then describes what it writes.
    """

    ids_BT: Tensor
    positions_BT: Tensor
    mask_BT: Tensor | None
    geometry: Geometry | None
    at_S: Tensor
    first_Q: Tensor
    last_Q: Tensor
    source_BT: Tensor | None = None
    source_mask_BT: Tensor | None = None

    @property
    def packed(self) -> bool:
        return self.geometry is not None

    @property
    def num_sequences(self) -> int:
        return len(self.last_Q)


class _Writer:
    """Collects supervision while sequences are laid down."""

    def __init__(self) -> None:
        self.at: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []
        self.sequence: list[np.ndarray] = []
        self.first: list[int] = []
        self.last: list[int] = []
        self.row: list[int] = []

    def supervise(self, ids, trains, start: int, before: int, sequence: int, *, in_place: bool = False) -> None:
        """Tokens `ids` lie at `start`...; the token before the first lies at `before` (-1: there is none).

        in_place: what is predicted at a token is something of its own (a tag, the word that a mask hides).
        """
        weights = np.asarray(trains, dtype=np.float32)
        where = np.flatnonzero(weights)
        if in_place:
            self._note(start + where, np.asarray(ids, dtype=np.int64)[where], weights[where], sequence)
            return
        if before < 0 and len(where) and where[0] == 0:
            where = where[1:]
        predictors = start + where - 1
        if len(where) and where[0] == 0:
            predictors[0] = before
        self._note(predictors, np.asarray(ids, dtype=np.int64)[where], weights[where], sequence)

    def _note(self, at: np.ndarray, labels: np.ndarray, weights: np.ndarray, sequence: int) -> None:
        self.at.append(at.astype(np.int64))
        self.labels.append(labels)
        self.weights.append(weights)
        self.sequence.append(np.full(len(at), sequence, dtype=np.int64))

    def targets(self, rows: Sequence[Row]) -> Targets:
        names = sorted({name for row in rows for name in row.extras})
        extras = {name: [v for row in rows for v in row.extras.get(name, NONE * len(row.branches))] for name in names}
        given = self._per_token(rows, IN_PLACE).long() if IN_PLACE in rows[0].tokens else None
        return Targets(
            labels_S=_long(self.labels) if given is None else given,
            weights_S=torch.from_numpy(np.concatenate(self.weights or [np.zeros(0, np.float32)])),
            sequence_S=_long(self.sequence),
            row_Q=torch.tensor(self.row, dtype=torch.long),
            extras_Q={name: torch.tensor(values, dtype=torch.float32) for name, values in extras.items()},
            tokens={name: self._per_token(rows, name) for name in sorted({n for row in rows for n in row.tokens})},
        )

    def _per_token(self, rows: Sequence[Row], name: str) -> Tensor:
        values = np.concatenate([np.asarray(row.tokens[name], dtype=np.float32) for row in rows])
        num_supervised = sum(len(part) for part in self.at)
        assert len(values) == num_supervised, f"{name}: {len(values)} values for {num_supervised} supervised tokens"
        return torch.from_numpy(values)


def _long(parts: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts or [np.zeros(0, np.int64)]))


def placed(thing: Laid, device: torch.device | str) -> Laid:
    """A layout or targets with every tensor on `device`; the same object where that is the CPU, on which rows are laid down."""

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device, non_blocking=True)
        return {name: moved(inner) for name, inner in value.items()} if isinstance(value, dict) else value

    if torch.device(device).type == "cpu":
        return thing
    return dataclasses.replace(thing, **{one.name: moved(getattr(thing, one.name)) for one in fields(thing)})


def lay(
    rows: Sequence[Row], *, packed: bool, pad_id: int = 0, num_prefix: int = 0, sides: bool = False
) -> tuple[Layout, Targets]:
    """Lay `rows` down, packed in one row of T tokens or padded to B x T, with the targets of the same micro-batch.

    A supervised token's predictor is the token before it in its own sequence: for the first token of a branch that is
    the last token of the shared prefix; the very first token of a sequence has none and is never a target.

    Args:
        rows: at least one row; their prefixes are computed once when packed and repeated when padded.
        num_prefix: how many key/value prefix positions precede every sequence; positions start after them.
        sides: for an encoder-decoder: a row's prefix is what it reads, each branch what it writes, its start token included.

    Returns:
        The layout, and its targets with labels_S, weights_S, sequence_S and row_Q.
    """
    assert rows, "a micro-batch has at least one row"
    if sides:
        assert not packed and not num_prefix, "an encoder-decoder has one sequence a row"
        return _lay_sides(rows, pad_id)
    if packed and num_prefix == 0 and _equal(rows):
        return _lay_padded(rows, pad_id, 0)
    return _lay_packed(rows, num_prefix) if packed else _lay_padded(rows, pad_id, num_prefix)


def _equal(rows: Sequence[Row]) -> bool:
    """Single sequences of one length fill a grid: no padding, and one attention call instead of one a sequence."""
    length = rows[0].num_tokens
    return len(rows) > 1 and all(
        len(r.branches) == 1 and not len(r.prefix.ids) and r.num_tokens == length for r in rows
    )


def _lay_packed(rows: Sequence[Row], num_prefix: int) -> tuple[Layout, Targets]:
    writer = _Writer()
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    blocks: list[Block] = []
    here = 0
    for number, row in enumerate(rows):
        shared_start, num_shared = here, len(row.prefix.ids)
        shared_end = shared_start + num_shared
        if num_shared:
            ids.append(np.asarray(row.prefix.ids, dtype=np.int64))
            positions.append(np.arange(num_shared))
            writer.supervise(row.prefix.ids, row.prefix.trains, here, -1, len(writer.last))
            here = shared_end
        for branch_number, branch in enumerate(row.branches):
            start, here = here, here + len(branch.ids)
            ids.append(np.asarray(branch.ids, dtype=np.int64))
            positions.append(np.arange(num_shared, num_shared + len(branch.ids)))
            if branch_number == 0:
                blocks.append(Block(shared_start, here))
            else:
                blocks.append(Block(start, here, shared_start, shared_end))
            before = shared_end - 1 if num_shared else -1
            place = IN_PLACE in row.tokens
            writer.supervise(branch.ids, branch.trains, start, before, len(writer.last), in_place=place)
            writer.first.append(start)
            writer.last.append(here - 1)
            writer.row.append(number)
    layout = Layout(
        ids_BT=_long(ids)[None],
        positions_BT=_long(positions)[None] + num_prefix,
        mask_BT=None,
        geometry=Geometry(blocks=tuple(blocks), num_prefix=num_prefix),
        at_S=_long(writer.at),
        first_Q=torch.tensor(writer.first),
        last_Q=torch.tensor(writer.last),
    )
    return layout, writer.targets(rows)


def _lay_padded(rows: Sequence[Row], pad_id: int, num_prefix: int) -> tuple[Layout, Targets]:
    writer = _Writer()
    sequences = [(number, row, branch) for number, row in enumerate(rows) for branch in row.branches]
    width = max(len(row.prefix.ids) + len(branch.ids) for _, row, branch in sequences)
    ids = np.full((len(sequences), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(sequences), width), dtype=np.int64)
    last_row = -1
    for line, (number, row, branch) in enumerate(sequences):
        num_shared, num_own = len(row.prefix.ids), len(branch.ids)
        ids[line, :num_shared] = np.asarray(row.prefix.ids, dtype=np.int64)
        ids[line, num_shared : num_shared + num_own] = np.asarray(branch.ids, dtype=np.int64)
        mask[line, : num_shared + num_own] = 1
        base = line * width
        if num_shared and number != last_row:
            writer.supervise(row.prefix.ids, row.prefix.trains, base, -1, line)
        last_row = number
        before = base + num_shared - 1 if num_shared else -1
        place = IN_PLACE in row.tokens
        writer.supervise(branch.ids, branch.trains, base + num_shared, before, line, in_place=place)
        writer.first.append(base + num_shared)
        writer.last.append(base + num_shared + num_own - 1)
        writer.row.append(number)
    positions = np.broadcast_to(np.arange(width), ids.shape) + num_prefix
    layout = Layout(
        ids_BT=torch.from_numpy(ids),
        positions_BT=torch.from_numpy(np.ascontiguousarray(positions)),
        mask_BT=None if mask.all() else torch.from_numpy(mask),
        geometry=None,
        at_S=_long(writer.at),
        first_Q=torch.tensor(writer.first),
        last_Q=torch.tensor(writer.last),
    )
    return layout, writer.targets(rows)


def _lay_sides(rows: Sequence[Row], pad_id: int) -> tuple[Layout, Targets]:
    """Both sides as grids: the branches as the decoder sees them, and beside each its row's prefix for the encoder."""
    written = [dataclasses.replace(row, prefix=EMPTY) for row in rows]
    layout, targets = _lay_padded(written, pad_id, 0)
    read = [row.prefix.ids for row in rows for _ in row.branches]
    width = max(len(ids) for ids in read)
    source = np.full((len(read), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(read), width), dtype=np.int64)
    for line, ids in enumerate(read):
        source[line, : len(ids)] = np.asarray(ids, dtype=np.int64)
        mask[line, : len(ids)] = 1
    read_BT, mask_BT = torch.from_numpy(source), torch.from_numpy(mask)
    return dataclasses.replace(layout, source_BT=read_BT, source_mask_BT=mask_BT), targets
