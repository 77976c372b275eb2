"""`bottega search`: what is drawn, which trial is ended early, and searches of real runs on a tiny model."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bottega.core import rundir
from bottega.core.errors import Mismatch, UserError
from bottega.grade.intervals import crossed, student, t_quantile
from bottega.workshop.search import search, search_text
from bottega.workshop.search_space import axis, draws, ways
from bottega.workshop.search_table import tensor_bytes
from bottega.workshop.search_trials import hopeless
from tests.workshop.made import jsonl, workshop

RECIPE = """
name: s
model: model
seed: 3
stages:
  - sft: {objective: sft, data: chats.jsonl, method: {name: lora, rank: 4}, steps: 4, batch: 4, validation: 0.2,
          eval_every: 2, lr: 1e-3, self_check: 0}
evaluate: {tasks: [near.yaml]}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    workshop(tmp_path)
    rows = [{"prompt": f"What is {i} plus {i}?", "answer": f"It is {2 * i}."} for i in range(6)]
    jsonl(tmp_path / "near.jsonl", rows)
    (tmp_path / "near.yaml").write_text("name: near\nkind: perplexity\nmetric: loss\ndata: near.jsonl\n")
    (tmp_path / "s.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_draws_stay_inside_are_spread_in_the_logarithm_and_do_not_change_when_more_follow():
    axes = [axis("lr=1e-5..1e-3"), axis("method.rank=4,8,16"), axis("batch=2..9"), axis("warmup=0..0.1")]
    many = draws(axes, trials=400, seed=1)
    assert draws(axes, trials=5, seed=1) == many[:5]
    assert all(1e-5 <= one["lr"] <= 1e-3 and one["method.rank"] in (4, 8, 16) for one in many)
    assert {type(one["batch"]) for one in many} == {int} and {one["batch"] for one in many} == set(range(2, 10))
    below = sum(one["lr"] < 1e-4 for one in many) / len(many)
    assert 0.4 < below < 0.6, "half of the draws lie below the geometric middle"
    assert sum(one["warmup"] < 0.05 for one in many) / len(many) == pytest.approx(0.5, abs=0.1)
    assert draws(axes, trials=5, seed=2) != many[:5]


def test_a_grid_visits_every_combination():
    found = draws([axis("lr=1e-4..1e-2/3"), axis("method=[lora, {name: lora, rank: 2}]")], trials=None, seed=0)
    assert [one["lr"] for one in found] == [1e-4, 1e-4, 1e-3, 1e-3, 1e-2, 1e-2]
    assert found[1]["method"] == {"name": "lora", "rank": 2}


@pytest.mark.parametrize(
    "text, said",
    [
        ("lr", "KEY=VALUES"),
        ("lr=1e-3..1e-5", "smaller end first"),
        ("lr=a..b", "is no number"),
        ("batch=x0.5..x2", "for lr only"),
        ("lr=x1,2", "all of them factors"),
    ],
)
def test_what_is_no_range_is_named(text, said):
    with pytest.raises(UserError, match=said):
        axis(text)


def test_a_grid_of_a_range_without_points_and_a_key_twice_are_refused():
    with pytest.raises(UserError, match=r"1e-05..0.001/4"):
        draws([axis("lr=1e-5..1e-3")], trials=None, seed=0)
    with pytest.raises(UserError, match="twice"):
        draws([axis("lr=1,2"), axis("lr=3,4")], trials=None, seed=0)


def test_methods_are_names_or_mappings_and_the_recipes_own_keeps_its_options():
    one, two = ways("lora, {name: adapter, kind: parallel}", "lora")
    assert (one.label, one.options) == ("lora", None)
    assert (two.label, two.options) == ("adapter(kind=parallel)", {"kind": "parallel"})
    with pytest.raises(UserError, match="twice"):
        ways("lora,lora", "full")


def test_a_trial_is_hopeless_when_its_best_is_worse_than_the_median_of_what_others_had_reached():
    """By their second evaluation the others had reached 1, 2 and 3 (median 2), whatever they reach later."""
    others = [[5.0, 1.0, 0.1], [2.0, 9.0, 0.1], [4.0, 3.0, 0.1]]
    assert hopeless([3.0, 2.5], others, 1) and not hopeless([3.0, 2.0], others, 1)
    assert not hopeless([9.0], others, 1), "not at its first evaluation"
    assert not hopeless([9.0, 9.0], others[:2], 1), "not before three are done"
    assert hopeless([0.1, 0.2], [[0.3, 0.5], [0.4, 0.6], [0.1, 0.9]], -1), "larger is better"


def test_students_interval_has_the_tables_quantiles():
    """97.5 percent: 12.706, 4.303, 3.182, 2.571 and 2.228 for 1, 2, 3, 5 and 10 degrees of freedom."""
    for freedom, value in ((1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042)):
        assert t_quantile(0.975, freedom) == pytest.approx(value, abs=6e-4)
    found = student([1.0, 2.0, 3.0])
    assert (found.value, found.low) == (2.0, pytest.approx(2 - 4.3027 / math.sqrt(3), abs=1e-3))
    assert student([1.0]).low == -math.inf


def test_the_interval_over_runs_and_items_holds_the_truth_about_as_often_as_it_says():
    """Runs differ by N(0, 0.3), items by N(0, 1): 95 percent intervals over 8 runs and 40 items hold the mean in 88 to 100 of 100."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(60):
        values_SN = rng.normal(0, 0.3, (8, 1)) + rng.normal(0, 1, (1, 40)) + rng.normal(0, 0.5, (8, 40))
        found = crossed(values_SN, seed=0)
        held += found.low <= 0 <= found.high
    assert 53 <= held <= 60
    weights = np.array([1.0, 3.0])
    assert crossed(np.array([[1.0, 2.0]]), weights, seed=0).value == pytest.approx(7 / 4)


def test_a_search_with_a_diverging_trial_ends_with_9_names_it_and_goes_on_without_work(place):
    found = search("s.yaml", over=["lr=1e-3,1e30"], quiet=True)
    states = {one["name"]: one["state"] for one in found["trials"]}
    assert states == {"001-seed3": "done", "002-seed3": "failed"} and found["exit_code"] == 9
    assert "loss nan" in found["trials"][1]["reason"]
    group = found["groups"][0]
    assert group["settings"] == {"lr": 1e-3} and group["low"] is None
    run = place / "runs" / "s-search" / "trials" / "001-seed3"
    assert group["value"] == rundir.read_json(run / "result.json")["stages"]["sft"]["eval.loss"]
    assert group["optimizer_bytes"] == group["trainable"] * 8 + 28 * 4, (
        "two numbers for each that learns, a count a tensor"
    )
    assert group["weight_bytes"] == sum(p.stat().st_size for p in run.rglob("result/*.safetensors"))
    assert group["flops"] > 0 and group["rows"] == 16 and group["peak_mb"] > 100
    near = found["tasks"]["near"]
    assert set(near) == {"untrained", ""} and near[""]["n"] == 6 and near[""]["low"] < near[""]["value"]
    text = search_text(found)
    assert "failed: 002-seed3" in text and "1 trials done, 0 ended early, 1 failed" in text
    again = search("s.yaml", over=["lr=1e-3,1e30"], quiet=True)
    assert again == found
    with pytest.raises(Mismatch, match="another over"):
        search("s.yaml", over=["lr=1e-3,1e-4"], quiet=True)


@pytest.mark.parametrize(
    "options, said",
    [
        ({}, "say what to try"),
        ({"over": ["lr=1,2"], "stage": "stf"}, "did you mean"),
        ({"over": ["seed=1,2"]}, "--seeds"),
        ({"over": ["method=lora,full"], "methods": "lora"}, "--methods"),
        ({"methods": "lora,full", "trials": 3}, "there is none"),
        ({"methods": "lora,fulll"}, "fulll"),
        ({"over": ["rnak=1,2"]}, "rnak"),
    ],
)
def test_mistakes_are_found_before_anything_runs(place, options, said):
    with pytest.raises(UserError, match=said):
        search("s.yaml", quiet=True, **options)
    assert not (place / "runs" / "s-search" / "trials").exists()


def test_a_stage_without_held_out_rows_cannot_be_searched(place):
    with pytest.raises(UserError, match="validation: 0.1"):
        search("s.yaml", ["validation=null"], over=["lr=1,2"], quiet=True)


def test_bytes_of_tensors_leave_out_the_header(tmp_path):
    from safetensors.numpy import save_file

    save_file({"a": np.zeros((3, 5), np.float32), "b": np.zeros(7, np.float64)}, tmp_path / "x.safetensors")
    assert tensor_bytes(tmp_path / "x.safetensors") == 3 * 5 * 4 + 7 * 8


@pytest.mark.slow
def test_methods_are_compared_on_the_same_rows_each_with_its_own_rate_and_size(place):
    found = search("s.yaml", methods="lora,full,ia3", over=["lr=x1,x3"], seeds=(3, 4), quiet=True)
    assert found["exit_code"] == 0 and [one["group"] for one in found["groups"]] == ["lora", "full", "ia3"]
    here = place / "runs" / "s-search" / "trials"
    rates, orders = {}, set()
    for name in ("001-lora-seed3", "001-full-seed3", "001-ia3-seed3", "002-ia3-seed3"):
        text = (here / name / "recipe.yaml").read_text()
        rates[name] = float(text.split(" lr: ")[1].split()[0])
        orders.add((here / name / "stages" / "01-sft" / "rows.keys").read_bytes())
    assert list(rates.values()) == pytest.approx([1e-3, 2e-5, 3e-3, 9e-3]) and len(orders) == 1
    lora, full, ia3 = found["groups"]
    assert full["trainable"] > lora["trainable"] > ia3["trainable"] and full["weight_bytes"] > 5 * lora["weight_bytes"]
    assert lora["seeds"] == [3, 4] and lora["low"] < lora["value"] < lora["high"]
    assert lora["rows"] == full["rows"] == ia3["rows"]
    near = found["tasks"]["near"]
    assert near["lora"]["against"] is None and near["full"]["against"]["low"] <= near["full"]["against"]["high"]
    assert "near: full against lora" in search_text(found)


@pytest.mark.slow
def test_a_killed_search_goes_on_within_its_trial_and_its_choice_is_the_same(place):
    words = [
        "search",
        "s.yaml",
        "steps=40",
        "save_every=2",
        "--over",
        "lr=1e-3,1e-2",
        "--no-prune",
        "--json",
        "--quiet",
    ]
    whole = search(
        "s.yaml", ["steps=40", "save_every=2"], over=["lr=1e-3,1e-2"], prune=False, out="runs/whole", quiet=True
    )
    child = subprocess.Popen([sys.executable, "-m", "bottega.cli", *words, "--out", "runs/cut"], env=os.environ)
    log = place / "runs" / "cut" / "trials" / "001-seed3" / "stages" / "01-sft" / "metrics.jsonl"
    while not (log.is_file() and log.read_text().count("\n") > 4):
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGTERM)
    assert child.wait() == 143
    known = json.loads((place / "runs" / "cut" / "search.json").read_text())["trials"]
    assert known[0]["state"] == "stopped"
    done = subprocess.run(
        [sys.executable, "-m", "bottega.cli", *words, "--out", "runs/cut"], capture_output=True, check=True
    )
    found = json.loads(done.stdout)
    assert [one["value"] for one in found["trials"]] == [one["value"] for one in whole["trials"]]
    assert len(json.loads((place / "runs/cut/trials/001-seed3/host.json").read_text())["sessions"]) == 2


@pytest.mark.slow
def test_a_bad_trial_is_ended_early_and_a_budget_that_ends_is_9(place):
    rates = ["lr=1e-3,2e-3,3e-3,1e-9"]
    found = search("s.yaml", ["steps=400", "eval_every=4", "evaluate=null"], over=rates, quiet=True)
    last = found["trials"][3]
    assert last["state"] == "pruned" and "worse than the median" in last["reason"] and found["exit_code"] == 0
    steps = len(rundir.read_jsonl(place / "runs/s-search/trials/004-seed3/stages/01-sft/metrics.jsonl"))
    assert steps < 400
    cut = search("s.yaml", ["steps=400"], over=rates, minutes=random.uniform(0.01, 0.02), out="runs/short", quiet=True)
    assert cut["exit_code"] == 9 and "budget ended" in cut["ended"] and cut["groups"] == []
    assert {one["state"] for one in cut["trials"]} == {"stopped", "new"}
