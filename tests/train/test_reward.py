"""Reward models: the loss by hand, the head in any layout, saved and loaded, and beside a policy on one base (rows A1, A3)."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch

from bottega.core.errors import UserError
from bottega.core.types import Row, Targets, Tokens
from bottega.models.layout import lay
from bottega.models.load import load
from bottega.models.methods import method
from bottega.models.reward import ADAPTER, RewardHead, join, load_head, new_head, save_head, shares_base, worn
from bottega.models.score import Scorer
from bottega.train.objectives import reward as objective
from bottega.train.objectives.reward import bradley_terry
from bottega.train.reward_scores import load_reward, reward_rows
from tests.models.tiny import tiny_model
from tests.train.clients import VOCABULARY, rows

NONE = torch.zeros(0)


def pairs(*rewards: float, margin: list[float] | None = None) -> tuple[dict, Targets]:
    """Scores and targets of pairs with these rewards: chosen, rejected, chosen, rejected ..."""
    extras = {} if margin is None else {"margin": torch.tensor(margin)}
    row_Q = torch.arange(len(rewards)) // 2
    targets = Targets(labels_S=NONE, weights_S=NONE, sequence_S=NONE, row_Q=row_Q, extras_Q=extras)
    return {"reward": torch.tensor(rewards)}, targets


def test_bradley_terry_on_two_pairs_by_hand():
    """Leads 2 - 0.5 = 1.5 and 0 - 1 = -1: log(1 + e^-1.5) + log(1 + e^1) = 0.201413 + 1.313262 = 1.514675; one of two right."""
    terms, sums = bradley_terry(*pairs(2.0, 0.5, 0.0, 1.0))
    assert float(terms["reward"].total) == pytest.approx(1.514675, abs=1e-5)
    assert terms["reward"].unit == "pairs"
    assert float(sums["accuracy/pairs"]) == 1.0 and float(sums["lead/pairs"]) == pytest.approx(0.5)


def test_a_margin_is_what_the_lead_has_to_exceed_and_a_pair_without_one_has_none():
    """Leads 1.5 - 0.5 * 2 = 0.5 and (no margin) -1: log(1 + e^-0.5) + log(1 + e^1) = 0.474077 + 1.313262."""
    scores, targets = pairs(2.0, 0.5, 0.0, 1.0, margin=[2.0, 2.0, math.nan, math.nan])
    terms, _ = bradley_terry(scores, targets, margin_weight=0.5)
    assert float(terms["reward"].total) == pytest.approx(1.787339, abs=1e-5)
    unread, _ = bradley_terry(scores, targets)
    assert float(unread["reward"].total) == pytest.approx(1.514675, abs=1e-5)


def test_centring_adds_the_square_of_each_pairs_sum():
    """0.1 * ((2 + 0.5)^2 + (0 + 1)^2) = 0.725 on top of 1.514675."""
    terms, _ = bradley_terry(*pairs(2.0, 0.5, 0.0, 1.0), centring=0.1)
    assert float(terms["reward"].total) == pytest.approx(2.239675, abs=1e-5)


def test_a_tie_counts_half_and_options_below_zero_are_refused():
    assert float(bradley_terry(*pairs(1.0, 1.0))[1]["accuracy/pairs"]) == 0.5
    with pytest.raises(UserError, match="0 or more"):
        bradley_terry(*pairs(1.0, 1.0), centring=-1.0)
    assert doctest.testmod(objective).failed == 0


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_model("llama", tmp_path_factory.mktemp("llama"), vocab=VOCABULARY)


@pytest.fixture(scope="module")
def saved(llama, tmp_path_factory):
    """A reward model of random adapter and head on the tiny model: its folder, and what it thinks of eight pairs."""
    folder = tmp_path_factory.mktemp("reward")
    attached = adapted(llama, seed=3)
    attached.save(str(folder))
    save_head(attached, folder)
    scorer = Scorer(attached, vocabulary=VOCABULARY)
    return folder, reward_rows(scorer, rows("branches"), packed=True, pad_id=0)


def adapted(model, seed: int, rank: int = 4):
    """A LoRA with random matrices and a random head."""
    attached = method("lora", rank=rank).attach(load(model).model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in attached.model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.2)
    attached.reward = new_head(attached.model)
    return attached


def test_the_reward_is_the_head_times_the_state_of_the_replys_last_token_however_rows_lie(llama, saved):
    """Against plain transformers on each reply alone; packed with a shared prompt and padded give the same."""
    folder, scored = saved
    model = load_reward(folder)
    padded = reward_rows(model.scorer, rows("branches"), packed=False, pad_id=0)
    again = model.score(rows("branches"))
    for row, packed_one, padded_one, loaded_one in zip(rows("branches"), scored, padded, again, strict=True):
        for number, branch in enumerate(row.branches):
            ids = torch.tensor([[*row.prefix.ids, *branch.ids]])
            with torch.no_grad():
                out = model.scorer.model(input_ids=ids, output_hidden_states=True)
            wanted = float(out.hidden_states[-1][0, -1] @ model.scorer.reward.weight)
            for found in (packed_one, padded_one, loaded_one):
                assert found[number] == pytest.approx(wanted, abs=2e-5)


def test_policy_and_reward_share_one_base_and_neither_changes_the_other(llama, saved):
    """Bytes: the base once, two adapters, one head. The policy's log-probabilities and what learns are as without the reward."""
    folder, scored = saved
    loaded = load(llama)
    assert shares_base(folder, loaded.identity)
    base = sum(p.numel() for p in loaded.model.parameters())
    policy = method("lora", rank=2).attach(loaded.model)
    alone = sum(p.numel() for p in policy.model.parameters()) - base
    learning = {name for name, p in policy.model.named_parameters() if p.requires_grad}
    scorer = Scorer(policy, vocabulary=VOCABULARY)
    layout, targets = lay(rows("branches"), packed=True)
    with torch.no_grad():
        before = scorer(layout, targets, ("logp",))["logp"]
    join(policy, folder)
    assert sum(p.numel() for p in policy.model.parameters()) == base + alone + 2 * alone  # rank 4 is twice rank 2
    assert {name for name, p in policy.model.named_parameters() if p.requires_grad} == learning
    assert not policy.reward.weight.requires_grad
    scorer = Scorer(policy, vocabulary=VOCABULARY)
    found = reward_rows(scorer, rows("branches"), packed=True, pad_id=0, view="reward")
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(scored), atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(scorer(layout, targets, ("logp",))["logp"], before, rtol=0, atol=0)
        reference = scorer(layout, targets, ("logp",), "reference")["logp"]
    torch.testing.assert_close(reference, before, atol=1e-6, rtol=0)  # B is zero: with all adapters off it is the same
    assert {name for name, p in policy.model.named_parameters() if p.requires_grad} == learning
    assert policy.model.active_adapter == "default"


def test_what_a_policy_saves_beside_a_reward_is_its_own_adapter_alone(llama, saved, tmp_path):
    loaded = load(llama)
    policy = method("lora", rank=2).attach(loaded.model)
    join(policy, saved[0])
    policy.save(str(tmp_path / "policy"))
    from safetensors import safe_open

    with safe_open(tmp_path / "policy" / "adapter_model.safetensors", "pt") as file:
        names = list(file.keys())
    assert names and not any(ADAPTER in name for name in names)
    assert load(tmp_path / "policy").adapter
    merged = policy.merge()
    wanted = load(llama).model
    ids = torch.arange(1, 9)[None]
    torch.testing.assert_close(merged(input_ids=ids).logits, wanted(input_ids=ids).logits, atol=1e-5, rtol=0)


def test_an_adapter_is_put_back_even_when_scoring_fails(llama, saved):
    policy = method("lora", rank=2).attach(load(llama).model)
    join(policy, saved[0])
    with pytest.raises(RuntimeError), worn(policy.model, ADAPTER):
        assert policy.model.active_adapter == ADAPTER
        raise RuntimeError
    assert policy.model.active_adapter == "default"
    assert any(p.requires_grad for p in policy.model.parameters())


def test_another_base_is_not_shared_and_a_missing_or_foreign_head_is_named(llama, saved, tmp_path):
    other = tiny_model("llama", tmp_path / "other", vocab=VOCABULARY, seed=1)
    assert not shares_base(saved[0], load(other).identity)
    with pytest.raises(UserError, match="has no reward head"):
        load_reward(llama)
    wide = tiny_model("llama", tmp_path / "wide", vocab=VOCABULARY, hidden_size=64)
    RewardHead(32).save(wide)
    with pytest.raises(UserError, match=r"shape \(1, 32\), where the model needs \(1, 64\)"):
        load_head(wide, load(wide).model)
    full = method("full").attach(load(llama).model)
    with pytest.raises(UserError, match="carries no second adapter"):
        join(full, saved[0])


def test_a_batch_in_which_only_some_pairs_have_a_margin_is_laid_down():
    made = [
        Row(index=i, branches=(Tokens([5, 6], [0.0, 1.0]),) * 2, extras=e)
        for i, e in enumerate(({"margin": [1.0, 1.0]}, {}))
    ]
    _, targets = lay(made, packed=True)
    assert targets.extras_Q["margin"][:2].tolist() == [1.0, 1.0] and targets.extras_Q["margin"][2:].isnan().all()
