"""Reward models and preferences through recipes and `score`: what a user does with pairs (rows A1, A2)."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from bottega.core.errors import UserError
from bottega.grade.preferences import ensemble, pairwise
from bottega.workshop.scores import score, score_text
from bottega.workshop.stages import run
from tests.models.tiny import tiny_model
from tests.workshop.made import jsonl, workshop


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return workshop(tmp_path_factory.mktemp("alignment"))


def recipe(place, objective: str, **keys) -> dict:
    how = {
        "data": str(place / "prefs.jsonl"),
        "method": {"name": "lora", "rank": 4},
        "batch": 8,
        "steps": 8,
        "lr": 3e-3,
    }
    stage = {"objective": objective, **how, **keys}
    return {"name": "r", "model": str(place / "model"), "stages": [{"judge": stage}]}


@pytest.fixture(scope="module")
def judge(place):
    """Steps enough that a tiny model orders pairs whose answers begin differently."""
    folder = place / "judge"
    done = run(recipe(place, "reward", validation=0.2), out=str(folder), quiet=True)
    return folder, done


def test_a_reward_model_is_trained_by_a_recipe_and_says_how_sure_its_accuracy_is(judge):
    _, done = judge
    facts = done.stages["judge"]
    assert facts["eval.accuracy"] >= 5 / 6 and facts["eval.accuracy_low"] < facts["eval.accuracy"]
    assert (done.model / "reward_head.safetensors").is_file()


def test_score_orders_pairs_scores_replies_and_writes_a_file(place, judge):
    folder, _ = judge
    out = place / "rewards.jsonl"
    result = score(str(folder), str(place / "prefs.jsonl"), out=str(out), quiet=True)
    assert result["kind"] == "pairs" and result["scores"]["accuracy"] > 0.9 and result["scores"]["pairs"] == 30
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 30 and lines[0].keys() == {"row", "chosen", "rejected"}
    assert "accuracy" in score_text(result) and "prefs.jsonl:1" in score_text(result)
    said = jsonl(place / "said.jsonl", [{"prompt": "Number 3", "completion": "Gladly: 3"}])
    alone = score(str(folder), str(said), quiet=True)
    assert alone["kind"] == "replies"
    assert alone["rows"][0]["reward"] == pytest.approx(lines[3]["chosen"], abs=1e-4)  # the same reply, in a pair or not


@pytest.mark.parametrize("method", [{"name": "lora", "rank": 4}, "full"], ids=["lora", "full"])
def test_an_encoder_can_judge_too_pairs_by_score_and_the_answers_of_a_decoder(place, tmp_path, method):
    """Its reward reads the mean of the states; what guesses hidden tokens rests, and its prompt is computed for each reply."""
    encoder = tiny_model("bert", tmp_path / "bert")
    plan = {**recipe(place, "reward", validation=0.2, method=method, steps=10), "model": str(encoder)}
    done = run(plan, out=str(tmp_path / "judge"), quiet=True)
    assert done.stages["judge"]["eval.accuracy"] >= 5 / 6
    result = score(str(tmp_path / "judge"), str(place / "prefs.jsonl"), quiet=True)
    assert result["scores"]["accuracy"] > 0.9 and result["scores"]["pairs"] == 30
    learn = {
        "objective": "grpo", "data": str(place / "prefs.jsonl"), "steps": 1, "batch": 2, "rollout": {"max_tokens": 4},
        "rewards": [{"name": "model", "path": str(tmp_path / "judge")}],
    }  # fmt: skip
    run({"name": "g", "model": str(place / "model"), "stages": [{"learn": learn}]}, out=tmp_path / "g", quiet=True)
    (line,) = (json.loads(one) for one in next((tmp_path / "g").glob("stages/*/rounds.jsonl")).read_text().splitlines())
    assert line["rewards"]["model"]["spread"] > 0


def test_an_encoder_decoder_as_a_reward_model_is_refused(place, tmp_path):
    plan = {**recipe(place, "reward"), "model": str(tiny_model("t5", tmp_path / "t5"))}
    with pytest.raises(UserError, match="whose reward head is not built; use a decoder or an encoder"):
        run(plan, out=str(tmp_path / "judge"), quiet=True)


def test_an_ensemble_gives_a_mean_and_how_far_its_models_disagree(place, judge):
    other = place / "other"
    run({**recipe(place, "reward"), "seed": 5}, out=str(other), quiet=True)
    both = score([str(judge[0]), str(other)], str(place / "prefs.jsonl"), quiet=True)
    assert all(row["spread"] > 0 for row in both["rows"]) and both["scores"]["accuracy"] > 0.9
    twice = score([str(judge[0]), str(judge[0])], str(place / "prefs.jsonl"), quiet=True)
    assert all(row["spread"] == 0 for row in twice["rows"])


def test_accuracy_loss_and_calibration_by_hand():
    """Leads 2, 1, -1: losses 0.126928, 0.313262, 1.313262. Confidences 0.8808, 0.7311, 0.7311 lie in the bins from 0.8 and 0.7:
    1 of 1 right and 1 of 2, so the error is (1 * |1 - 0.8808| + 2 * |0.5 - 0.7311|) / 3 = 0.193772."""
    found = pairwise([2.0, 1.0, -1.0])
    assert found["accuracy"] == pytest.approx(2 / 3) and found["loss"] == pytest.approx(0.584484, abs=1e-5)
    assert found["calibration_error"] == pytest.approx(0.193772, abs=1e-4) and found["low"] < 2 / 3 < found["high"]
    assert pairwise([0.0, 0.0])["accuracy"] == 0.5 and pairwise([0.0])["loss"] == pytest.approx(math.log(2))
    mean, spread = ensemble(np.array([[1.0, 3.0], [10.0, 16.0]]))  # shifted: -1, 1 and -3, 3
    assert mean.tolist() == [-2.0, 2.0] and spread.tolist() == [1.0, 1.0]


def test_kto_learns_from_pairs_and_from_answers_with_a_label(place):
    facts = run(recipe(place, "kto", validation=0.2), out=str(place / "kto-pairs"), quiet=True).stages["judge"]
    assert facts["eval.loss"] < 0.5 and facts["eval.liked"] > facts["eval.disliked"]  # at the start 0.5, 0 and 0
    liked = [{"prompt": f"Number {i}", "completion": f"Gladly: {i}", "label": True} for i in range(9)]
    disliked = [{"prompt": f"Number {i}", "completion": f"No, not {i}", "label": False} for i in range(9)]
    file = jsonl(place / "labels.jsonl", liked + disliked)
    facts = run(recipe(place, "kto", data=str(file), steps=2), out=str(place / "kto"), quiet=True).stages["judge"]
    assert facts["steps"] == 2
    alone = jsonl(place / "liked.jsonl", liked)
    with pytest.raises(UserError, match="all 9 answers are liked"):
        run(recipe(place, "kto", data=str(alone)), out=str(place / "kto-bad"), quiet=True)


def test_bad_inputs_are_named_with_the_remedy(place, judge):
    same = jsonl(place / "same.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}])
    with pytest.raises(UserError, match="chosen and rejected are the same"):
        run(recipe(place, "reward", data=str(same)), out=str(place / "bad"), quiet=True)
    with pytest.raises(UserError, match="has no reward head"):
        score(str(place / "model"), str(place / "prefs.jsonl"), quiet=True)
    with pytest.raises(UserError, match="there is no column .chosen."):
        mixed = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "completion": "b"}]
        score(str(judge[0]), str(jsonl(place / "mixed.jsonl", mixed)), quiet=True)
