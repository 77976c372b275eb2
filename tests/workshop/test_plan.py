"""A plan: counted by hand on known shapes, equal to what real tensors hold, monotone, and as sure as its table says."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig

from bottega import cli
from bottega.core.errors import UserError
from bottega.core.types import Row, Tokens
from bottega.models import attention
from bottega.models.layout import lay
from bottega.models.methods import method
from bottega.models.score import Scorer
from bottega.train.settings import LoopSettings
from bottega.workshop import (
    calibrate,
    plan_devices,
    plan_models,
    plan_shape,
    plan_stage,
    plan_table,
    plan_target,
    suggest,
)
from bottega.workshop.plan import plan, plan_text
from bottega.workshop.plan_memory import STATES, Fit, Needs, deeper, memory_of, quantised, streamed, total_states
from bottega.workshop.plan_rehearsal import Watch, Work, rehearse
from bottega.workshop.plan_stage import Rehearsals, Way
from bottega.workshop.plan_time import TERMS, Rates, fit
from bottega.workshop.recipe import LOOP

ROWS = tuple(
    Row(index=i, branches=(Tokens(list(range(1, 33)), [0.0] * 12 + [1.0] * 20),)) for i in range(4)
)  # 128 tokens, 80 supervised


def config(**more):
    keys = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "vocab_size": 100,
    }
    return LlamaConfig(**{**keys, "num_key_value_heads": 2, "tie_word_embeddings": False, **more})


def rehearsed(name="full", checkpointing=False, rows=ROWS, needs=("nll",), shape=None, **options):
    made = plan_shape.on_meta(shape or config(), name, options)
    return rehearse(
        made.attached,
        rows,
        needs=needs,
        packed=made.packs,
        checkpointing=LoopSettings(steps=1) if checkpointing else None,
    )


def test_parameters_and_states_of_a_full_stage_are_those_of_a_hand_count():
    """Llama, width 32, 2 layers, 4 heads of 8 with 2 for keys and values, FFN 64, vocabulary 100, not tied.

    A layer: q 32*32 + k 16*32 + v 16*32 + o 32*32 = 3,072; gate, up, down 3*32*64 = 6,144; norms 64: 9,280. Two: 18,560. Embedding
    and head 2*100*32 = 6,400; last norm 32. Together 24,992. AdamW keeps 8 bytes for each.
    """
    found = rehearsed()
    assert found.total == found.trainable == 24_992 and found.gradients == 4 * 24_992
    assert total_states(found.learning, found.tables, "adamw") == 8 * 24_992
    assert total_states(found.learning, found.tables, "sgd") == 4 * 24_992


def test_lora_counts_are_those_of_the_formula():
    """rank * (inputs + outputs) over q 32+32, k 32+16, v 32+16, o 32+32, gate 32+64, up 32+64, down 64+32: 64+48+48+64+96+96+96 = 512 a
    layer; two layers, rank 4: 4,096 numbers, 16,384 bytes of gradients.
    """
    found = rehearsed("lora", rank=4)
    assert found.trainable == 4_096 and found.gradients == 16_384


def test_states_by_shape():
    """Matrix 10 x 6: Adafactor 10 + 6 numbers, Muon and Lion 60, AdamW 120; vector of 6: Muon's are AdamW's, 12. 8-bit AdamW of a
    64 x 64 matrix: two bytes a number and a scale for 256: 2 * 4096 * (1 + 4 / 256) = 8,320.
    """
    assert STATES["adafactor"]((10, 6)) == 64 and STATES["muon"]((10, 6)) == STATES["lion"]((10, 6)) == 240
    assert STATES["adamw"]((10, 6)) == 480 and STATES["muon"]((6,)) == 48 and STATES["adamw8bit"]((64, 64)) == 8_320


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor", "sgd", "muon", "schedule_free"])
def test_states_are_those_of_the_real_optimizer(name):
    from bottega.train.equip import make_optimizer

    model = AutoModelForCausalLM.from_config(config())
    attention.install(model)
    scorer = Scorer(method("full").attach(model), vocabulary=100)
    attached = method("full").attach(model)
    optimizer = make_optimizer(attached, scorer, LoopSettings(steps=1, optimizer=name), None)
    for parameter in scorer.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    held = sum(x.numel() * x.element_size() for state in optimizer.state.values() for x in state.values() if x.dim())
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    rest = [tuple(p.shape) for p in model.parameters() if not any(p is table for table in tables)]
    said = total_states(rest, [tuple(p.shape) for p in tables], name)
    assert held == pytest.approx(said, rel=0.02)


@pytest.mark.parametrize(("name", "checkpointing"), [("full", False), ("full", True), ("lora", False), ("lisa", False)])
def test_a_rehearsal_holds_what_a_real_step_holds(name, checkpointing):
    """The same watch over real tensors: the Scorer's forward and backward of the same rows, twice."""
    torch.manual_seed(0)
    options = {"active": 1} if name == "lisa" else {}
    model = AutoModelForCausalLM.from_config(config())
    attention.install(model)
    attached = method(name, **options).attach(model)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    scorer = Scorer(attached, vocabulary=100).train()
    watch = Watch()
    watch.hold([*scorer.parameters(), *scorer.buffers()])
    base, peaks = watch.live, []
    with watch:
        for _ in range(2):
            watch.peak = watch.live
            layout, targets = lay(ROWS, packed=True)
            scorer(layout, targets, ("nll",))["nll"].backward()
            peaks.append(watch.peak - base)
            del layout, targets
    said = rehearsed(name, checkpointing, **options)
    assert [said.first_peak, said.later_peak] == pytest.approx(peaks, rel=0.02)


def test_the_work_of_a_step_is_that_of_the_formula():
    """Full tuning: 2 FLOPs a weight and token forward, 4 backward. Weights in products of the trunk 18,432 (2 * (3,072 + 6,144)), 128
    tokens: 6 * 18,432 * 128 = 14,155,776. The head at 80 supervised tokens, three products: 6 * 80 * 3,200 = 1,536,000."""
    found = rehearsed()
    assert sum(found.work.products.values()) == 6 * 18_432 * 128 + 6 * 80 * 3_200
    assert (
        sum(found.forward.products.values()) == 2 * 18_432 * 128 + 6 * 80 * 3_200
    )  # the head forms its gradients in the forward pass


def test_two_depths_give_every_other_depth():
    way = Way(method="full", options={}, loop=LOOP)
    shape = plan_shape.Shape(
        name="x", config=config(num_hidden_layers=12), tokenizer=None, folder=None, file_bytes=None, source=""
    )
    assert plan_shape.depths(shape.config) == (2, 3)
    found = Rehearsals(shape=shape, rows=ROWS, objective="sft").needs(way)
    whole = rehearsed(shape=config(num_hidden_layers=12))
    assert (found.total, found.weights, found.gradients) == (whole.total, whole.weights, whole.gradients)
    assert found.first_peak == pytest.approx(whole.first_peak, rel=0.03)
    assert sum(found.work.products.values()) == pytest.approx(sum(whole.work.products.values()))


def test_layers_that_alternate_are_cut_in_whole_periods():
    from transformers import AutoConfig

    gemma = AutoConfig.for_model("gemma3_text", num_hidden_layers=24)
    low, high = plan_shape.depths(gemma)
    assert (high - low) % 6 == 0 and len(plan_shape.at_depth(gemma, low).layer_types) == low


def made_needs(**more):
    keys = {"weights": 100.0, "read": 50.0, "largest": 10.0, "trainable": 25.0, "total": 25.0, "gradients": 100.0}
    keys |= {"states": 200.0, "first_peak": 150.0, "later_peak": 240.0, "churn": 1000.0, "head": 20.0, "tokens": 8.0}
    return Needs(**{**keys, "forward": Work(), "work": Work(), **more})


def test_the_peak_is_that_of_the_worst_moment():
    """A step: weights 100 + states 200 + 240 (gradients are there already: several micro-batches) = 540; one micro-batch: 450; a merge:
    2 * 100 + 200 + 10 = 410. The process: 7 + 2 * 540 + 0.1 * 1000 * 3 micro-batches = 1,387, and 13 of the interpreter."""
    options = {"merges": True, "self_check": False, "interpreter": 13.0}
    found = memory_of(made_needs(), micro_batches=3, fit=Fit(constant=7, factor=2, churn=0.1), **options)
    assert (found.tensors, found.worst, found.process) == (540.0, "a training step", 1_400.0)
    assert sum(found.parts.values()) == pytest.approx(found.process)
    one = memory_of(made_needs(), micro_batches=1, fit=Fit(constant=0, factor=1), **options)
    assert one.tensors == 450.0 and one.moments["merging"] == 410.0


def test_quantised_and_streamed_bases_weigh_what_their_bits_say():
    """1,000 numbers in linear layers: NF4 keeps 4.127 bits of 32: 4,000 - 515.875 bytes go.
    Streaming 4 layers of 40 bytes keeps two."""
    found = quantised(made_needs(weights=10_000.0), linear_numbers=1000, largest_linear=64.0, kind="nf4")
    assert found.weights == pytest.approx(10_000 - 4_000 + 515.875) and found.first_peak == 150 + 128
    assert streamed(made_needs(weights=200.0), layers_bytes=160.0, num_layers=4).weights == 120.0


@given(st.floats(0, 1e3), st.floats(0, 1e3), st.floats(0, 1e3))
@settings(max_examples=30, deadline=None)
def test_more_of_anything_never_needs_less_memory(states, peak, weights):
    def process(**more):
        options = {"micro_batches": 2, "merges": True, "self_check": True, "interpreter": 0.0}
        return memory_of(made_needs(**more), fit=Fit(constant=1, factor=1.1, churn=0.1), **options).process

    base = process()
    assert process(states=200 + states) >= base and process(later_peak=240 + peak) >= base
    assert process(weights=100 + weights) >= base


@given(st.integers(1, 4), st.integers(2, 24))
@settings(max_examples=2, deadline=None)
def test_longer_micro_batches_hold_and_compute_more(num_rows, length):
    def of(rows, tokens):
        return rehearsed(
            rows=tuple(Row(index=i, branches=(Tokens([1] * tokens, [1.0] * tokens),)) for i in range(rows))
        )

    small, large = of(num_rows, length), of(num_rows, length + 8)
    assert small.first_peak <= large.first_peak and small.work.flops < large.work.flops


def test_a_gpu_is_planned_with_the_logits_that_the_scorer_holds_there():
    """2^26 logits are 2,097 rows of 32,000; 256 were rehearsed, and no more rows are held than the micro-batch has tokens."""
    found = plan_stage.needs_of(rehearsed(), optimizer="adamw", file_bytes_each=4.0, dtype_bytes=4.0)
    many = dataclasses.replace(found, tokens=5000)
    more = plan_stage.with_more_logits(many, 32_000)
    assert more.first_peak - many.first_peak == more.head - many.head == 4 * 3 * (2**26 // 32_000 - 256) * 32_000
    few = dataclasses.replace(found, tokens=100)
    assert plan_stage.with_more_logits(few, 32_000) == few
    assert plan_stage.with_more_logits(dataclasses.replace(many, head=0.0), 32_000).head == 0


def test_rates_lie_on_the_line_between_measured_sizes_and_factors_are_found_again():
    rates = Rates(products={64: 100.0, 256: 400.0}, attention=1.0, bytes=1.0, call_s=1.0)
    assert rates.product(128) == pytest.approx(200.0) and rates.product(4096) == 400.0 and rates.product(32) == 50.0
    assert Rates.from_json(json.loads(json.dumps(rates.to_json()))) == rates
    rows = [{name: float((i * 7 + k * 3) % 5 + 1) for k, name in enumerate(TERMS)} for i in range(12)]
    wanted = dict(zip(TERMS, (1.0, 0.5, 0.0, 2.0, 0.25), strict=True))
    found = fit(rows, [sum(row[name] * wanted[name] for name in TERMS) for row in rows], TERMS)
    assert found == pytest.approx(wanted, abs=1e-3)


def test_the_table_holds_what_its_runs_say_and_its_error_is_held_out():
    """Factors and errors are computed anew from the stored runs; nothing is measured here."""
    table = plan_target.table()
    again = plan_table.fitted(table)
    assert len(table["runs"]) >= 20
    assert again["held_out"]["process"] == pytest.approx(table["held_out"]["process"])
    assert table["held_out"]["process"]["within_10"] >= 0.9
    for kind in ("memory", "time"):
        assert again["factors"][kind] == pytest.approx(table["factors"][kind], rel=1e-6, abs=1e-9)
        assert again["held_out"][kind] == pytest.approx(table["held_out"][kind])
    assert table["held_out"]["memory"]["median"] <= 0.10 and table["held_out"]["memory"]["within_20"] >= 0.9
    assert table["held_out"]["time"]["median"] <= 0.10 and table["held_out"]["time"]["p90"] <= 0.20
    assert "within 10" in plan_table.text(table)


def test_devices_are_found_by_any_spelling_and_sizes_have_units():
    assert plan_devices.device("RTX 3090").memory == 24 * 2**30 == plan_devices.device("nvidia rtx3090").memory
    with pytest.raises(UserError, match="did you mean rtx-3090"):
        plan_devices.device("rtx 3091")
    assert plan_devices.memory_bytes("24GB") == 24e9 and plan_devices.memory_bytes("1.5 GiB") == 1.5 * 2**30
    for wrong in ("", "GB", "24 apples", "-3GB", "0GB"):
        with pytest.raises(UserError, match="24GB"):
            plan_devices.memory_bytes(wrong)


@pytest.mark.parametrize("entry", plan_models.OPEN_MODELS, ids=lambda entry: entry.name)
def test_the_table_of_open_models_has_shapes_of_the_size_it_says(entry):
    shape = plan_shape.Shape(
        name=entry.name, config=plan_shape.table_config(entry), tokenizer=None, folder=None, file_bytes=None, source=""
    )
    assert shape.numbers == pytest.approx(entry.billions * 1e9, rel=0.02)


def test_suggestions_are_what_a_rehearsal_of_today_says():
    entry = plan_models.known("huggingfacetb/smollm2-135m")
    way, fresh = next(iter(suggest.rehearse_model(entry)))
    found = suggest.known()[entry.name][way]
    assert found.weights == pytest.approx(fresh.weights, rel=0.01)
    assert found.later_peak == pytest.approx(fresh.later_peak, rel=0.05)


def test_suggest_says_what_fits_a_device_and_what_hours_of_it_buy():
    found = plan(suggest=True, device="rtx-3090", hours=5)
    models = {model["name"]: model for model in found["models"]}
    assert set(models) == {entry.name for entry in plan_models.OPEN_MODELS}
    small, large = models["HuggingFaceTB/SmolLM2-135M"], models["meta-llama/Llama-3.1-70B"]
    assert small["best"] == "full" and large["ways"]["full"]["fits"] == "no"
    way = small["ways"]["lora"]
    assert way["low"] < way["million_tokens"] < way["high"]
    assert "prediction" in plan_text(found) and "Apache-2.0" in plan_text(found)
    twice = plan(suggest=True, device="rtx-3090", hours=10)["models"][0]["ways"]["lora"]["million_tokens"]
    assert twice == pytest.approx(2 * found["models"][0]["ways"]["lora"]["million_tokens"], rel=0.01)
    smaller = plan(suggest=True, device_memory="8GB", device="rtx-3090")["models"]
    assert sum(m["best"] is not None for m in smaller) <= sum(m["best"] is not None for m in found["models"])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = [{"prompt": f"What is {i}?", "response": f"It is the number {i}."} for i in range(40)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = {"objective": "sft", "data": "chats.jsonl", "method": "full"}
    return {"name": "r", "model": "garzone", "stages": [{"a": stage}]}


def test_a_plan_of_the_bundled_model_adds_up_and_says_that_it_is_not_calibrated(here):
    found = plan(here, ["epochs=2"], ways=False, price_per_hour=3.6, currency="USD")
    (stage,) = found["stages"]
    assert (stage["rows"], stage["steps"], found["fits"], found["exit_code"]) == (40, 10, "fits", 0)
    assert sum(stage["memory"]["parts"].values()) == pytest.approx(stage["memory"]["peak"], abs=10)
    assert not found["device"]["calibrated"] and "doctor --calibrate" in found["device"]["note"]
    assert found["wall_low"] < found["wall_seconds"] < found["wall_high"]
    assert (
        found["cost"]["amount"] == pytest.approx(found["wall_seconds"] * 3.6 / 3600)
        and found["cost"]["currency"] == "USD"
    )
    assert "error bar" in plan_text(found) and json.loads(json.dumps(found)) == found


def test_what_cannot_fit_ends_with_exit_6_and_the_changes_that_would_help(here):
    found = plan(here, device_memory="60MB")
    assert found["exit_code"] == 6 and "does not fit in the 60 MB" in found["sentence"]
    assert found["levers"] and found["ways"][0]["fits"] == "no"
    peaks = [lever["peak"] for lever in found["levers"]]
    assert min(peaks) < found["peak_bytes"] and "does not fit" in plan_text(found)
    large = plan(here, ["model=Qwen/Qwen3-8B"], device="rtx-3090", ways=False)
    assert (
        large["exit_code"] == 6 and "table of open models" in large["config"] and large["parameters"] == 8_190_735_360
    )


def test_a_model_that_is_nowhere_is_named(here):
    with pytest.raises(UserError, match="offline"):
        plan(here, ["model=nobody/nothing-7b"], ways=False)


def test_calibration_is_written_where_plan_looks_and_a_damaged_file_is_named(here, tmp_path):
    found = calibrate.calibrate()
    assert calibrate.find(found["device"], found["threads"])["rates"] == found["rates"]
    assert "GFLOP/s" in calibrate.calibrate_text(found)
    assert plan(here, ways=False)["device"]["calibrated"]
    path = tmp_path / "cache" / "bottega" / "calibration.json"
    path.write_text('{"devices": [{"rates": 3}]}')
    with pytest.raises(UserError, match="doctor --calibrate"):
        plan(here, ways=False)


def test_a_dry_run_says_memory_and_time(here, capsys):
    from bottega.core.config import dump_yaml

    with open("r.yaml", "w") as file:
        file.write(dump_yaml(here))
    assert cli.door(["run", "r.yaml", "--dry-run", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "memory " in out and "time " in out and "nothing was done" in out
    assert cli.door(["plan"]) == 2


def test_a_mixture_of_experts_is_refused_with_the_reason():
    from transformers import AutoConfig

    with pytest.raises(UserError, match="mixture of experts"):
        plan_shape.on_meta(AutoConfig.for_model("mixtral", num_hidden_layers=1), "full", {})


def test_a_line_through_two_depths():
    low, high = made_needs(), made_needs(weights=110.0)
    assert deeper(low, high, at=(2, 3), depth=7).weights == 150.0
