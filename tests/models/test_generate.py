"""Generation: the same text as transformers', alone or in a batch, and every way a reply can end.

Left out: speed (benchmarks/). Models are tiny, random: greedy text is compared only where the two best logits differ.
"""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bottega.core.errors import UserError
from bottega.models.generate import Generator
from tests.models.tiny import tiny_model

PROMPTS = [[1, 9, 40, 77, 200, 31, 8], [1, 50], [1, 300, 12, 13], [1, 9, 40, 77, 5], [250], [1, 60, 61, 62, 63, 64]]
NEW = 12


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """family -> (model, tokenizer), made once."""
    made = {}

    def find(family: str, **config):
        key = (family, tuple(sorted(config.items())))
        if key not in made:
            folder = tiny_model(family, tmp_path_factory.mktemp(family), **config)
            made[key] = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
        return made[key]

    return find


@torch.no_grad()
def gaps(model, prompt, ids) -> list[float]:
    """For each token of a reply the distance of the two best logits where it was chosen."""
    logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].float()
    best = logits.topk(2, -1).values
    return (best[:, 0] - best[:, 1]).tolist()


def same_where_apart(model, prompt, one, other) -> bool:
    """Whether two greedy replies agree up to the first position at which the two best logits are closer than 1e-4."""
    for left, right, gap in zip(one, other, gaps(model, prompt, one)):
        if gap < 1e-4:
            return True
        if left != right:
            return False
    return len(one) == len(other)


@torch.no_grad()
def theirs(model, prompt, **options):
    out = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
        max_new_tokens=NEW, pad_token_id=0, **options,
    )  # fmt: skip
    return out[0, len(prompt) :].tolist()


FAMILIES = ["llama", "qwen3", "mistral", "granite", "gpt2", "gpt_neox", "gemma2"]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_text_in_a_padded_batch_equals_transformers_one_by_one(family, load):
    model, tokenizer = load(family)
    generator = Generator(model, tokenizer)
    replies = generator.sample(PROMPTS, max_tokens=NEW, stop_ids=(2,))
    assert generator.chosen_way() == (
        "padded" if family == "gemma2" else "masks"
    )  # gemma2's eager attention adds its mask
    for prompt, reply in zip(PROMPTS, replies):
        assert same_where_apart(model, prompt, list(reply.ids), theirs(model, prompt, eos_token_id=2))


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_a_prompt_alone_and_in_a_batch_gives_the_same_greedy_text(family, load):
    model, tokenizer = load(family)
    generator = Generator(model, tokenizer)
    together = generator.sample(PROMPTS, max_tokens=NEW, stop_ids=())
    for prompt, reply in zip(PROMPTS, together):
        alone = generator.sample([prompt], max_tokens=NEW, stop_ids=())[0]
        assert same_where_apart(model, prompt, reply.ids, alone.ids)


@pytest.mark.parametrize(
    ("family", "way"), [("bloom", "padded"), ("falcon", "masks"), ("gptj", "masks"), ("opt", "masks")]
)
def test_other_families_are_decoded_in_the_way_that_the_probe_finds_right(family, way, load):
    model, tokenizer = load(family)
    generator = Generator(model, tokenizer)
    replies = generator.sample(PROMPTS, max_tokens=NEW, stop_ids=())
    assert generator.chosen_way() in (way, "padded", "plain")
    for prompt, reply in zip(PROMPTS, replies):
        alone = []
        for _ in range(NEW):
            with torch.no_grad():
                alone.append(
                    int(model(input_ids=torch.tensor([[*prompt, *alone]]), use_cache=False).logits[0, -1].argmax())
                )
        assert same_where_apart(model, prompt, reply.ids, alone)


def test_equal_prompts_are_computed_once_and_give_equal_greedy_replies(load):
    model, tokenizer = load("mistral")
    generator = Generator(model, tokenizer)
    lengths = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    replies = generator.sample([PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[0]], max_tokens=4, stop_ids=())
    handle.remove()
    assert replies[0] == replies[2] == replies[3] != replies[1]
    assert lengths[-4:] == [(2, len(PROMPTS[0])), (4, 1), (4, 1), (4, 1)]


def test_without_a_cache_rows_of_one_length_are_decoded_together_and_right(load):
    model, tokenizer = load("llama")
    plain = Generator(model, tokenizer, way="plain").sample(PROMPTS, max_tokens=5, stop_ids=())
    cached = Generator(model, tokenizer).sample(PROMPTS, max_tokens=5, stop_ids=())
    assert all(same_where_apart(model, p, a.ids, b.ids) for p, a, b in zip(PROMPTS, plain, cached))


def test_a_sampled_reply_depends_on_its_seed_and_not_on_its_batch_mates(load):
    model, tokenizer = load("llama")
    generator = Generator(model, tokenizer)
    options = {"max_tokens": NEW, "temperature": 1.0, "top_p": 0.9, "stop_ids": ()}
    seeds = [11, 12, 13, 14, 15, 16]
    together = generator.sample(PROMPTS, seed=seeds, **options)
    small = generator.sample(PROMPTS, seed=seeds, batch=2, **options)
    assert [r.ids for r in together] == [r.ids for r in small]
    assert generator.sample([PROMPTS[2]], seed=[13], **options)[0].ids == together[2].ids
    first, again, other = (generator.sample([[1, 9]] * 4, seed=seed, **options) for seed in (5, 5, 6))
    assert first == again and first != other
    assert len({r.ids for r in first}) == 4, "copies of one prompt draw different numbers"


def test_log_probabilities_are_those_of_the_model_at_the_temperature(load):
    model, tokenizer = load("qwen3")
    for temperature in (0.0, 0.7):
        replies = Generator(model, tokenizer).sample(
            PROMPTS, max_tokens=6, temperature=temperature, top_k=5, stop_ids=()
        )
        for prompt, reply in zip(PROMPTS, replies):
            ids = [*prompt, *reply.ids]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0, len(prompt) - 1 : -1].float()
            logps = torch.log_softmax(logits / (temperature or 1.0), -1)
            expected = logps.gather(1, torch.tensor(reply.ids)[:, None])[:, 0]
            assert torch.allclose(torch.tensor(reply.logps), expected, atol=2e-4)


def test_repetition_penalty_equals_transformers(load):
    model, tokenizer = load("llama")
    replies = Generator(model, tokenizer).sample(PROMPTS, max_tokens=NEW, repetition_penalty=1.7, stop_ids=(2,))
    for prompt, reply in zip(PROMPTS, replies):
        assert list(reply.ids) == theirs(model, prompt, repetition_penalty=1.7, eos_token_id=2)


def test_a_stop_id_ends_one_row_and_the_others_go_on_unchanged(load):
    model, tokenizer = load("llama")
    generator = Generator(model, tokenizer)
    free = generator.sample(PROMPTS, max_tokens=NEW, stop_ids=())
    stop = free[0].ids[2]
    replies = generator.sample(PROMPTS, max_tokens=NEW, stop_ids=[stop])
    for before, after in zip(free, replies):
        cut = before.ids.index(stop) + 1 if stop in before.ids else NEW
        assert after.ids == before.ids[:cut] and len(after.logps) == cut
        assert after.finish == ("stop" if stop in before.ids else "length")
        assert after.usage["completion_tokens"] == cut
    assert tokenizer.decode([stop]) not in replies[0].text or stop in free[0].ids[:2]


def test_a_stop_string_across_tokens_is_cut_from_the_text_at_its_first_place(load):
    model, tokenizer = load("llama")
    generator = Generator(model, tokenizer)
    free = generator.sample(PROMPTS, max_tokens=NEW, stop_ids=())
    for number, reply in enumerate(free):
        text = reply.text
        if len(text) < 8 or "\ufffd" in text:
            continue
        stop = text[3:6]
        got = generator.sample([PROMPTS[number]], max_tokens=NEW, stop_ids=(), stop=[stop])[0]
        assert got.text == text[: text.index(stop)] and got.finish == "stop"
        assert got.ids == reply.ids[: len(got.ids)] and stop in tokenizer.decode(got.ids)
        assert stop not in tokenizer.decode(got.ids[:-1])


def test_a_control_token_named_as_a_stop_string_ends_the_reply(load):
    """Decoding leaves control tokens out of the text, in which the string would never be found."""
    model, tokenizer = load("llama")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    generator = Generator(model, tokenizer)
    with torch.no_grad():
        model.lm_head.weight[end] += 0.5 * model.lm_head.weight[generator.sample([PROMPTS[0]], max_tokens=3)[0].ids[2]]
        model.lm_head.weight[end] *= 3
    free = generator.sample([PROMPTS[0]], max_tokens=NEW, stop_ids=())[0]
    assert end in free.ids, "the model is made to say it"
    for shown in (False, True):
        how = {"max_tokens": NEW, "stop_ids": (), "stop": ["<|im_end|>"], "special": shown}
        got = generator.sample([PROMPTS[0]], **how)[0]
        assert got.finish == "stop" and got.ids == free.ids[: free.ids.index(end) + 1] and "im_end" not in got.text


def test_the_pieces_of_a_stream_join_to_the_text_of_the_reply(load):
    model, tokenizer = load("llama")
    generator = Generator(model, tokenizer)
    for prompt in PROMPTS:
        for stop in ((), ("e",), ("zzz",)):
            options = {"max_tokens": 20, "temperature": 1.0, "seed": 3, "stop": stop, "stop_ids": ()}
            whole = generator.sample([prompt], **options)[0]
            pieces = list(generator.stream(prompt, **options))
            assert pieces[-1].reply == whole and all(piece.reply is None for piece in pieces[:-1])
            assert "".join(piece.text for piece in pieces) == whole.text


def test_prefix_keys_are_seen_by_every_row_and_positions_start_after_them(load):
    """A prefix made from real tokens must act as these tokens in front of the prompt."""
    model, tokenizer = load("llama")
    front = [9, 33, 70]

    class Front:
        num_prefix = len(front)

        def prefix_kv(self, layer: int):
            with torch.no_grad():
                cache = model(input_ids=torch.tensor([front]), use_cache=True).past_key_values
            return cache.layers[layer].keys[0], cache.layers[layer].values[0]

        def served(self, model):
            return self

    replies = Generator(model, tokenizer, inputs=Front()).sample(PROMPTS, max_tokens=NEW, stop_ids=())
    for prompt, reply in zip(PROMPTS, replies):
        expected = Generator(model, tokenizer).sample([front + prompt], max_tokens=NEW, stop_ids=())[0]
        assert same_where_apart(model, front + prompt, expected.ids, reply.ids)


def test_more_tokens_than_the_model_has_positions_is_refused_with_the_remedy(load):
    model, tokenizer = load("llama")
    generator = Generator(model, tokenizer)
    with pytest.raises(
        UserError, match=r"prompt 1 has 120 tokens, and max_tokens is 20: .* 128 positions; set .* at most 8"
    ):
        generator.sample([[1], [1] * 120], max_tokens=20)
    with pytest.raises(UserError, match="prompt 0 has 0 tokens"):
        generator.sample([[]], max_tokens=2)
    with pytest.raises(UserError, match="'temprature' is no sampling option"):
        generator.sample([[1]], temprature=1.0)
    with pytest.raises(UserError, match="top_p is 1.5"):
        generator.sample([[1]], top_p=1.5)


def test_sampling_leaves_mode_random_state_and_gradients_as_they_were(load):
    model, tokenizer = load("llama")
    model.train()
    model.model.layers[0].eval()
    before = torch.get_rng_state()
    Generator(model, tokenizer).sample([[1, 5]], max_tokens=3, temperature=1.0)
    assert model.training and not model.model.layers[0].training and model.model.layers[1].training
    assert torch.equal(before, torch.get_rng_state()) and torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()


def test_sync_takes_over_weights_by_name_and_counts_the_version(load, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model("llama", tmp_path, seed=4))
    donor, tokenizer = load("llama")
    generator = Generator(model, tokenizer)
    generator.sync(donor.state_dict().items())
    assert generator.version == 1
    expected = Generator(donor, tokenizer).sample(PROMPTS, max_tokens=4)
    assert generator.sample(PROMPTS, max_tokens=4) == expected
    with pytest.raises(UserError, match="'nothing' is not in the model"):
        generator.sync([("nothing", torch.zeros(1))])


def test_a_cache_that_grows_while_rows_end_and_leave_gives_the_models_own_log_probabilities(load):
    """Prompts of 1 to 7 tokens, replies of up to 80: room grows at 32, 64 and 96 slots; twelve tokens end a row."""
    model, tokenizer = load("mistral")
    options = {"max_tokens": 80, "temperature": 1.0, "seed": 8, "stop_ids": range(12)}
    replies = Generator(model, tokenizer).sample([p for p in PROMPTS for _ in range(3)], **options)
    lengths = {len(reply.ids) for reply in replies}
    assert max(lengths) > 64 and min(lengths) < 20, "some rows leave early, some stay"
    for number, reply in enumerate(replies):
        prompt = PROMPTS[number // 3]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *reply.ids]])).logits[0, len(prompt) - 1 : -1].float()
        expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(reply.ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(reply.logps), expected, atol=2e-4)
