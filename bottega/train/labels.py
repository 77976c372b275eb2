"""Label scores and vectors of many rows without gradient, the same on every rank: for validation and for thresholds.

Left out: what is made of them (grade/labels.py), and losses (objectives/).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bottega.core.types import Row
from bottega.data.pack import micro_batches
from bottega.models.layout import lay
from bottega.train import parallel

if TYPE_CHECKING:
    from bottega.train.parts import Parts


def read(
    scorer: Any, rows: Sequence[Row], need: str, *, packed: bool, pad_id: int, micro_tokens: int, world: parallel.World
) -> list[np.ndarray]:
    """Each row's scores in its order: (1, C) for `labels`, (tagged tokens, C) for `tags`, (branches, D) for `embedding`.

    In evaluation mode, without gradient; the mode is put back.
    """
    lengths = [_lines(row, need) for row in rows]
    ends = np.cumsum(lengths, dtype=np.int64)
    sizes = [row.num_tokens if packed else len(row.branches) * max(len(b.ids) for b in row.branches) for row in rows]
    plan = micro_batches(sizes, max_tokens=micro_tokens, packed=packed)
    flat: torch.Tensor | None = None
    was_training = scorer.training
    scorer.eval()
    try:
        with torch.no_grad():
            for members in parallel.mine(world, plan):
                layout, targets = lay([rows[i] for i in members], packed=packed, pad_id=pad_id)
                found = scorer(layout, targets, (need,))[need].float().cpu()
                flat = torch.zeros(int(ends[-1]), found.shape[1]) if flat is None else flat
                for i, lines in zip(members, found.split([lengths[i] for i in members]), strict=True):
                    flat[int(ends[i]) - len(lines) : int(ends[i])] = lines
    finally:
        scorer.train(was_training)
    width = parallel.most(world, 0 if flat is None else flat.shape[1])
    flat = torch.zeros(int(ends[-1]), width) if flat is None else flat
    return np.split(parallel.together(world, flat).numpy(), ends[:-1])


def read_parts(parts: Parts, rows: Sequence[Row], need: str, *, micro_tokens: int) -> list[np.ndarray]:
    """`read` with what a loop trains."""
    return read(
        parts.scorer,
        rows,
        need,
        packed=parts.packed,
        pad_id=parts.pad_id,
        micro_tokens=micro_tokens,
        world=parts.world,
    )


def _lines(row: Row, need: str) -> int:
    if need == "tags":
        return int(np.count_nonzero(row.branches[0].trains))
    return len(row.branches) if need == "embedding" else 1
