"""Texts end to end, cut into blocks of one length: the classic form of pretraining data, with nothing to pad and nothing to skip.

Left out: isolation. A token sees what came before it in its block, the end of another text included; rows that must not see
each other are left as they are and packed (data/pack.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bottega.core.types import Row, Tokens


def blocks(rows: Sequence[Row], *, length: int) -> list[Row]:
    """Rows of exactly `length` tokens from the texts of `rows`, in their order; the last one holds what is left, if it is 2 or more.

    Every token but a block's first is a target with weight 1, so that one token in `length` is not learned.

    >>> [b.branches[0].ids.tolist() for b in blocks([Row(index=0, branches=(Tokens([1, 2, 3], [0, 1, 1]),))] * 2, length=4)]
    [[1, 2, 3, 1], [2, 3]]
    """
    assert length > 1
    flat = np.concatenate([np.asarray(branch.ids, dtype=np.int32) for row in rows for branch in row.branches])
    made: list[Row] = []
    for start in range(0, len(flat), length):
        ids = flat[start : start + length]
        if len(ids) > 1:
            made.append(Row(index=len(made), branches=(Tokens(ids, np.ones(len(ids), dtype=np.float32)),)))
    return made
