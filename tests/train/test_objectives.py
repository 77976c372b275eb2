"""Objectives against numbers worked out by hand, schedules against their definition."""

from __future__ import annotations

import doctest
import math
from importlib import import_module

import numpy as np
import pytest
import torch

from bottega.core.errors import UserError
from bottega.core.types import Row, Targets, Tokens
from bottega.models.layout import lay
from bottega.train import schedule, source
from bottega.train.advantages import advantages_of
from bottega.train.objectives import OBJECTIVES, spec
from bottega.train.objectives.pairs import cpo, orpo, simpo
from bottega.train.objectives.preference import dpo
from bottega.train.objectives.unpaired import kto, mismatch


def pair(chosen: float, rejected: float, lengths=(1, 1)) -> tuple[dict, Targets]:
    """One pair whose log-ratios to the reference are given, spread over so many tokens each."""
    count = sum(lengths)
    per_token = [chosen / lengths[0]] * lengths[0] + [rejected / lengths[1]] * lengths[1]
    targets = Targets(
        labels_S=torch.zeros(count, dtype=torch.long),
        weights_S=torch.ones(count),
        sequence_S=torch.tensor([0] * lengths[0] + [1] * lengths[1]),
        row_Q=torch.tensor([0, 0]),
    )
    return {"logp": torch.tensor(per_token) - 2.0, "ref.logp": torch.full((count,), -2.0)}, targets


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        # d = 1 - (-1) = 2, h = 0.5 * 2 = 1
        ({}, math.log1p(math.exp(-1))),
        # 0.9 * log(1 + e^-1) + 0.1 * log(1 + e^1)
        ({"label_smoothing": 0.1}, 0.9 * math.log1p(math.exp(-1)) + 0.1 * math.log1p(math.exp(1))),
        # (0.9 * log(1 + e^-1) - 0.1 * log(1 + e^1)) / 0.8
        (
            {"loss": "robust", "label_smoothing": 0.1},
            (0.9 * math.log1p(math.exp(-1)) - 0.1 * math.log1p(math.exp(1))) / 0.8,
        ),
        # max(0, 1 - 1)
        ({"loss": "hinge"}, 0.0),
        # (2 - 1 / (2 * 0.5))^2 = 1
        ({"loss": "ipo"}, 1.0),
    ],
)
def test_dpo_and_its_variants_on_one_pair(options, wanted):
    terms, sums = dpo(*pair(1.0, -1.0), beta=0.5, **options)
    assert float(terms["dpo"].total) == pytest.approx(wanted, abs=1e-6)
    assert terms["dpo"].unit == "pairs"
    assert float(sums["accuracy/pairs"]) == 1.0


def test_length_normalised_dpo_divides_each_answers_log_ratio_by_its_tokens():
    """Log-ratios 2 over 4 tokens and -1 over 2: d = 0.5 - (-0.5) = 1, h = 0.1."""
    terms, _ = dpo(*pair(2.0, -1.0, lengths=(4, 2)), beta=0.1, length_normalised=True)
    assert float(terms["dpo"].total) == pytest.approx(math.log1p(math.exp(-0.1)), abs=1e-6)


def test_the_sft_term_is_the_chosen_answers_mean_negative_log_likelihood():
    """logp of the chosen token: 1 - 2 = -1, so the term is 1, weighted by 0.5."""
    terms, _ = dpo(*pair(1.0, -1.0), beta=0.5, sft_weight=0.5)
    assert float(terms["sft"].total) == pytest.approx(1.0)
    assert terms["sft"].weight == 0.5


def test_orpo_on_one_pair_by_hand():
    """Tokens of log 0.5, log 0.5 and log 0.25: odds 1 and 1/3, so nll is log 2 and s(log 3) = 3/4."""
    scores, targets = likelihoods([0.5, 0.5], [0.25])
    terms, sums = orpo(scores, targets, ratio_weight=0.2)
    assert float(terms["nll"].total) == pytest.approx(math.log(2), abs=1e-6)
    assert float(terms["ratio"].total) == pytest.approx(math.log(4 / 3), abs=1e-6)
    assert terms["ratio"].weight == 0.2 and float(sums["margin/pairs"]) == pytest.approx(math.log(3), abs=1e-6)


def test_simpo_on_one_pair_by_hand():
    """h = 2 (log 0.5 - log 0.25) - 1 = 2 log 2 - 1 = 0.386294: log(1 + e^-0.386294) = 0.518538."""
    terms, sums = simpo(*likelihoods([0.5, 0.5], [0.25]), beta=2.0, gamma=1.0)
    assert float(terms["simpo"].total) == pytest.approx(0.518538, abs=1e-5)
    assert float(sums["margin/pairs"]) == pytest.approx(2 * math.log(2), abs=1e-6)


def test_cpo_on_one_pair_by_hand():
    """Sums 2 log 0.5 and log 0.25 are equal: h = 0 gives log 2; and the chosen answer's nll a token is log 2."""
    terms, _ = cpo(*likelihoods([0.5, 0.5], [0.25]), beta=0.3)
    assert float(terms["cpo"].total) == pytest.approx(math.log(2), abs=1e-6)
    assert float(terms["sft"].total) == pytest.approx(math.log(2), abs=1e-6) and terms["sft"].weight == 1.0
    with pytest.raises(UserError, match="outside"):
        cpo(*likelihoods([0.5], [0.25]), label_smoothing=0.5)


def likelihoods(chosen: list[float], rejected: list[float]) -> tuple[dict, Targets]:
    """One pair whose tokens have these probabilities."""
    _, targets = pair(0.0, 0.0, lengths=(len(chosen), len(rejected)))
    return {"logp": torch.tensor([*chosen, *rejected]).log()}, targets


def test_kto_gains_level_off_and_z0_comes_from_the_second_branches():
    """Rows with log-ratios 3 (liked) and 1 (not), mismatched ones 2 and 0: z0 = 1. beta 0.5:
    liked 1 - s(0.5 (3 - 1)) = 1 - s(1) = 0.268941, disliked 1 - s(0.5 (1 - 1)) = 0.5."""
    rows = [
        Row(
            index=i,
            branches=(Tokens([5, 6], [0.0, 1.0]), Tokens([5, 7], [0.0, 1.0])),
            extras={"label": (liked,) * 2},
            tokens={"ref.logp": (-4.0, -4.0)},
        )
        for i, liked in enumerate((1.0, 0.0))
    ]
    asked = []

    def score(those, needs, view="policy"):
        asked.append([row.branches[0].ids[1] for row in those])
        return [{"logp": np.array([logp])} for logp in (-2.0, -4.0)]

    ready = mismatch(rows, score)
    assert asked == [[7, 7]] and [row.extras["kl"] for row in ready] == [(1.0,), (1.0,)]
    assert all(len(row.branches) == 1 and len(row.tokens["ref.logp"]) == 1 for row in ready)
    _, targets = lay(ready, packed=True)
    scores = {"logp": torch.tensor([-1.0, -3.0]), "ref.logp": targets.tokens["ref.logp"]}
    terms, _ = kto(scores, targets, beta=0.5)
    assert float(terms["kto"].total) == pytest.approx(0.768941, abs=1e-5) and terms["kto"].unit == "rows"
    assert float(kto(scores, targets, beta=0.5, undesirable=0.0)[0]["kto"].total) == pytest.approx(0.268941, abs=1e-5)


def test_dpo_gradient_is_beta_times_sigmoid_of_minus_h():
    """d loss / d logp(chosen) = -beta * s(-h): -0.5 * s(-1)."""
    scores, targets = pair(1.0, -1.0)
    scores["logp"].requires_grad_()
    terms, _ = dpo(scores, targets, beta=0.5)
    (slope,) = torch.autograd.grad(terms["dpo"].total, scores["logp"])
    expected = 0.5 / (1 + math.e)
    torch.testing.assert_close(slope, torch.tensor([-expected, expected]))


def test_wrong_options_name_the_nearest_right_one():
    with pytest.raises(UserError, match="did you mean 'dpo'"):
        spec("dpoo")
    with pytest.raises(UserError, match="did you mean 'label_smoothing'"):
        spec("dpo", label_smothing=0.1)
    with pytest.raises(UserError, match="outside"):
        dpo(*pair(1.0, 0.0), label_smoothing=0.7)


def test_every_objective_of_the_table_builds():
    for name, entry in OBJECTIVES.items():
        assert spec(name).needs == entry.needs


@pytest.mark.parametrize(
    "name",
    [
        "train.schedule",
        "train.source",
        "train.metrics",
        "train.objectives.preference",
        "train.objectives.pairs",
        "train.objectives.unpaired",
        "data.blocks",
    ],
)
def test_worked_examples_in_docstrings_hold(name):
    assert doctest.testmod(import_module(f"bottega.{name}")).failed == 0


def test_schedules_start_above_zero_peak_at_one_and_end_low():
    for name in schedule.SCHEDULES:
        scales = [
            schedule.scale_at(step, steps=100, schedule=name, warmup=10, decay=0.3, floor=0.01) for step in range(100)
        ]
        assert scales[0] == 0.1 and max(scales) == 1.0 and min(scales) >= 0.01
        if name not in ("constant", "inverse_root"):
            assert scales[-1] < 0.05
    with pytest.raises(UserError, match="cosine"):
        schedule.scale_at(50, steps=100, schedule="cosin", warmup=0, decay=0.1, floor=0.0)


def test_schedules_have_the_values_worked_out_by_hand():
    """10 steps, 2 of warm-up: 1/2 and 1; then x = (step - 2) / 8. Linear 1 - x; cosine (1 + cos pi x) / 2;
    warm-up-stable-decay over the last half (1 - x) / 0.5; inverse root sqrt(2 / (step + 1)), so that step 7 is sqrt(2
    / 8) = 0.5."""
    wanted = {
        "constant": {2: 1.0, 6: 1.0, 9: 1.0},
        "linear": {2: 1.0, 6: 0.5, 8: 0.25},
        "cosine": {2: 1.0, 4: 0.5 + 0.5 * 2**-0.5, 6: 0.5, 8: 0.5 - 0.5 * 2**-0.5},
        "wsd": {2: 1.0, 6: 1.0, 8: 0.5, 9: 0.25},
        "inverse_root": {2: (2 / 3) ** 0.5, 7: 0.5},
    }
    assert wanted.keys() == schedule.SCHEDULES.keys()
    for name, values in wanted.items():
        for step, value in ({0: 0.5, 1: 1.0} | values).items():
            found = schedule.scale_at(step, steps=10, schedule=name, warmup=2, decay=0.5, floor=0.0)
            assert found == pytest.approx(value, abs=1e-12), (name, step)
    without = schedule.scale_at(3, steps=10, schedule="inverse_root", warmup=0, decay=0.5, floor=0.0)
    assert without == 0.5  # sqrt(1 / 4)


def test_a_data_set_continues_from_its_state_and_loses_no_row():
    """7 rows in batches of 3: 3 + 3 + 1, every epoch in another order, and the same from any cursor."""
    whole = source.Dataset(list(range(7)), batch=3, seed=1)  # type: ignore[arg-type]
    seen = [whole.next() for _ in range(9)]
    for epoch in range(3):
        rows = [row for batch, state in seen if state["epoch"] == epoch for row in batch]
        assert sorted(rows) == list(range(7))
    again = source.Dataset(list(range(7)), batch=3, seed=1)  # type: ignore[arg-type]
    again.restore(seen[3][1])
    assert [again.next() for _ in range(5)] == seen[4:]


def test_advantages_of_a_single_reward_with_lambda_one_are_reward_minus_value():
    found, returns = advantages_of(np.array([0.0, 0.0, 3.0]), np.array([1.0, 1.0, 1.0]), gamma=1.0, lam=1.0)
    assert found.tolist() == [2.0, 2.0, 2.0] and returns.tolist() == [3.0, 3.0, 3.0]
