"""The six hard clients of docs/HOUSE.md on one tiny model: what survives these survives the rest."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bottega.core.types import Row, Tokens
from bottega.models.generate import Generator
from bottega.models.layout import lay
from bottega.models.load import load
from bottega.models.methods import method
from bottega.train.advantages import Sampled, gae
from bottega.train.experience import Experience
from bottega.train.scoring import score_rows, with_reference
from tests.models.tiny import tiny_model
from tests.train.clients import VOCABULARY, make_loop, on_ranks, rows, weights


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_model("llama", tmp_path_factory.mktemp("llama"), vocab=VOCABULARY)


def assert_close(found, wanted, tolerance=1e-5):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert (found[name] - value).abs().max() <= tolerance * max(1.0, float(value.abs().max())), name


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_sft_on_two_ranks_gives_the_gradient_of_one_process(llama, tmp_path, strategy):
    alone = make_loop(llama, tmp_path, micro_tokens=40)
    alone.one_step()
    assert_close(on_ranks(2, llama, tmp_path, "sft", "full", "single", strategy, "1"), weights(alone))


def test_dpo_with_a_shared_prompt_equals_two_separate_sequences(llama, tmp_path):
    """Packed: the prompt is computed once and both answers see it. Padded: each answer has its own copy of the prompt."""
    results = []
    for packed in (True, False):
        loop = make_loop(llama, tmp_path, objective="dpo", kind="branches", packed=packed)
        loop.parts.source.rows = with_reference(
            loop.parts, rows("branches"), micro_tokens=4096, cache=None, key="", note=lambda line: None
        )
        loop.one_step()
        line = loop.one_step()
        assert line["loss"] != pytest.approx(math.log(2), abs=1e-4), "the second step has left the reference"
        results.append(weights(loop))
    assert_close(results[0], results[1])


def test_ppo_learns_from_one_rollout_with_policy_value_and_reference_on_one_base(llama, tmp_path):
    """LoRA: the reference is the base with its adapter off, so nothing is copied; the sampler shares the weights too."""
    loop = make_loop(
        llama,
        tmp_path,
        objective="ppo",
        tune="lora",
        kind="single",
        steps=4,
        lr=1e-2,
        optimizer="adamw",
        beta1=0.9,
        clip=1.0,
    )
    sampler = Generator(loop.parts.attached.model)
    prompts = [[7, 8, 9], [20, 21], [30, 31, 32, 33], [40]]

    def collect(round_number: int) -> list[Row]:
        replies = sampler.sample(prompts, max_tokens=6, temperature=1.0, seed=round_number, stop_ids=())
        drafts = [
            Row(
                index=i,
                prefix=Tokens(prompt, [0.0] * len(prompt)),
                branches=(Tokens(reply.ids, [1.0] * len(reply.ids)),),
            )
            for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True))
        ]
        scores = score_rows(loop.parts, drafts, ("logp", "value"))
        for score, reference in zip(scores, score_rows(loop.parts, drafts, ("logp",), view="reference"), strict=True):
            score["ref.logp"] = reference["logp"]
        for reply, score in zip(replies, scores, strict=True):
            np.testing.assert_allclose(reply.logps, score["logp"], atol=1e-4)
        sampled = [
            Sampled(
                rewards=np.array([float(sum(token % 2 for token in reply.ids))]),
                lengths=np.array([len(reply.ids)]),
                logp=score["logp"],
                ref_logp=score["ref.logp"],
                value=score["value"],
            )
            for reply, score in zip(replies, scores, strict=True)
        ]
        return [
            replace(draft, tokens={"old.logp": one.logp, "old.value": one.value, **found})
            for draft, one, found in zip(drafts, sampled, gae(sampled), strict=True)
        ]

    loop.parts.source = source = Experience(collect, minibatch=2, epochs=2, seed=0, max_kl=0.1)
    lines = [loop.one_step() for _ in range(4)]
    assert lines[0]["approx_kl"] == pytest.approx(0.0, abs=1e-6), "the first minibatch is still on policy"
    assert lines[1]["approx_kl"] > 0.0
    assert lines[2]["approx_kl"] > 0.1, "this learning rate leaves the trust region in the third minibatch"
    assert source.round == 1 and lines[3]["approx_kl"] == pytest.approx(0.0, abs=1e-6), "so a new round was sampled"
    names = [name for name, p in loop.parts.scorer.named_parameters() if p.requires_grad]
    assert any("lora_" in name for name in names) and "value.weight" in names


def test_a_lisa_swap_trains_other_layers_and_drops_the_state_of_those_that_rest(llama, tmp_path):
    loop = make_loop(
        llama,
        tmp_path,
        tune="lisa",
        method_options={"active": 1, "every": 1, "seed": 1},
        steps=4,
        lr=1e-3,
        optimizer="adamw",
    )
    trained = []
    for _ in range(4):
        before = weights(loop)
        loop.one_step()
        after = weights(loop)
        moved = {
            name.split("layers.")[1][0]
            for name in after
            if "layers." in name and not torch.equal(before[name], after[name])
        }
        assert len(moved) == 1
        trained.append(moved.pop())
        learning = {id(p) for p in loop.parts.scorer.parameters() if p.requires_grad}
        assert {id(p) for p in loop.parts.optimizer.state} <= learning
    assert len(set(trained)) == 2, "over four draws both layers have learned"


def test_a_lisa_swap_on_two_ranks_keeps_the_gradients_of_one_process(llama, tmp_path):
    alone = make_loop(llama, tmp_path, tune="lisa", method_options={"active": 1, "every": 1}, micro_tokens=40)
    for _ in range(3):
        alone.one_step()
    found = on_ranks(2, llama, tmp_path, "sft", "lisa", "single", "ddp", "3")
    assert_close(found, weights(alone), tolerance=1e-4)


def test_prefix_tuning_under_checkpointing_gives_the_same_gradient_and_decodes_as_it_trains(llama, tmp_path):
    results = []
    for checkpointing in (False, True):
        loop = make_loop(
            llama, tmp_path, tune="prefix", method_options={"length": 4}, checkpointing=checkpointing, lr=0.1
        )
        start = weights(loop)
        loop.one_step()
        results.append(weights(loop))
        moved = [name for name in start if not torch.equal(start[name], results[-1][name])]
        assert moved == ["inputs.values"]
    assert_close(results[1], results[0])

    loaded = load(llama)
    attached = method("prefix", length=4).attach(loaded.model)
    sampler = Generator(attached.model, inputs=attached.inputs)
    prompt = [7, 8, 9, 10]
    (reply,) = sampler.sample([prompt], max_tokens=5, temperature=0.0, stop_ids=())
    loop.parts.attached.inputs.load_state_dict(attached.inputs.state_dict())
    row = Row(index=0, prefix=Tokens(prompt, [0.0] * 4), branches=(Tokens(reply.ids, [1.0] * 5),))
    np.testing.assert_allclose(score_rows(loop.parts, [row, row], ("logp",))[1]["logp"], reply.logps, atol=1e-4)


def test_in_batch_contrastive_on_two_ranks_gives_the_gradient_of_the_whole_batch(llama, tmp_path):
    """The loss joins all eight rows; micro-batches of 40 tokens and two ranks must not change it."""
    whole = make_loop(llama, tmp_path, objective="contrastive", kind="pairs", micro_tokens=100_000)
    whole.one_step()
    cut = make_loop(llama, tmp_path, objective="contrastive", kind="pairs", micro_tokens=40)
    cut.one_step()
    assert_close(weights(cut), weights(whole))
    assert_close(on_ranks(2, llama, tmp_path, "contrastive", "full", "pairs", "ddp", "1"), weights(whole))


def test_layouts_say_which_token_predicts_which(llama):
    """Prompt 1 2, answers 3 4 and 5: 2 predicts both 3 and 5, 3 predicts 4; the answers start at position 2 again."""
    row = Row(index=0, prefix=Tokens([1, 2], [0, 0]), branches=(Tokens([3, 4], [1, 1]), Tokens([5], [1])))
    layout, targets = lay([row, replace(row, index=1)], packed=True)
    assert layout.ids_BT.tolist() == [[1, 2, 3, 4, 5, 1, 2, 3, 4, 5]]
    assert layout.positions_BT.tolist() == [[0, 1, 2, 3, 2, 0, 1, 2, 3, 2]]
    assert layout.at_S.tolist() == [1, 2, 1, 6, 7, 6]
    assert targets.labels_S.tolist() == [3, 4, 5, 3, 4, 5]
    assert targets.sequence_S.tolist() == [0, 0, 1, 2, 2, 3]
