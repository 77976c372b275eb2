"""The order of rows: a function of (seed, epoch, number of rows) alone, the same for any number of ranks and workers.

Left out: mixtures (mix.py). Any place of an order can be had without drawing what comes before it.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

WINDOW = 65_536
"""Rows that are shuffled among one another; up to so many, an epoch is one permutation."""
BLOCK = 256
"""Neighbours on disk that stay in one window: a window reads WINDOW / BLOCK stretches, not WINDOW single rows."""


def order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of range(num_rows), int64, drawn for this epoch.

    The generator is seeded with the pair, so that epoch 3 can be had without drawing epochs 0 to 2.
    """
    return np.random.default_rng([seed, epoch]).permutation(num_rows)


class Shuffled:
    """The order of one epoch, shuffled within a bounded window: blocks of neighbours in random order, mixed `window` rows at a time.

    Memory: 8 bytes a row of a window and 8 a block. With at most `window` rows it is `order(num_rows, seed, epoch)`.
    """

    def __init__(self, num_rows: int, seed: int, epoch: int, *, window: int = WINDOW, block: int = BLOCK) -> None:
        assert window % block == 0
        self.num_rows, self.seed, self.epoch, self.window, self.block = num_rows, seed, epoch, window, block
        self._drawn: tuple[int, np.ndarray] | None = None
        draw = np.random.default_rng([seed, epoch])
        whole = num_rows > window
        self._blocks = draw.permutation(num_rows // block) if whole else np.zeros(0, dtype=np.int64)
        self._turn = int(draw.integers(num_rows)) if whole else 0

    def _within(self, number: int) -> np.ndarray:
        """The rows of one window in their order."""
        if self._drawn is not None and self._drawn[0] == number:
            return self._drawn[1]
        if self.num_rows <= self.window:
            rows = order(self.num_rows, self.seed, self.epoch)
        else:
            each = self.window // self.block
            blocks = self._blocks[number * each : (number + 1) * each]
            rows = (blocks[:, None] * self.block + np.arange(self.block)).ravel()
            if (number + 1) * self.window >= self.num_rows:  # what fills no block comes last, other rows in each epoch
                rows = np.concatenate([rows, np.arange(len(self._blocks) * self.block, self.num_rows)])
            rows = (rows + self._turn) % self.num_rows
            rows = rows[np.random.default_rng([self.seed, self.epoch, number]).permutation(len(rows))]
        self._drawn = (number, rows)
        return rows

    def take(self, at: int, count: int) -> list[int]:
        """The rows at places `at` to `at + count` of the order (fewer where it ends)."""
        found: list[int] = []
        end = min(at + count, self.num_rows)
        while at < end:
            number, place = divmod(at, self.window)
            piece = self._within(number)[place : place + end - at]
            found += piece.tolist()
            at += len(piece)
        return found


class Order(Protocol):
    """The order of one epoch."""

    def take(self, at: int, count: int) -> list[int]:
        """The rows at places `at` to `at + count` (fewer where the epoch ends)."""


class Banded:
    """Rows from small keys to large in `bands` of equal size, shuffled within each: what is easy first, and no two epochs alike.

    Bengio et al. 2009 (Curriculum Learning, ICML) with a discrete schedule. Memory: 16 bytes a row. Rows without a key (not a
    number) come last.

    Args:
        keys: one number a row. reverse: from large to small.

    >>> Banded(np.array([5.0, 1.0, 3.0, 9.0]), 0, 0, bands=4).take(0, 9)
    [1, 2, 0, 3]
    """

    def __init__(self, keys: np.ndarray, seed: int, epoch: int, *, bands: int, reverse: bool = False) -> None:
        ranked = np.argsort(-keys if reverse else keys, kind="stable")
        draw = np.random.default_rng([seed, epoch, bands])
        self.rows = np.concatenate([draw.permutation(band) for band in np.array_split(ranked, bands)])

    def take(self, at: int, count: int) -> list[int]:
        """See Order."""
        return self.rows[at : at + count].tolist()
