"""Groups of replies, common beginnings and likeliest tokens; ragged batches against each prompt alone, over families."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bottega.core.errors import UserError
from bottega.models.generate import Generator
from tests.models.test_generate import PROMPTS, same_where_apart
from tests.models.tiny import tiny_model

FRONT = [1, *range(20, 44)]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    made = {}

    def find(family: str):
        if family not in made:
            folder = tiny_model(family, tmp_path_factory.mktemp(family))
            model = AutoModelForCausalLM.from_pretrained(folder).eval()
            made[family] = Generator(model, AutoTokenizer.from_pretrained(folder))
        return made[family]

    return find


def widths(generator, call):
    """The shapes of ids that the model is given during `call`."""
    shapes = []
    handle = generator.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    result = call()
    handle.remove()
    return result, shapes


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "bloom", "mistral"])
def test_ragged_batches_say_what_each_prompt_says_alone(family, load):
    """Property: 4 random batches of 2 to 7 prompts of 1 to 40 tokens, half of them with a common beginning."""
    generator, numbers = load(family), random.Random(5)
    for trial in range(4):
        front = FRONT if trial % 2 else []
        prompts = [
            [*front, *(numbers.randrange(3, 320) for _ in range(numbers.randint(1, 15 if front else 40)))]
            for _ in range(numbers.randint(2, 7))
        ]
        together = generator.sample(prompts, max_tokens=8, stop_ids=(), batch=4)
        for prompt, reply in zip(prompts, together):
            alone = generator.sample([prompt], max_tokens=8, stop_ids=())[0]
            assert same_where_apart(generator.model, prompt, alone.ids, reply.ids)


def test_what_all_prompts_begin_with_is_computed_once(load):
    generator = load("llama")
    generator.chosen_way()
    prompts = [[*FRONT, 60, 61], [*FRONT, 70], [*FRONT, 60, 62, 63], [*FRONT, 70]]
    replies, shapes = widths(generator, lambda: generator.sample(prompts, max_tokens=3, stop_ids=()))
    assert shapes == [(1, len(FRONT)), (3, 3), (4, 1), (4, 1)]
    assert replies[1] == replies[3]
    _, shapes = widths(load("mistral"), lambda: load("mistral").sample(prompts, max_tokens=1, stop_ids=()))
    assert shapes[-1] == (3, len(FRONT) + 3), "with a sliding window slots must stand as far apart as tokens"


def test_a_group_of_replies_computes_its_prompt_once_and_draws_apart(load):
    generator = load("llama")
    options = {"max_tokens": 6, "temperature": 1.0, "stop_ids": (), "seed": 3}
    replies, shapes = widths(generator, lambda: generator.sample(PROMPTS[:2], n=4, **options))
    assert shapes[0] == (2, len(PROMPTS[0])) and shapes[1] == (8, 1)
    assert len(replies) == 8 and len({reply.ids for reply in replies[:4]}) > 1
    assert replies[0].usage["prompt_tokens"] == len(PROMPTS[0]) and replies[4].usage["prompt_tokens"] == len(PROMPTS[1])
    one_by_one = generator.sample(PROMPTS[1:2], n=4, **(options | {"seed": [11]}))
    both = generator.sample(PROMPTS[:2], n=4, **(options | {"seed": [10, 11]}))
    assert [r.ids for r in both[4:]] == [r.ids for r in one_by_one]
    with pytest.raises(UserError, match="n is 2, but a stream is one reply"):
        next(generator.stream([1], n=2))


def test_the_likeliest_tokens_of_every_place_are_the_models(load):
    generator = load("llama")
    for temperature in (0.0, 0.8):
        for prompt, reply in zip(
            PROMPTS,
            generator.sample(PROMPTS, max_tokens=5, temperature=temperature, top_logps=3, stop_ids=()),
        ):
            with torch.no_grad():
                logits = generator.model(input_ids=torch.tensor([[*prompt, *reply.ids]])).logits[
                    0, len(prompt) - 1 : -1
                ]
            best = torch.log_softmax(logits / (temperature or 1.0), -1).topk(3)
            assert len(reply.tops) == 5
            for place, top in enumerate(reply.tops):
                assert [token for token, _ in top] == best.indices[place].tolist()
                assert [logp for _, logp in top] == pytest.approx(best.values[place].tolist(), abs=2e-4)
            if temperature == 0:
                assert [top[0][0] for top in reply.tops] == list(reply.ids)
                assert [top[0][1] for top in reply.tops] == pytest.approx(reply.logps)
