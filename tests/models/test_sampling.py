"""How a token is chosen: filters and draws, with numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from bottega.core.errors import UserError
from bottega.models.sampling import Sampling, candidates, choose, draw, penalise, uniforms


def test_a_draw_takes_the_first_running_sum_above_the_number():
    """Probabilities 0.2 0.3 0.5: running sums 0.2 0.5 1.0; u 0.1 -> 0, 0.2 -> 0.1999998 -> 0, 0.6 -> 2, 0.99 -> 2."""
    probs = torch.tensor([[0.2, 0.3, 0.5]]).expand(4, 3)
    assert draw(probs, torch.tensor([0.1, 0.3, 0.6, 0.99])).tolist() == [0, 1, 2, 2]


def test_a_token_of_probability_zero_is_never_drawn():
    probs = torch.tensor([[0.0, 1.0, 0.0]]).expand(3, 3)
    assert draw(probs, torch.tensor([0.0, 0.5, 1 - 2**-24])).tolist() == [1, 1, 1]


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    """0.5 + 0.3 = 0.8 >= 0.7, so two tokens stay; at 0.4 the best alone."""
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log()
    for top_p, kept in ((0.7, {1, 2}), (0.4, {1}), (0.9, {0, 1, 2})):
        probs, ids = candidates(logits, Sampling(temperature=1.0, top_p=top_p))
        assert {int(i) for i, p in zip(ids[0], probs[0]) if p > 0} == kept


def test_top_k_and_min_p_drop_the_unlikely():
    """min_p 0.5 of the best 0.5 is 0.25: 0.2 and 0.05 go."""
    logits = torch.tensor([[0.2, 0.5, 0.25, 0.05]]).log()
    probs, ids = candidates(logits, Sampling(temperature=1.0, min_p=0.49))
    assert ids is None and (probs[0] > 0).tolist() == [False, True, True, False]
    probs, ids = candidates(logits, Sampling(temperature=1.0, top_k=2))
    assert ids[0].tolist() == [1, 2] and torch.allclose(probs[0], torch.tensor([2 / 3, 1 / 3]))


def test_the_penalty_divides_positive_and_multiplies_negative_logits():
    logits, seen = torch.tensor([[3.0, -1.0, 2.0]]), torch.tensor([[True, True, False]])
    assert penalise(logits, seen, 2.0).tolist() == [[1.5, -2.0, 2.0]]


def test_shares_of_drawn_tokens_follow_the_probabilities():
    """20,000 draws of 0.7/0.3: the share of the first lies within 4 standard errors (0.013) of 0.7."""
    numbers = torch.from_numpy(uniforms(Sampling(max_tokens=20_000, seed=1), 0))
    ids, logps = choose(
        torch.tensor([[0.7, 0.3]]).log().expand(20_000, 2), Sampling(temperature=1.0), uniform_B=numbers
    )
    assert abs((ids == 0).float().mean().item() - 0.7) < 0.013
    assert math.isclose(logps[ids == 0][0].item(), math.log(0.7), rel_tol=1e-5)


def test_streams_of_numbers_belong_to_the_seed_and_the_prompt():
    first = uniforms(Sampling(max_tokens=5, seed=1), 0)
    assert (first == uniforms(Sampling(max_tokens=9, seed=1), 0)[:5]).all(), "a longer reply begins the same"
    assert (first != uniforms(Sampling(max_tokens=5, seed=1), 1)).any()
    assert (uniforms(Sampling(max_tokens=5, seed=[7, 1]), 1) == uniforms(Sampling(max_tokens=5, seed=[1]), 0)).all()
    with pytest.raises(UserError, match="one a prompt"):
        uniforms(Sampling(seed=[7, 1]), 2)
