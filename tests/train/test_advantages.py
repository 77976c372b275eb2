"""Advantages against sums written out by hand (rows A3, A4); the simplest stand as doctests in train/advantages.py.

Left out: what the numbers do to the policy (test_objectives.py).
"""

import numpy as np
import pytest

from bottega.train.advantages import ADVANTAGES, Sampled, advantages_of, find, whitened


def sampled(rewards, lengths, *, logp=None, ref=None, value=None) -> Sampled:
    total = sum(lengths)
    given = [np.array(one if one is not None else np.zeros(total), dtype=np.float64) for one in (logp, ref, value)]
    return Sampled(
        rewards=np.array(rewards, dtype=np.float64),
        lengths=np.array(lengths),
        logp=given[0],
        ref_logp=given[1],
        value=given[2],
    )


def test_distance_from_the_reference_is_taken_off_the_whole_answer():
    """logp - ref: 1, 0 | 2, so with kl 0.5 the rewards 3, 1 become 2.5 and 0; their mean is 1.25 and their deviation 1.25.
    Leave one out: 2.5 - 0 and 0 - 2.5."""
    one = sampled([3, 1], [2, 1], logp=[-1, -1, -1], ref=[-2, -1, -3])
    assert find("group", kl=0.5)([one])[0]["advantage"] == pytest.approx([1, 1, -1], abs=1e-6)
    assert find("group", kl=0.5, scale=False)([one])[0]["advantage"] == pytest.approx([1.25, 1.25, -1.25])
    assert find("leave_one_out", kl=0.5)([one])[0]["advantage"] == pytest.approx([2.5, 2.5, -2.5])


def test_batch_discounts_what_is_to_come_and_whitens_over_the_round():
    """gamma 0.5, kl 1, costs -1, 0 | 0: answer one is worth -1 + 0.5 * 4 = 1 and 4, answer two 1. (1, 4, 1): mean 2,
    deviation sqrt(2), so -1/sqrt 2, 2/sqrt 2, -1/sqrt 2."""
    rows = [sampled([4], [2], logp=[0, 0], ref=[-1, 0]), sampled([1], [1])]
    first, second = find("batch", kl=1.0, gamma=0.5)(rows)
    assert first["advantage"] == pytest.approx(np.array([-1, 2]) / np.sqrt(2))
    assert second["advantage"] == pytest.approx([-1 / np.sqrt(2)])


def test_batch_with_a_baseline_takes_the_mean_of_the_prompts_answers_off_first():
    """Rewards 1, 3 and 10, 10 become -1, 1 and 0, 0; deviation sqrt(1/2)."""
    rows = [sampled([1, 3], [1, 1]), sampled([10, 10], [1, 1])]
    first, second = find("batch", kl=0.0, baseline=True)(rows)
    assert first["advantage"] == pytest.approx([-np.sqrt(2), np.sqrt(2)])
    assert second["advantage"] == pytest.approx([0, 0])


def test_gae_pays_the_reward_at_the_last_token_and_the_distance_at_each():
    """One answer of two tokens, reward 2, kl 0.5 times distances 1 and 0: token rewards -0.5 and 2. Values 1 and 1, gamma 1, lam 0:
    A = -0.5 + 1 - 1 = -0.5 and 2 - 1 = 1; returns 0.5 and 2."""
    one = sampled([2], [2], logp=[0, 0], ref=[-1, 0], value=[1, 1])
    found = find("gae", kl=0.5, lam=0.0, whiten=False)([one])[0]
    assert found["advantage"] == pytest.approx([-0.5, 1]) and found["return"] == pytest.approx([0.5, 2])


def test_whitening_changes_advantages_and_leaves_returns():
    """A = (-0.5, 1) has mean 0.25 and deviation 0.75: (-1, 1). The value head still predicts what is to come."""
    one = sampled([2], [2], logp=[0, 0], ref=[-1, 0], value=[1, 1])
    found = find("gae", kl=0.5, lam=0.0)([one])[0]
    assert found["advantage"] == pytest.approx([-1, 1]) and found["return"] == pytest.approx([0.5, 2])


def test_rewards_are_brought_to_unit_variance_with_their_mean_kept():
    """Token rewards 0, 4: deviation 2, so 0 and 2 (not -1 and 1). Values 0, lam 1: A = R = 2, 2."""
    found = find("gae", kl=0.0, lam=1.0, whiten=False, whiten_rewards=True)([sampled([4], [2])])[0]
    assert found["return"] == pytest.approx([2, 2])


@pytest.mark.parametrize("name", [name for name in ADVANTAGES])
def test_an_answer_that_is_left_out_has_no_token_and_moves_no_other(name):
    """A masked answer has length 0: no advantage of its own; nothing of its reward lands on another answer's tokens."""
    options = {"kl": 0.0} | ({"scale": False} if name == "group" else {}) | ({"whiten": False} if name == "gae" else {})
    alone, beside = sampled([1, 3], [2, 2]), sampled([1, 3, 0], [2, 2, 0])
    a, b = find(name, **options)([alone])[0]["advantage"], find(name, **options)([beside])[0]["advantage"]
    assert len(a) == len(b) == 4
    if name in ("batch", "gae"):  # those that do not compare siblings
        assert a == pytest.approx(b)
    assert np.isfinite(b).all() and b[2] > b[0]


def test_the_estimate_is_the_sum_of_discounted_differences():
    """A_t against sum_k (gamma lam)^k delta_{t+k}, written as a sum, on seven random tokens."""
    rng = np.random.default_rng(3)
    rewards, values, gamma, lam = rng.normal(size=7), rng.normal(size=7), 0.9, 0.8
    deltas = rewards + gamma * np.append(values[1:], 0.0) - values
    wanted = [sum((gamma * lam) ** k * deltas[t + k] for k in range(7 - t)) for t in range(7)]
    found, returns = advantages_of(rewards, values, gamma=gamma, lam=lam)
    assert found == pytest.approx(wanted) and returns == pytest.approx(np.array(wanted) + values)


def test_numbers_that_are_all_alike_are_whitened_to_nothing():
    assert np.concatenate(whitened([np.full(3, 5.0), np.full(2, 5.0)])) == pytest.approx(np.zeros(5))
