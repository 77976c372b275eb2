"""Rewards of steps: rows and loss by hand, a model that tells right steps from wrong ones by recipe, and its use (row A1).

Left out: answers judged as a whole (test_reward.py).
"""

from __future__ import annotations

import doctest
import json
import math

import pytest
import torch

from bottega.core.errors import UserError
from bottega.core.types import Labelled, Targets
from bottega.data import steps as data
from bottega.data.formats import detect, samples
from bottega.grade.rewards import Answer
from bottega.models.layout import lay
from bottega.models.load import load
from bottega.train.objectives import reward as objective
from bottega.train.objectives.reward import process_reward
from bottega.train.reward_scores import load_reward
from bottega.workshop import recipe
from bottega.workshop.reward_steps import reward_steps
from bottega.workshop.scores import score
from bottega.workshop.stages import run
from tests.models.tiny import tiny_model
from tests.workshop.made import jsonl, workshop


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = workshop(tmp_path_factory.mktemp("steps"))
    rows = [
        {
            "prompt": f"Count from {i}.",
            "steps": [f"yes {i}", f"no {i + 1}", f"yes {i + 2}"][: 1 + i % 3],
            "labels": [True, False, True][: 1 + i % 3],
        }
        for i in range(48)
    ]
    jsonl(folder / "steps.jsonl", rows)
    return folder


def stage(place, **more) -> dict:
    return {
        "objective": "process_reward", "data": str(place / "steps.jsonl"), "method": {"name": "lora", "rank": 8}, "steps": 20,
        "batch": 8, "lr": 5e-3, "validation": 0.2, **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def judge(place):
    done = run(
        {"name": "p", "model": str(place / "model"), "stages": [{"judge": stage(place)}]}, out=place / "p", quiet=True
    )
    return done


def test_steps_are_right_or_wrong_by_hand():
    """Rewards 0, 2 and -1 of steps that are right, wrong and right: log 2 + log(1 + e^2) + log(1 + e) = 4.133337; one of three is
    said rightly at most: 0 is not above 0, 2 is said of a wrong one, -1 of a right one."""
    none = torch.zeros(0)
    targets = Targets(
        labels_S=none,
        weights_S=torch.ones(3),
        sequence_S=none,
        row_Q=none,
        tokens={"label": torch.tensor([1.0, 0.0, 1.0])},
    )
    terms, sums = process_reward({"step_reward": torch.tensor([0.0, 2.0, -1.0])}, targets)
    assert float(terms["steps"].total) == pytest.approx(math.log(2) + math.log1p(math.e**2) + math.log1p(math.e))
    assert float(sums["accuracy/tokens"]) == 0 and float(sums["right/tokens"]) == 2
    assert doctest.testmod(objective).failed == 0 and doctest.testmod(data).failed == 0


def test_a_file_of_steps_is_known_and_bad_rows_are_named(tmp_path, place):
    (sample, *_) = samples([str(place / "steps.jsonl")])
    assert isinstance(sample, Labelled) and sample.words == ("yes 0",) and sample.label == ("True",)
    assert detect([{"prompt": "a", "completions": ["b"], "labels": [True]}]) == "steps"
    bad = [{"prompt": "a", "steps": ["b"], "labels": [True, False]}, {"prompt": "a", "steps": ["b"], "labels": ["yes"]}]
    problems = [str(one) for one in samples([str(jsonl(tmp_path / "bad.jsonl", bad))])]
    assert "as many labels" in problems[0] and "true or false" in problems[1]


def test_a_label_stands_at_the_last_token_of_its_step_packed_or_padded_alike(place):
    """And a step's reward does not depend on what follows it: the first of two is the same alone."""
    tokenizer = load(place / "model").tokenizer
    row = data.step_row(0, [5, 6], ["yes 1", "no 22"], [1.0, 0.0], tokenizer)
    ends = [at for at, weight in enumerate(row.branches[0].trains) if weight]
    assert [tokenizer.decode([row.branches[0].ids[at]]) for at in ends] == ["\n", "\n"] and ends[-1] == len(
        row.branches[0].ids
    ) - 1
    for packed in (True, False):
        layout, targets = lay([row], packed=packed)
        flat = layout.ids_BT.reshape(-1)[layout.at_S]
        assert flat.tolist() == [row.branches[0].ids[at] for at in ends]
        assert targets.tokens["label"].tolist() == [1.0, 0.0]


def test_a_recipe_tells_right_steps_from_wrong_ones_and_the_least_sure_step_is_the_answer_s_reward(place, judge):
    assert judge.stages["judge"]["eval.accuracy"] > 0.9
    asked = [Answer(prompt="Count from 7.", reply=reply) for reply in ("yes 7\nyes 8", "yes 7\nno 8\nyes 9", "\n")]
    least = reward_steps(path=str(judge.model))(asked)
    assert least[0] > 0.5 > least[1] and least[2] is None
    first = reward_steps(path=str(judge.model))([Answer(prompt="Count from 7.", reply="yes 7")])[0]
    parts = {
        how: reward_steps(path=str(judge.model), reduce=how)(asked)[1] for how in ("min", "mean", "last", "product")
    }
    assert parts["product"] < parts["min"] == least[1] < parts["mean"] and parts["min"] <= parts["last"]
    alone = load_reward(str(judge.model)).steps([])
    assert alone == [] and first > 0.5


def test_it_is_a_reward_of_a_stage_and_no_judge_of_whole_replies(place, judge, tmp_path):
    rewards = [{"name": "steps", "path": str(judge.model)}, {"name": "length", "target": 3}]
    prompts = jsonl(tmp_path / "ask.jsonl", [{"prompt": f"Count from {i}."} for i in range(6)])
    learn = {"objective": "grpo", "data": str(prompts), "steps": 1, "batch": 2, "rollout": {"max_tokens": 6}}
    plan = {"name": "g", "model": str(place / "model"), "stages": [{"learn": {**learn, "rewards": rewards}}]}
    run(plan, out=tmp_path / "g", quiet=True)
    line = json.loads(next((tmp_path / "g").glob("stages/*/rounds.jsonl")).read_text().splitlines()[0])
    assert 0 < line["rewards"]["steps"]["mean"] < 1
    plan["stages"][0]["learn"]["rewards"] = [{"name": "model", "path": str(judge.model)}]
    with pytest.raises(UserError, match="judges steps .objective process_reward.: use the reward `steps`"):
        run(plan, out=tmp_path / "h", quiet=True)
    with pytest.raises(UserError, match="judges steps"):
        score(str(judge.model), str(place / "prefs.jsonl"), quiet=True)
    named = {**learn, "start": "judge", "rewards": [{"name": "model", "stage": "judge"}]}
    tree = {"name": "t", "model": "garzone", "stages": [{"judge": stage(place)}, {"learn": named}]}
    with pytest.raises(UserError, match="the stage judge is process_reward and makes no reward model"):
        recipe.load(tree)


def test_models_that_see_what_follows_a_step_are_refused(place, tmp_path):
    plan = {"name": "p", "model": str(tiny_model("bert", tmp_path / "bert")), "stages": [{"judge": stage(place)}]}
    with pytest.raises(UserError, match="holds an encoder, which writes no answers"):
        run(plan, out=tmp_path / "p", quiet=True)
