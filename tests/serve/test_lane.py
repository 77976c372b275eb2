"""Rows that come and go in a running batch say what they say alone: families, prefixes, adapters, settings.

Left out: threads (test_engine.py) and HTTP (test_api.py).
"""

from __future__ import annotations

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from bottega.core.errors import Mismatch, UserError
from bottega.models import attention
from bottega.models.generate import Generator, evaluating
from bottega.models.methods.lora import Lora
from bottega.models.methods.prefix import Prefix
from bottega.models.routed import Adapters
from bottega.models.sampling import Sampling
from bottega.serve.lane import Job, Lane
from tests.models.test_generate import same_where_apart
from tests.models.tiny import tiny_model


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    made = {}

    def find(family: str, kind=AutoModelForCausalLM):
        if family not in made:
            folder = tiny_model(family, tmp_path_factory.mktemp(family))
            made[family] = Generator(kind.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder))
        return made[family]

    return find


def job_for(generator, ids, events=None, *, route=(), number=0, pieces=False, **options):
    settings = Sampling(**({"stop_ids": ()} | options))
    told = (lambda event: None) if events is None else events.append
    return Job(
        ids=ids,
        settings=settings,
        stopper=generator.stopper(settings),
        told=told,
        route=route,
        number=number,
        pieces=pieces,
    )


def lane_of(generator, rows=4, adapters=None):
    return Lane(generator.forward, generator.chosen_way(), rows, adapters)


def run(lane, model, arrivals=()):
    """Steps until nobody is left; `arrivals`: (step, job) of those who come later."""
    todo, step = list(arrivals), 0
    with evaluating(model):
        while lane.busy or todo:
            for at, job in [one for one in todo if one[0] <= step]:
                lane.waiting.append(job)
                todo.remove((at, job))
            lane.step()
            step += 1
            assert step < 10_000


def some_prompts(numbers, count, longest=40):
    return [[numbers.randrange(3, 320) for _ in range(numbers.randint(1, longest))] for _ in range(count)]


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2", "bloom", "mpt", "qwen2_moe"])
def test_rows_that_come_and_go_say_what_each_says_alone(family, load):
    """Property: 14 prompts of 1 to 40 tokens with replies of 1 to 40, which come at random times to 4 places."""
    generator, numbers = load(family), random.Random(11)
    lane = lane_of(generator)
    assert lane.joins
    prompts = some_prompts(numbers, 14)
    jobs = [job_for(generator, ids, max_tokens=numbers.randint(1, 40)) for ids in prompts]
    run(lane, generator.model, [(numbers.randrange(60), job) for job in jobs])
    for job in jobs:
        alone = generator.sample([job.ids], max_tokens=job.settings.max_tokens, stop_ids=())[0]
        assert same_where_apart(generator.model, job.ids, alone.ids, job.row.ids)
        if tuple(job.row.ids) == alone.ids:
            assert torch.allclose(torch.tensor(job.row.logps), torch.tensor(alone.logps), atol=2e-4)


def test_slots_that_no_row_sees_any_more_are_dropped(load):
    """A long row leaves: what it needed goes. A window: what is behind it goes while the row still writes."""
    for family in ("llama", "mistral"):
        generator = load(family)
        lane, numbers = lane_of(generator), random.Random(3)
        long, short = some_prompts(numbers, 2, 4)
        jobs = [job_for(generator, [*range(3, 73)], max_tokens=2), job_for(generator, short, max_tokens=50)]
        seen = []
        with evaluating(generator.model):
            lane.waiting += jobs
            while lane.busy:
                lane.step()
                seen.append(lane.batch.cache.end if lane.batch is not None else 0)
        assert max(seen[:2]) >= 70 and max(seen[3:20]) < 40
        alone = generator.sample([short], max_tokens=50, stop_ids=())[0]
        assert same_where_apart(generator.model, short, alone.ids, jobs[1].row.ids)


def test_families_without_a_cache_and_encoder_decoders_are_served_batch_by_batch(load):
    for family, kind in (("t5", AutoModelForSeq2SeqLM),):
        generator, numbers = load(family, kind), random.Random(2)
        lane = lane_of(generator, rows=3)
        assert not lane.joins
        jobs = [job_for(generator, ids, max_tokens=numbers.randint(2, 9)) for ids in some_prompts(numbers, 7, 9)]
        run(lane, generator.model, [(numbers.randrange(9), job) for job in jobs])
        for job in jobs:
            alone = generator.sample([job.ids], max_tokens=job.settings.max_tokens, stop_ids=())[0]
            assert tuple(job.row.ids) == alone.ids
    generator = load("llama")
    plain = Lane(generator.forward, "plain", 4)
    jobs = [job_for(generator, ids, max_tokens=4) for ids in ([5, 6], [7, 8, 9], [9, 5])]
    run(plain, generator.model, [(0, job) for job in jobs])
    for job in jobs:
        assert tuple(job.row.ids) == generator.sample([job.ids], max_tokens=4, stop_ids=())[0].ids


def test_rows_with_key_value_prefixes_join_too(tmp_path):
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(tiny_model("llama", tmp_path)).eval()
    attention.install(model)
    attached = Prefix(length=5).attach(model)
    with torch.no_grad():
        for group in attached.groups:
            for p in group["params"]:
                p.add_(0.3 * torch.randn_like(p))
    generator, numbers = Generator(attached.model, inputs=attached.inputs), random.Random(4)
    jobs = [job_for(generator, ids, max_tokens=numbers.randint(1, 12)) for ids in some_prompts(numbers, 8, 9)]
    run(lane_of(generator), attached.model, [(numbers.randrange(12), job) for job in jobs])
    for job in jobs:
        alone = generator.sample([job.ids], max_tokens=job.settings.max_tokens, stop_ids=())[0]
        assert tuple(job.row.ids) == alone.ids


def test_each_row_has_its_own_settings_and_draws(load):
    generator = load("llama")
    manners = [
        {"temperature": 0.0},
        {"temperature": 1.0, "seed": 5},
        {"temperature": 1.0, "seed": 6, "top_k": 9},
        {"temperature": 0.7, "seed": 7, "top_p": 0.8, "min_p": 0.02},
        {"temperature": 0.0, "repetition_penalty": 1.4},
        {"temperature": 1.0, "seed": 5, "top_logps": 3},
    ]
    jobs = [job_for(generator, [4 + n, 90, 17], max_tokens=9, **manner) for n, manner in enumerate(manners)]
    more = [job_for(generator, [9, 9], max_tokens=9, temperature=1.0, seed=8, number=n) for n in range(3)]
    run(lane_of(generator, rows=5), generator.model, [(n, job) for n, job in enumerate([*jobs, *more])])
    for job, manner in zip(jobs, manners):
        alone = generator.sample([job.ids], max_tokens=9, stop_ids=(), **manner)[0]
        assert tuple(job.row.ids) == alone.ids and len(job.row.tops) == len(alone.tops)
    group = generator.sample([[9, 9]], max_tokens=9, stop_ids=(), temperature=1.0, seed=8, n=3)
    assert [tuple(job.row.ids) for job in more] == [reply.ids for reply in group]


def test_the_pieces_joined_are_the_reply_and_every_token_is_told_once(load):
    generator, events = load("llama"), []
    job = job_for(generator, [5, 60, 7], events, max_tokens=20, pieces=True, stop=("e",), special=True)
    run(lane_of(generator), generator.model, [(0, job)])
    reply = events[-1].reply
    assert reply is not None and all(event.reply is None for event in events[:-1])
    assert "".join(event.text for event in events) == reply.text
    assert [word.id for event in events for word in event.words] == list(reply.ids)
    assert [word.logp for event in events for word in event.words] == list(reply.logps)


def test_a_row_that_nobody_waits_for_leaves_before_the_next_token(load):
    generator = load("llama")
    lane = lane_of(generator, rows=2)
    jobs = [job_for(generator, [5, 6], max_tokens=40) for _ in range(3)]
    with evaluating(generator.model):
        lane.waiting += jobs
        lane.step()
        jobs[0].gone = True
        lane.step()
    assert len(jobs[0].row.ids) == 1 and len(jobs[1].row.ids) == 2 and len(jobs[2].row.ids) == 1
    assert lane.jobs == jobs[1:]


def an_adapter(family, folder, seed, **options):
    """A LoRA adapter whose numbers are drawn, saved; and its base loaded with it, for comparison."""
    model = AutoModelForCausalLM.from_pretrained(folder / "base").eval()
    torch.manual_seed(seed)
    attached = Lora(**({"rank": 4} | options)).attach(model)
    with torch.no_grad():
        for name, p in attached.model.named_parameters():
            if "lora_B" in name:
                p.copy_(0.2 * torch.randn_like(p))
    place = folder / f"a{seed}"
    attached.save(str(place))
    return place, Generator(attached.model.eval())


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "mixtral"])
def test_rows_of_several_adapters_share_a_batch_and_say_what_each_adapter_says_alone(family, tmp_path):
    tiny_model(family, tmp_path / "base")
    (a, with_a), (b, with_b) = (an_adapter(family, tmp_path, seed) for seed in (1, 2))
    generator = Generator(AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval())
    bare = generator.sample([[5, 6, 7]], max_tokens=8, stop_ids=())[0]
    adapters = Adapters(generator.model)
    adapters.add("a", a)
    adapters.add("b", b)
    assert list(adapters) == ["a", "b"] and adapters.mixes
    numbers = random.Random(8)
    routes = [(), (("a", 1.0),), (("b", 1.0),), (("a", 1.0), ("b", 0.6))]
    jobs = [
        job_for(generator, ids, max_tokens=6, route=numbers.choice(routes)) for ids in some_prompts(numbers, 12, 12)
    ]
    run(lane_of(generator, adapters=adapters), generator.model, [(numbers.randrange(9), job) for job in jobs])
    for job in jobs:
        if job.route in routes[1:3]:
            alone = (with_a if job.route[0][0] == "a" else with_b).sample([job.ids], max_tokens=6, stop_ids=())[0]
            assert same_where_apart(
                (with_a if job.route[0][0] == "a" else with_b).model, job.ids, alone.ids, job.row.ids
            )
    adapters.remove("a")
    adapters.remove("b")
    assert generator.sample([[5, 6, 7]], max_tokens=8, stop_ids=())[0].ids == bare.ids


def test_a_mixture_is_what_merging_writes(tmp_path):
    from bottega.models.blend_adapters import combine
    from bottega.models.load import load as load_model

    tiny_model("llama", tmp_path / "base")
    (a, _), (b, _) = an_adapter("llama", tmp_path, 1), an_adapter("llama", tmp_path, 2, rank=6, rslora=True)
    combine([a, b], tmp_path / "mixed", weights=[0.5, 0.6], base=str(tmp_path / "base"))
    mixed = load_model(tmp_path / "mixed")
    generator = Generator(AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval())
    adapters = Adapters(generator.model)
    adapters.add("a", a)
    adapters.add("b", b)
    ids = torch.tensor([[5, 9, 30, 7]])
    with torch.no_grad(), adapters.routing([(("a", 0.5), ("b", 0.6))]):
        got = generator.model(input_ids=ids).logits
    with torch.no_grad():
        wanted = mixed.attached.model(input_ids=ids).logits
    assert torch.allclose(got, wanted, atol=1e-5)


def test_an_adapter_that_does_not_fit_is_refused_and_leaves_nothing_behind(tmp_path):
    tiny_model("llama", tmp_path / "base")
    place, _ = an_adapter("llama", tmp_path, 1)
    other = AutoModelForCausalLM.from_pretrained(tiny_model("llama", tmp_path / "wide", hidden_size=64)).eval()
    adapters = Adapters(other)
    with pytest.raises(Mismatch, match="inputs"):
        adapters.add("a", place)
    dora, _ = an_adapter("llama", tmp_path, 3, dora=True)
    with pytest.raises(UserError, match="use_dora"):
        adapters.add("a", dora)
    assert "a" not in adapters and not any(type(m).__name__ == "Routed" for m in other.modules())
    with pytest.raises(UserError, match="no adapter 'a'"):
        adapters.remove("a")
