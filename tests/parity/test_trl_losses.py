"""Preference objectives, the reward and KTO against TRL's own numbers on the same models and ids (row A2).

The numbers are golden/trl_losses.json, made by the script beside it. TRL 1.16.0 reads `label_smoothing` of the sigmoid loss in CPO
alone, so that cDPO has its parity there and its arithmetic in tests/train/test_objectives.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bottega.core.types import Attached, Row, Targets, Tokens
from bottega.models.layout import lay
from bottega.models.load import load
from bottega.models.reward import RewardHead
from bottega.models.score import Scorer
from bottega.train.objectives.pairs import cpo, orpo, simpo
from bottega.train.objectives.preference import dpo
from bottega.train.objectives.reward import bradley_terry
from bottega.train.objectives.unpaired import kto, mismatch
from tests.models.tiny import tiny_model

GOLDEN = json.loads((Path(__file__).parent / "golden" / "trl_losses.json").read_text())


def row(index: int, prompt: list[int], *answers: list[int], **extras: list[float]) -> Row:
    branches = tuple(Tokens(ids, [1.0] * len(ids)) for ids in answers)
    return Row(index=index, prefix=Tokens(prompt, [0.0] * len(prompt)), branches=branches, extras=extras)


PAIRS = [
    row(i, one["prompt"], one["chosen"], one["rejected"], margin=[margin] * 2)
    for i, (one, margin) in enumerate(zip(GOLDEN["rows"], GOLDEN["margin"], strict=True))
]


@pytest.fixture(scope="module")
def scorers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trl")
    made = {}
    for seed, name in enumerate(("policy", "reference")):
        model = load(tiny_model("llama", folder / name, seed=seed)).model
        head = RewardHead(32)
        head.weight.data.fill_(0.1)
        attached = Attached(name="none", model=model, groups=[], save=print, merge=None, reward=head)
        made[name] = Scorer(attached, vocabulary=320)
    return made


def scored(scorers, rows: list[Row], policy: str = "policy", reference: str = "reference") -> tuple[dict, Targets]:
    layout, targets = lay(rows, packed=True)
    with torch.no_grad():
        own = scorers[policy](layout, targets, ("logp", "reward"))
        own["ref.logp"] = scorers[reference](layout, targets, ("logp",))["logp"]
    return own, targets


def mean(terms: dict, count: int = 4) -> float:
    return float(sum(term.weight * term.total for term in terms.values())) / count


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sigmoid", {}),
        ("hinge", {"loss": "hinge"}),
        ("ipo", {"loss": "ipo"}),
        ("robust", {"loss": "robust", "label_smoothing": 0.2}),
        ("length_normalised", {"length_normalised": True}),
    ],
)
def test_dpo_and_its_variants_equal_trls_trainer(scorers, name, options):
    terms, _ = dpo(*scored(scorers, PAIRS), beta=0.5, **options)
    assert mean(terms) == pytest.approx(GOLDEN["dpo"][name], rel=2e-5)


def test_losses_without_a_reference_equal_trls_functions(scorers):
    both = scored(scorers, PAIRS)
    assert mean(cpo(*both, beta=0.5, label_smoothing=0.1, sft_weight=0.0)[0]) == pytest.approx(GOLDEN["cpo"], rel=2e-5)
    assert mean(cpo(*both, beta=0.5, label_smoothing=0.1)[0]) == pytest.approx(GOLDEN["cpo"] + GOLDEN["nll"], rel=2e-5)
    found = simpo(*both, beta=0.5, gamma=0.3, label_smoothing=0.1)[0]
    assert mean(found) == pytest.approx(GOLDEN["simpo"], rel=2e-5)
    # TRL's function is beta times the ratio term
    assert mean(orpo(*both, ratio_weight=0.5)[0]) == pytest.approx(GOLDEN["nll"] + GOLDEN["orpo_ratio"], rel=2e-5)


@pytest.mark.parametrize(
    ("name", "policy", "reference"), [("kto", "policy", "reference"), ("kto_swapped", "reference", "policy")]
)
def test_kto_equals_trls_trainer_with_z0_from_mismatched_answers(scorers, name, policy, reference):
    """In one order of the two models z0 is cut at 0, in the other it is above."""
    flat = [(one["prompt"], one[side], side == "chosen") for one in GOLDEN["rows"] for side in ("chosen", "rejected")]
    rows = [
        row(i, prompt, own, flat[(i + 1) % len(flat)][1], label=[float(liked)] * 2)
        for i, (prompt, own, liked) in enumerate(flat)
    ]

    def score(asked, needs, view="policy"):
        found = scored(scorers, list(asked), policy, reference)
        values, sequence = found[0]["logp" if view == "policy" else "ref.logp"], found[1].sequence_S
        return [{"logp": values[sequence == number].numpy()} for number in range(len(asked))]

    ready = mismatch(rows, score)
    terms, sums = kto(*scored(scorers, ready, policy, reference), beta=0.5, desirable=1.5, undesirable=0.5)
    assert mean(terms, 8) == pytest.approx(GOLDEN[name]["loss"], rel=2e-5)
    assert float(sums["kl/rows"]) / 8 == pytest.approx(GOLDEN[name]["kl"], rel=2e-5)
    assert (GOLDEN["kto"]["kl"] == 0) != (GOLDEN["kto_swapped"]["kl"] == 0)


def test_the_reward_loss_with_margin_and_centring_equals_trls_trainer(scorers):
    terms, _ = bradley_terry(*scored(scorers, PAIRS), margin_weight=1.0, centring=0.05)
    assert mean(terms) == pytest.approx(GOLDEN["reward"], rel=2e-5)
