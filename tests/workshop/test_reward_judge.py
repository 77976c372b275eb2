"""A model that is asked what an answer is worth, as a reward: behind an endpoint and on this machine (row A5).

Left out: what a verdict's words mean (bottega/grade/judge.py), how endpoints fail (tests/models/test_remote.py).
"""

from __future__ import annotations

import re

import pytest

from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.grade.rewards import Answer
from bottega.workshop.reward_judge import reward_judge
from bottega.workshop.stages import run
from tests.models.endpoint import Endpoint
from tests.workshop.made import jsonl, workshop


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = workshop(tmp_path_factory.mktemp("judged"))
    jsonl(made / "ask.jsonl", [{"prompt": f"What is {i} plus 1?", "answer": str(i + 1)} for i in range(12)])
    return made


def taste(request) -> str:
    """A judge that counts the answer's letters e; it says a word where there is no answer."""
    reply = request["messages"][-1]["content"].partition("Answer:\n")[2]
    return f"Score: {min(10, reply.count('e'))}" if reply.strip() else "I cannot say"


def test_an_endpoint_is_asked_once_about_each_answer_and_its_number_is_the_reward():
    asked = [Answer(prompt="Say it.", reply=reply) for reply in ("eeee", "none", "eeee", "e" * 30, " ")]
    with Endpoint(taste) as server:
        score = reward_judge(model=f"{server.url}#critic")
        assert score(asked) == [0.4, 0.1, 0.4, 1.0, None]
        assert score(asked[:2]) == [0.4, 0.1] and len(server.requests) == 4
        assert all(one["temperature"] == 0 and one["model"] == "critic" for one in server.requests)
    assert "from 0 (useless) to 10" in server.requests[0]["messages"][-1]["content"]


def test_the_question_can_be_another_and_shows_columns_and_the_truth():
    """A reply that looks like a hole is not filled."""
    with Endpoint(lambda request: "YES" if "truth=4" in request["messages"][-1]["content"] else "no") as server:
        score = reward_judge(model=f"{server.url}#critic", ask="{{ prompt }} truth={{answer}} {{ topic }}: {{ reply }}")
        rows = [Answer(prompt="2+2", reply="{{ answer }}", truth=truth, row={"topic": "sums"}) for truth in (4, 5)]
        assert score(rows) == [1.0, 0.0]
        asked = {
            request["messages"][-1]["content"] for request in server.requests
        }  # at once, so that any may come first
        assert asked == {f"2+2 truth={truth} sums: {{{{ answer }}}}" for truth in (4, 5)}
        with pytest.raises(UserError, match=r"asks with \{\{ topic \}\}, which the row of '2\+2' does not have"):
            score([Answer(prompt="2+2", reply="4", truth=4)])


def test_a_judge_that_cannot_be_asked_is_named():
    for options, said in (
        ({"model": "http://127.0.0.1:9/v1#x", "low": 1.0, "high": 1.0}, "low must be below high"),
        ({"model": "http://127.0.0.1:9/v1#x", "ask": "How good?"}, "does not show the answer"),
        ({"model": "http://127.0.0.1:9/v1"}, "does not say which of its models"),
    ):
        with pytest.raises(UserError, match=said):
            reward_judge(**options)
    with Endpoint(script=("401",)) as server, pytest.raises(UserError, match="401"):
        reward_judge(model=f"{server.url}#critic")([Answer(prompt="?", reply="!")])


def recipe(folder, rewards, **more) -> dict:
    stage = {
        "objective": "grpo", "data": str(folder / "ask.jsonl"), "method": {"name": "lora", "rank": 8}, "batch": 2,
        "rollout": {"max_tokens": 8, "cut_steps": 999, "max_kl": 1e9}, "lr": 1e-2, "rewards": rewards, **more,
    }  # fmt: skip
    return {"name": "j", "model": str(folder / "model"), "seed": 1, "stages": [{"learn": stage}]}


def rounds(out) -> list[dict]:
    return rundir.read_jsonl(next(out.glob("stages/*/rounds.jsonl")))


def digits(request) -> str:
    return str(min(10, len(re.findall(r"\d", request["messages"][-1]["content"]))))


def test_a_model_behind_an_endpoint_and_one_of_this_machine_judge_a_run(folder, tmp_path):
    """A tiny random model says no number, which is counted as no opinion, and another reward goes on."""
    with Endpoint(digits) as server:
        judge = {"name": "judge", "model": f"{server.url}#critic", "ask": "{{ reply }}"}
        run(recipe(folder, [judge], steps=1), out=tmp_path / "a", quiet=True)
        (first,) = rounds(tmp_path / "a")
        assert first["rewards"]["judge"]["unknown"] == 0 and 0 < len(server.requests) <= 16
    rewards = [
        {"name": "judge", "model": str(folder / "model"), "ask": "{{ reply }}?"},
        {"name": "length", "target": 4},
    ]
    run(recipe(folder, rewards, steps=1), out=tmp_path / "b", quiet=True)
    (first,) = rounds(tmp_path / "b")
    assert first["rewards"]["judge"]["unknown"] > 0 and first["rewards"]["length"]["unknown"] == 0


@pytest.mark.slow
def test_a_run_learns_what_its_judge_likes(folder, tmp_path):
    with Endpoint(digits) as server:
        judge = {"name": "judge", "model": f"{server.url}#critic", "ask": "{{ reply }}"}
        run(recipe(folder, [judge], steps=30), out=tmp_path / "a", quiet=True)
    means = [one["rewards"]["judge"]["mean"] for one in rounds(tmp_path / "a")]
    assert sum(means[-5:]) > sum(means[:5]) + 0.2, means
