"""Mixtures: shares as asked, no row missing, the same for one seed."""

import numpy as np
import pytest

from bottega.data.mix import mix


def test_no_row_is_missing_and_the_shares_are_the_weights():
    """100 rows at 0.3 need 334 in a pass (100 / 0.3 = 333.3): 0.7 * 334 = 233.8 -> 234, 0.3 * 334 = 100.2 -> 100."""
    first, second = mix([70, 100], [0.7, 0.3], seed=0)
    assert len(first) == 234 and list(second) == list(range(100))
    assert np.bincount(first).min() == 3 and np.bincount(first).max() == 4


@pytest.mark.parametrize("weights", [[1, 2, 3], [0.05, 0.05, 0.9]])
def test_ten_thousand_samples_are_within_one_percent(weights):
    counts = [len(rows) for rows in mix([3000, 4000, 500], weights, seed=1)]
    assert sum(counts) >= 7500
    for count, weight in zip(counts, weights):
        assert abs(count / sum(counts) - weight / sum(weights)) < 0.01


def test_the_draw_is_the_seed_s_alone():
    assert all((a == b).all() for a, b in zip(mix([7, 9], [5, 1], seed=3), mix([7, 9], [5, 1], seed=3)))
    assert any(
        len(a) == len(b) and (a != b).any()
        for a, b in zip(mix([70, 9], [5.1, 0.3], seed=3), mix([70, 9], [5.1, 0.3], seed=4))
    )
