"""The losses on sampled answers, their gradients and their advantages against TRL's own numbers (row A4).

The numbers are golden/trl_online.json, made by the script beside it. PPO is not there: TRL 1.16.0 no longer has it; its numbers are in
tests/train/test_one_base.py and in the doctests of train/advantages.py. TRL weighs the KL term by the ratio unless told not to.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bottega.core.types import Attached, Row, Tokens
from bottega.models.layout import lay
from bottega.models.load import load
from bottega.models.score import Scorer
from bottega.train import advantages
from bottega.train.advantages import Sampled
from bottega.train.objectives import groups
from bottega.train.scoring import num_supervised
from tests.models.tiny import tiny_model

GOLDEN = json.loads((Path(__file__).parent / "golden" / "trl_online.json").read_text())
WAYS = {
    "grpo": (groups.grpo, {"clip": 0.2, "kl": 0.04}),
    "grpo_high": (groups.grpo, {"clip": 0.1, "clip_high": 0.28, "kl": 0.0}),
    "dr_grpo": (groups.dr_grpo, {"clip": 0.2}),
    "dapo": (groups.dapo, {"clip": 0.2, "clip_high": 0.28}),
    "gspo": (groups.gspo, {"clip": 0.03, "clip_high": 0.04}),
    "rloo": (groups.rloo, {"clip": 0.2}),
}


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    model = load(tiny_model("llama", tmp_path_factory.mktemp("online") / "policy", seed=0)).model
    return Scorer(Attached(name="none", model=model, groups=[], save=print, merge=None), vocabulary=320)


def row(index: int, one: dict, logp: torch.Tensor | None = None) -> Row:
    """The prompt and its answers, with what TRL was told of them: the own log-probabilities, shifted."""
    flat = [
        value for answer, advantage in zip(one["answers"], one["advantages"]) for value in [advantage] * len(answer)
    ]
    tokens = {"advantage": flat}
    for name, key in (("old", "old.logp"), ("ref", "ref.logp")):
        shifts = np.array([value for shift in one["shifts"][name] for value in shift])
        tokens[key] = shifts if logp is None else logp.numpy() + shifts
    return Row(
        index=index,
        prefix=Tokens(one["prompt"], [0.0] * len(one["prompt"])),
        branches=tuple(Tokens(ids, [1.0] * len(ids)) for ids in one["answers"]),
        tokens=tokens,
        extras={"max_tokens": [float(GOLDEN["max_tokens"])] * len(one["answers"])},
    )


@pytest.mark.parametrize("name", WAYS)
def test_a_loss_on_sampled_answers_and_its_gradient_equal_trls(scorer, name):
    """Some ratios are outside the trust region, so that both sides of the minimum count; a loss is divided by its own unit."""
    rows = []
    for index, one in enumerate(GOLDEN["groups"]):
        with torch.no_grad():
            layout, targets = lay([row(index, one)], packed=True)
            rows.append(row(index, one, scorer(layout, targets, ("logp",))["logp"]))
    layout, targets = lay(rows, packed=True)
    objective, options = WAYS[name]
    terms, sums = objective(scorer(layout, targets, ("logp",)), targets, **options)
    count = {"rows": len(rows), "tokens": sum(map(num_supervised, rows))}
    loss = sum(term.weight * term.total / count[term.unit] for term in terms.values())
    scorer.zero_grad()
    loss.backward()
    squares = sum(float((p.grad.double() ** 2).sum()) for p in scorer.parameters() if p.grad is not None)
    assert float(loss.detach()) == pytest.approx(GOLDEN[name]["loss"], rel=2e-5)
    assert squares**0.5 == pytest.approx(GOLDEN[name]["gradient"], rel=2e-4)
    assert float(sums["clipped/tokens"]) > 0


def test_advantages_equal_trls():
    """TRL divides by the sample's deviation and we by the population's, as the papers write it: sqrt(4/3) apart in groups of four."""
    nothing = np.zeros(4)
    prompts = [
        Sampled(
            rewards=np.array(GOLDEN["rewards"][i : i + 4]),
            lengths=np.ones(4, int),
            logp=nothing,
            ref_logp=nothing,
            value=nothing,
        )
        for i in (0, 4)
    ]

    def ours(name: str, **options) -> list[float]:
        return [float(v) for one in advantages.find(name, **options)(prompts) for v in one["advantage"]]

    assert ours("group", scale=False) == pytest.approx(GOLDEN["advantages_group_unscaled"], rel=1e-5)
    assert ours("leave_one_out", kl=0.0) == pytest.approx(GOLDEN["advantages_leave_one_out"], rel=1e-5)
    scaled = [value * (4 / 3) ** 0.5 for value in GOLDEN["advantages_group"]]
    assert ours("group") == pytest.approx(scaled, rel=2e-4)
