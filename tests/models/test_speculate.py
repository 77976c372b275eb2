"""Speculative decoding: the same greedy tokens, the same distribution, tokens taken back under every kind of attention."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bottega.core.errors import UserError
from bottega.models.generate import Generator
from bottega.models.sampling import Sampling
from bottega.models.speculate import Draft, Draws, Lookup, Speculator, judge, pick
from tests.models.test_generate import same_where_apart
from tests.models.tiny import tiny_model

PROMPTS = [[1, 9, 40, 77, 9, 40, 31, 9], [1, 50], [1, 7, 8, 7, 8, 7, 8, 7], [250]]
NEW = 14


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    def find(family: str, seed: int = 0, **config):
        folder = tiny_model(family, tmp_path_factory.mktemp(family), seed=seed, **config)
        return Generator(AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder))

    return find


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "gemma2", "bloom", "mpt"])
def test_greedy_tokens_are_those_of_the_model_alone(family, load):
    generator = load(family)
    alone = generator.sample(PROMPTS, max_tokens=NEW, stop_ids=())
    for proposer in (Lookup(), Draft(load(family, seed=0)), Draft(load("llama", seed=5, num_hidden_layers=1))):
        speculator = Speculator(generator, proposer)
        for prompt, reply, plain in zip(PROMPTS, speculator.sample(PROMPTS, max_tokens=NEW, stop_ids=()), alone):
            assert same_where_apart(generator.model, prompt, plain.ids, reply.ids) and len(reply.ids) == NEW
            if plain.ids == reply.ids:
                assert reply.logps == pytest.approx(plain.logps, abs=2e-4)
        stats = speculator.stats
        assert stats.tokens == NEW * len(PROMPTS) and 0 <= stats.accepted <= stats.proposed


def test_a_draft_that_is_the_model_is_always_accepted(load):
    """14 tokens in passes of 4 accepted and 1 more: 5 + 5 + 4 (3 proposed, for 14 - 10 - 1 = 3), so 3 passes a prompt."""
    generator = load("llama")
    speculator = Speculator(generator, Draft(load("llama")), ahead=4)
    speculator.sample(PROMPTS, max_tokens=NEW, stop_ids=())
    assert speculator.stats.acceptance == 1.0 and speculator.stats.passes == 3 * len(PROMPTS)
    assert speculator.stats.tokens_per_pass == pytest.approx(14 / 3)
    hot = Speculator(generator, Draft(load("llama")))
    hot.sample(PROMPTS, max_tokens=NEW, temperature=1.0, top_p=0.9, stop_ids=())
    assert hot.stats.acceptance > 0.97, "p and q differ by rounding alone"


def test_lookup_proposes_what_followed_the_longest_earlier_match():
    """... 4 5 6 ... 4 5: the last two stood before 6 7 8; with nothing that matches, nothing."""
    draws = Draws(Sampling(), 0)
    assert Lookup().propose([3, 4, 5, 6, 7, 8, 1, 4, 5], 3, draws) == ([6, 7, 8], None)
    assert Lookup().propose([4, 9, 4, 5, 4], 4, draws) == ([5, 4], None), "the latest place"
    assert Lookup().propose([1, 2, 3], 4, draws) == ([], None)
    assert Lookup().propose([1], 4, draws) == ([], None)


def test_what_is_kept_or_drawn_anew_follows_the_models_distribution():
    """p = (0.5, 0.3, 0.2), q = (0.1, 0.8, 0.1): kept with 0.1 + 0.3 + 0.1 = 0.5, and the shares are p's within 4 standard
    errors of 6,000 draws (0.026); with a certain proposal of token 1 it is kept with 0.3."""
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.8, 0.1])
    draws, num = Draws(Sampling(seed=4), 0), 6000
    for certain, share in ((False, 0.5), (True, 0.3)):
        found, accepted = Counter(), 0
        for _ in range(num):
            kept, token = judge(1 if certain else pick(q, draws()), p, None if certain else q, draws)
            accepted += kept
            found[token] += 1
        assert accepted / num == pytest.approx(share, abs=0.026)
        for token, probability in enumerate(p.tolist()):
            assert found[token] / num == pytest.approx(probability, abs=0.026)


@pytest.mark.parametrize("how", ["draft", "lookup"])
def test_pairs_of_sampled_tokens_follow_the_models_own_probabilities(how, load):
    """1,200 replies of two tokens, top-k 3, so nine pairs: chi-square with 8 degrees of freedom below 26.1 (p = 0.001)."""
    generator = load("llama")
    options = {"temperature": 1.5, "top_k": 3, "stop_ids": (), "logps": False, "max_tokens": 2}
    prompt, num = [7, 8, 7, 8, 7], 1200
    like = load("llama")
    with torch.no_grad():
        like.model.lm_head.weight.add_(0.05 * torch.randn(320, 32, generator=torch.Generator().manual_seed(1)))
    proposer = Lookup() if how == "lookup" else Draft(like)
    speculator = Speculator(generator, proposer, ahead=2)
    found = Counter(reply.ids for reply in speculator.sample([prompt], n=num, seed=2, **options))
    expected = {}
    with torch.no_grad():
        first = generator.model(input_ids=torch.tensor([prompt])).logits[0, -1].div(1.5).topk(3)
        for one, p_one in zip(first.indices.tolist(), first.values.softmax(-1).tolist()):
            second = generator.model(input_ids=torch.tensor([[*prompt, one]])).logits[0, -1].div(1.5).topk(3)
            for two, p_two in zip(second.indices.tolist(), second.values.softmax(-1).tolist()):
                expected[one, two] = num * p_one * p_two
    assert set(found) <= set(expected)
    chi = sum((found[pair] - value) ** 2 / value for pair, value in expected.items())
    assert chi < 26.1, (chi, found, expected)
    if how == "draft":
        assert 0 < speculator.stats.acceptance < 1


def test_replies_repeat_with_their_seed_and_end_where_they_should(load):
    generator = load("llama")
    options = {"max_tokens": 10, "temperature": 1.0, "repetition_penalty": 1.2, "min_p": 0.01, "top_logps": 2}
    first = Speculator(generator, Lookup()).sample(PROMPTS, seed=3, **options)
    assert first == Speculator(generator, Lookup()).sample(PROMPTS, seed=3, **options)
    assert first != Speculator(generator, Lookup()).sample(PROMPTS, seed=4, **options)
    plain = generator.sample(PROMPTS, max_tokens=NEW, stop_ids=())
    stop = plain[0].ids[2]
    ended = Speculator(generator, Lookup()).sample(PROMPTS[:1], max_tokens=NEW, stop_ids=[stop])[0]
    assert ended.ids == plain[0].ids[: plain[0].ids.index(stop) + 1] and ended.finish == "stop"


def test_a_draft_with_other_tokens_is_refused(load):
    with pytest.raises(UserError, match="the draft model has 330 tokens, but the model 320"):
        Speculator(load("llama"), Draft(load("llama", vocab=330)))
    with pytest.raises(UserError, match="ahead is 0"):
        Speculator(load("llama"), Lookup(), ahead=0)
