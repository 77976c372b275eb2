"""The order of rows: every row once, bounded windows, any place at once, the same for any number of ranks (row D12)."""

from __future__ import annotations

import numpy as np
import pytest

from bottega.core.types import Row, Tokens
from bottega.data.order import Shuffled, order
from bottega.train.source import Dataset


@pytest.mark.parametrize("num_rows", [1, 63, 64, 65, 640, 1000, 1003])
def test_every_row_comes_once_in_every_epoch_and_epochs_differ(num_rows):
    epochs = [Shuffled(num_rows, 3, epoch, window=64, block=8).take(0, num_rows + 5) for epoch in range(2)]
    assert all(sorted(rows) == list(range(num_rows)) for rows in epochs)
    assert num_rows == 1 or epochs[0] != epochs[1]
    assert epochs[0] == Shuffled(num_rows, 3, 0, window=64, block=8).take(0, num_rows)


def test_up_to_a_window_the_order_is_one_permutation():
    assert Shuffled(64, 5, 2, window=64, block=8).take(0, 64) == order(64, 5, 2).tolist()


def test_a_window_reads_a_bounded_number_of_stretches():
    """Windows of 64 rows from blocks of 8: the 64 rows at places 0 to 63 lie in 8 stretches of neighbours, the rows of a stretch
    not one after the other."""
    rows = Shuffled(1000, 0, 0, window=64, block=8).take(64, 64)
    stretches = np.split(np.sort(rows), np.flatnonzero(np.diff(np.sort(rows)) > 1) + 1)
    assert len(stretches) <= 8 and rows != sorted(rows)


def test_any_place_is_had_without_what_comes_before_it():
    whole = Shuffled(1003, 1, 4, window=64, block=8)
    rows = whole.take(0, 1003)
    for at in (0, 63, 64, 500, 1000, 1002):
        assert Shuffled(1003, 1, 4, window=64, block=8).take(at, 90) == rows[at : at + 90]


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_ranks_take_their_share_of_the_same_global_batch(ranks):
    """One global batch of 8: rank r of n trains rows r, r + n, ...; together they are the batch, whatever n is."""
    rows = [Row(index=i, branches=(Tokens([i, 1], [0.0, 1.0]),)) for i in range(30)]
    batch = [row.index for row in Dataset(rows, batch=8, seed=1).next()[0]]
    shares = [[row.index for row in Dataset(rows, batch=8, seed=1).next()[0]][rank::ranks] for rank in range(ranks)]
    assert sorted(i for share in shares for i in share) == sorted(batch) and len(batch) == 8
