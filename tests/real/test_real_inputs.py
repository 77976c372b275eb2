"""The recipes for real inputs, run on a tiny random model: held-out losses fall, and every row is accounted for.

Left out: scores worth having; what the recipes give on the bundled base is in the head of each, measured and dated.
Each test skips, by name, where its data does not lie beside the checkout.
"""

from __future__ import annotations

import json
import math
from itertools import islice
from pathlib import Path

import pytest

from bottega import cli
from bottega.core import rundir

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def head(path: Path, out: Path, rows: int) -> Path:
    """The first rows of a jsonl file, as a file of their own."""
    with path.open(encoding="utf-8") as lines:
        out.write_text("".join(islice(lines, rows)), encoding="utf-8")
    return out


def run(recipe: str, out: Path, *overrides: str) -> tuple[list[dict], dict]:
    """Run a recipe through the door; the evaluations of its one stage, and its intake."""
    assert cli.door(["run", str(RECIPES / recipe), *overrides, "--out", str(out)]) == 0
    stage = next((out / "stages").iterdir())
    losses = [line for line in rundir.read_jsonl(stage / "metrics.jsonl") if "eval.loss" in line]
    return losses, json.loads((stage / "intake.json").read_text())


def falls(lines: list[dict]) -> bool:
    return len(lines) >= 2 and lines[-1]["eval.loss"] < lines[0]["eval.loss"]


def test_gsm8k_is_tuned_from_its_own_columns_and_its_held_out_loss_falls(model, shared_data, tmp_path, capsys):
    data = head(shared_data("gsm8k/train.jsonl"), tmp_path / "problems.jsonl", 60)
    settings = [f"data.0.path={data}", f"model={model}", "steps=12", "batch=4", "eval_every=4", "validation=0.1"]
    losses, intake = run("gsm8k.yaml", tmp_path / "run", *settings)
    assert falls(losses), losses
    assert intake["read"] + intake["validation"][0]["read"] == 60
    assert intake["taken"] + sum(intake["dropped"].values()) == intake["read"]
    said = capsys.readouterr().err
    assert f"{intake['read']} read, {intake['taken']} taken" in said and "longer than max_tokens 512" in said


def test_hh_rlhf_is_aligned_by_dpo_and_its_held_out_loss_falls(model, shared_data, tmp_path, capsys):
    """Before the first step both sides are as likely as in the reference, so the loss starts at ln 2 = 0.6931.

    40 held-out pairs are few and the model is random: this pins that rows are accounted for and that what is learnt reaches rows
    kept out, not that preferences were understood (docs/LOG.md has other splits, and failures). The first stage hardly moves.
    """
    data = head(shared_data("hh_rlhf/pairs.jsonl"), tmp_path / "pairs.jsonl", 200)
    places = [f"{key}={data}" for key in ("warm.data.0.path", "warm.validation.0.path", "align.data")]
    warm = ["warm.steps=1", "warm.lr=1e-7", "warm.validation=null", "warm.eval_every=null"]
    align = ["align.steps=12", "align.eval_every=6", "align.lr=2e-4", "align.validation=0.2", "align.allow_loss=1"]
    words = [
        "run",
        str(RECIPES / "hh-dpo.yaml"),
        *places,
        *warm,
        *align,
        f"model={model}",
        "--out",
        str(tmp_path / "run"),
    ]
    assert cli.door(words) == 0
    stage = tmp_path / "run" / "stages" / "02-align"
    losses = [line for line in rundir.read_jsonl(stage / "metrics.jsonl") if "eval.loss" in line]
    assert falls(losses) and losses[-1]["eval.loss"] < math.log(2) - 0.005, losses
    intake = json.loads((stage / "intake.json").read_text())
    lost = sum(intake["bad"].values()) + sum(intake["dropped"].values())
    assert intake["read"] + intake["validation"][0]["read"] == 200 and intake["taken"] + lost == intake["read"]
    assert f"{intake['read']} read" in capsys.readouterr().err


def test_a_reward_model_learns_from_hh_rlhf_and_says_its_held_out_accuracy_with_an_interval(
    model, shared_data, tmp_path, capsys
):
    """Nothing about the accuracy is pinned: a random tiny model and 16 held-out pairs say nothing about it."""
    data = head(shared_data("hh_rlhf/pairs.jsonl"), tmp_path / "pairs.jsonl", 80)
    keys = ("warm.data.0.path", "warm.data.1.path", "judge.data")
    words = ["run", str(RECIPES / "hh-reward.yaml"), *(f"{key}={data}" for key in keys), "warm.steps=1", "warm.lr=1e-7"]
    words += ["judge.steps=3", "judge.eval_every=3", "judge.batch=4", "judge.validation=0.2", "judge.allow_loss=1"]
    assert cli.door([*words, f"model={model}", "--out", str(tmp_path / "run")]) == 0
    facts = json.loads((tmp_path / "run" / "stages" / "02-judge" / "stage.json").read_text())
    assert facts["eval.accuracy_low"] <= facts["eval.accuracy"] <= facts["eval.accuracy_high"]
    assert "accuracy on " in capsys.readouterr().err
    assert (
        cli.door(["score", str(tmp_path / "run"), str(data), "--max-tokens", "512", "--allow-loss", "2", "--json"]) == 0
    )
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert scores["pairs"] >= 30 and scores["low"] <= scores["accuracy"] <= scores["high"]


def test_ppo_answers_hh_rlhf_s_prompts_with_a_reward_model_of_its_pairs_on_the_same_base(
    model, shared_data, tmp_path, capsys
):
    """The file goes in as it is: text, pairs and prompts are read from it. Nothing is pinned of the rewards but that they are told."""
    data = head(shared_data("hh_rlhf/pairs.jsonl"), tmp_path / "pairs.jsonl", 60)
    keys = ("warm.data.0.path", "warm.data.1.path", "judge.data", "ppo.data")
    words = ["run", str(RECIPES / "hh-ppo.yaml"), *(f"{key}={data}" for key in keys), "warm.steps=1", "warm.lr=1e-7"]
    words += ["judge.steps=3", "judge.eval_every=3", "judge.batch=4", "judge.validation=0.2", "judge.allow_loss=1"]
    words += ["ppo.steps=4", "ppo.eval_every=4", "ppo.batch=2", "ppo.validation=0.1", "ppo.allow_loss=1"]
    words += ["ppo.rollout.prompts=4", "ppo.rollout.max_tokens=6"]
    assert cli.door([*words, f"model={model}", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().err
    assert "accuracy on " in said and "an adapter on the policy's base, which lies in memory once" in said
    lines = rundir.read_jsonl(tmp_path / "run" / "stages" / "03-ppo" / "metrics.jsonl")
    assert len(lines) == 4 and all(math.isfinite(line["reward"]) and line["kl"] < 1.0 for line in lines)
    assert "eval.reward" in lines[-1]


@pytest.mark.parametrize("name", ["phoenix.md", "phoenix.pdf"])
def test_a_document_is_read_on_and_the_loss_of_its_held_out_passages_falls(model, shared_data, tmp_path, name, capsys):
    data = shared_data(f"documents/{name}")
    settings = [f"data={data}", f"model={model}", "steps=10", "batch=4", "eval_every=5"]
    losses, intake = run("phoenix.yaml", tmp_path / "run", *settings)
    assert falls(losses), losses
    assert intake["cut"] == intake["read"] and intake["tokens_lost"] == 0 and intake["rows"]["validation"] > 0
    assert "windows added" in capsys.readouterr().err
