"""Models behind an endpoint, scored and compared against a real HTTP server."""

from __future__ import annotations

import json

import pytest

from bottega import cli
from tests.models.endpoint import Endpoint

TASK = """
name: sums
kind: generation
chat: {chat}
rows:
  - {{prompt: "2", answer: "you said: 2"}}
  - {{prompt: "3", answer: "four"}}
"""


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "sums.yaml"
    path.write_text(TASK.format(chat="true"))
    return str(path)


def test_eval_asks_the_endpoint_by_chat_and_the_key_is_in_no_output(task, monkeypatch, capsys):
    """One of two replies is right: 0.5."""
    monkeypatch.setenv("KEY", "sk-canary")
    with Endpoint() as server:
        assert cli.door(["eval", f"{server.url}#big", "--tasks", task, "--key-env", "KEY", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["scores"][0]["value"] == 0.5 and "canary" not in shown.out + shown.err
    assert set(server.paths) == {"/v1/chat/completions"} and server.requests[0]["model"] == "big"
    assert server.headers[0]["Authorization"] == "Bearer sk-canary"


def test_a_task_that_is_not_in_chat_continues_its_text_by_completions(tmp_path):
    (tmp_path / "plain.yaml").write_text(TASK.format(chat="false"))
    with Endpoint() as server:
        assert cli.door(["eval", f"{server.url}#big", "--tasks", str(tmp_path / "plain.yaml"), "--quiet"]) == 0
    assert set(server.paths) == {"/v1/completions"} and {one["prompt"] for one in server.requests} == {"2", "3"}


def test_two_endpoints_are_compared_item_by_item(task, capsys):
    with Endpoint() as one, Endpoint(answer=lambda _: "four") as other:
        assert cli.door(["compare", f"{one.url}#a", f"{other.url}#b", "--tasks", task, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["tasks"][0]
    assert (found["before"], found["after"], found["difference"]["improved"]) == (0.5, 0.5, 1)


def test_what_an_endpoint_cannot_do_is_one_sentence_before_anything_is_asked(task, tmp_path, capsys):
    (tmp_path / "ppl.yaml").write_text("name: p\nkind: perplexity\nanswer: text\nrows: [{text: hello}]\n")
    with Endpoint() as server:
        model = f"{server.url}#big"
        assert cli.door(["eval", model, "--tasks", str(tmp_path / "ppl.yaml"), "--quiet"]) == 2
        assert "needs the log-probabilities" in capsys.readouterr().err
        assert cli.door(["eval", model, "--tasks", task, "--weights", "nf4", "--quiet"]) == 2
        assert "--weights needs the model itself" in capsys.readouterr().err
        assert cli.door(["eval", server.url, "--tasks", task, "--quiet"]) == 2
        assert "#NAME" in capsys.readouterr().err
        assert cli.door(["eval", "garzone", "--tasks", task, "--key-env", "KEY", "--quiet"]) == 2
        assert "--key-env is for endpoints" in capsys.readouterr().err
        assert server.requests == []


def test_a_question_without_an_answer_makes_no_score(task, capsys):
    with Endpoint(script=("400",)) as server:
        assert cli.door(["eval", f"{server.url}#big", "--tasks", task, "--quiet", "--concurrency", "1"]) == 2
    assert "1 of 2 questions got no answer" in capsys.readouterr().err


def test_offline_refuses_another_machine_s_endpoint(task, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cli.door(["eval", "https://models.example.org/v1#big", "--tasks", task, "--quiet"]) == 2
    assert "--offline was given" in capsys.readouterr().err
