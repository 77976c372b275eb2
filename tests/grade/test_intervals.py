"""Intervals: numbers checked by hand or against the definition."""

from __future__ import annotations

import math

import pytest

from bottega.grade.intervals import bootstrap, holm, mcnemar, mean, paired, ratio, wilson


def test_wilson_of_8_in_10_by_hand():
    """z 1.96: scale 1.38416; centre (0.8 + 0.19208) / 1.38416 = 0.71674.

    Half-width 1.96 sqrt(0.016 + 0.009604) / 1.38416 = 0.22658.
    """
    got = wilson(8, 10)
    assert got.low == pytest.approx(0.71674 - 0.22658, abs=2e-4)
    assert got.high == pytest.approx(0.71674 + 0.22658, abs=2e-4)
    assert (got.value, got.n, got.method) == (0.8, 10, "wilson")


def test_wilson_at_the_edges_stays_within_0_and_1():
    """0 of 10: upper bound z^2 / (n + z^2) = 3.8415 / 13.8415 = 0.2775."""
    none, all_, empty = wilson(0, 10), wilson(10, 10), wilson(0, 0)
    assert none.low == 0 and none.high == pytest.approx(0.2775, abs=1e-4)
    assert all_.high == 1 and all_.low == pytest.approx(1 - 0.2775, abs=1e-4)
    assert (empty.low, empty.high) == (0, 1) and math.isnan(empty.value)


def test_the_bootstrap_of_a_mean_is_near_the_normal_interval_and_repeats():
    """Values 0..99: mean 49.5, sd 28.87, standard error 2.887: about 49.5 +- 5.66."""
    values = [float(v) for v in range(100)]
    got = bootstrap(values, seed=3)
    assert got == bootstrap(values, seed=3) and got != bootstrap(values, seed=4)
    assert got.low == pytest.approx(49.5 - 5.66, abs=0.6) and got.high == pytest.approx(49.5 + 5.66, abs=0.6)
    assert mean([0, 1, 1], seed=0).method == "wilson" and mean([0, 0.5], seed=0).method == "bootstrap"
    assert math.isinf(bootstrap([2.0], seed=0).high), "one value says nothing about its spread"


def test_a_ratio_weighs_items_by_their_size():
    """(1 + 9) / (1 + 3) = 2.5, not the mean of 1 and 3; equal ratios have no spread."""
    assert ratio([1, 9], [1, 3], seed=0).value == 2.5
    flat = ratio([2, 4, 6], [1, 2, 3], seed=0)
    assert (flat.low, flat.value, flat.high) == (2, 2, 2)


def test_mcnemar_by_hand():
    """1 and 5: 2 * (C(6,0) + C(6,1)) / 64 = 14 / 64; 0 and 5: 2 / 32; equal counts: 1."""
    assert mcnemar(1, 5) == pytest.approx(14 / 64) and mcnemar(5, 0) == pytest.approx(2 / 32)
    assert mcnemar(3, 3) == 1 and mcnemar(0, 0) == 1 and 0 < mcnemar(400, 600) < 1e-8


def test_a_paired_difference_counts_items_and_is_narrower_than_two_intervals():
    """100 items, 40 right before; 10 more after and none lost: difference 0.1, p = 2 / 2^10."""
    before = [1.0] * 40 + [0.0] * 60
    after = [1.0] * 50 + [0.0] * 50
    got = paired(before, after, seed=1)
    assert got.value == pytest.approx(0.1) and (got.improved, got.regressed, got.same) == (10, 0, 90)
    assert got.p_value == pytest.approx(2 / 1024) and 0 < got.low < 0.1 < got.high < 0.18
    assert got.effect == pytest.approx(0.1 / 0.30151, abs=1e-3)  # sd of ten ones in a hundred: sqrt(9 / 99)


def test_no_difference_has_an_interval_around_zero():
    got = paired([0.2, 0.4, 0.6, 0.8], [0.4, 0.2, 0.8, 0.6], seed=1)
    assert got.low < 0 < got.high and got.p_value > 0.3
    assert paired([1.0], [0.0], seed=1).p_value == 1


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
