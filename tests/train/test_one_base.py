"""Policy, value, reward and reference on one base: the bytes are counted (row A3); which answers are chosen (row A4)."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch

from bottega.core.types import Row, Tokens
from bottega.models.load import load
from bottega.models.methods import method
from bottega.models.reference import frozen_copy
from bottega.models.reward import join, load_head, new_head, save_head
from bottega.models.score import Scorer
from bottega.train import advantages, bounds, pairing
from bottega.train.advantages import Sampled
from bottega.train.reward_scores import reward_rows
from tests.models.tiny import tiny_model
from tests.train.clients import VOCABULARY


@pytest.mark.parametrize("module", [advantages, pairing, bounds], ids=lambda one: one.__name__)
def test_the_arithmetic_of_the_docstrings_holds(module):
    assert doctest.testmod(module).failed == 0


def storage_bytes(*modules) -> int:
    """Bytes of all tensors of the modules, those that share memory once."""
    seen = {}
    for module in modules:
        for tensor in [*module.parameters(), *module.buffers()]:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def test_policy_value_reward_and_reference_are_one_base_two_adapters_and_two_heads(tmp_path):
    """Base b bytes; rank-4 adapters of a bytes each; heads: value (D + 1) * 4, reward D * 4. Together b + 2 a + 4 (2 D + 1)."""
    model = tiny_model("llama", tmp_path / "model", vocab=VOCABULARY)
    torch.manual_seed(3)
    judge = method("lora", rank=4).attach(load(model).model)
    for name, parameter in judge.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    judge.reward = new_head(judge.model)
    judge.save(str(tmp_path / "judge"))
    save_head(judge, tmp_path / "judge")
    row = Row(index=0, prefix=Tokens([5, 6], [0, 0]), branches=(Tokens([7, 8], [1, 1]), Tokens([9], [1])))
    alone = reward_rows(Scorer(judge, vocabulary=VOCABULARY), [row], packed=True, pad_id=0)[0]

    base = load(model).model
    bare = storage_bytes(base)
    policy = method("lora", rank=4).attach(base)
    adapter = storage_bytes(policy.model) - bare
    join(policy, tmp_path / "judge")
    assert frozen_copy(policy) is None, "with LoRA the reference is the adapter switched off"
    scorer = Scorer(policy, vocabulary=VOCABULARY, value=True)
    width = len(load_head(tmp_path / "judge", policy.model).weight)
    assert storage_bytes(scorer) == bare + 2 * adapter + 4 * (2 * width + 1)
    shared = reward_rows(scorer, [row], packed=True, pad_id=0, view="reward")[0]
    np.testing.assert_allclose(shared, alone, atol=1e-5)
    learning = [name for name, p in scorer.named_parameters() if p.requires_grad]
    assert learning and all(".default." in name or name.startswith("value.") for name in learning)


def test_an_answers_advantages_by_hand_in_every_family():
    """Rewards 1 and 3, lengths 1 and 2, distances from the reference 0.5 | 0.25, 0.25 nats.

    leave_one_out at kl 2: 1 - 1 = 0 and 3 - 1 = 2, so -2 and 2. batch at kl 0: (1, 3, 3), mean 7/3, deviation sqrt(8)/3: (-4/3, 2/3,
    2/3) / 0.942809 = (-1.414214, 0.707107, 0.707107).
    """
    one = Sampled(
        rewards=np.array([1.0, 3.0]),
        lengths=np.array([1, 2]),
        logp=np.array([-1.0, -1.0, -1.0]),
        ref_logp=np.array([-1.5, -1.25, -1.25]),
        value=np.zeros(3),
    )
    assert advantages.leave_one_out([one], kl=2.0)[0]["advantage"].tolist() == [-2.0, 2.0, 2.0]
    found = advantages.batch([one], kl=0.0)[0]["advantage"]
    np.testing.assert_allclose(found, [-1.414214, 0.707107, 0.707107], atol=1e-5)
    gae = advantages.gae([one], kl=2.0, lam=1.0, whiten=False)[0]
    np.testing.assert_allclose(gae["advantage"], [0.0, 2.0, 2.5])  # 1 - 2 * 0.5; 3 - 2 * 0.25 twice, then once


@pytest.mark.parametrize("rule", pairing.RULES)
def test_every_rule_takes_a_better_and_a_worse_answer(rule):
    rewards = np.array([1.0, 4.0, 2.0, 4.0, 0.0])
    for seed in range(20):
        better, worse = pairing.pair(rewards, rule, np.random.default_rng(seed))
        assert rewards[better] > rewards[worse]
        assert not rule.startswith("best") or rewards[better] == 4.0
        assert not rule.endswith("worst") or rewards[worse] == 0.0
