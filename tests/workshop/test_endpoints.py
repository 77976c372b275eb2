"""Models behind an endpoint, scored, compared, asked and talked to, against a real HTTP server."""

from __future__ import annotations

import io
import json

import pytest

from bottega import cli
from tests.models.endpoint import Endpoint, certificate

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


def test_answers_that_came_are_kept_and_only_the_lost_question_is_asked_again(task, tmp_path, capsys):
    """Two questions, one of which is lost at first: three requests in all, and a third time none."""
    kept = str(tmp_path / "kept.sqlite")
    with Endpoint(script=("400",)) as server:
        how = ["--tasks", task, "--concurrency", "1", "--answers", kept, "--json"]
        assert cli.door(["eval", f"{server.url}#big", *how]) == 2
        assert "score it again\n" in capsys.readouterr().err and len(server.requests) == 2
        for times in (3, 3):
            assert cli.door(["eval", f"{server.url}#big", *how]) == 0
            assert json.loads(capsys.readouterr().out)["scores"][0]["value"] == 0.5 and len(server.requests) == times
        assert cli.door(["eval", f"{server.url}#other", *how]) == 0 and len(server.requests) == 5
    assert cli.door(["eval", "garzone", "--tasks", task, "--answers", kept, "--quiet"]) == 2
    assert "--answers is for endpoints" in capsys.readouterr().err


def test_replies_in_pieces_score_as_whole_ones_do(task, capsys):
    with Endpoint() as server:
        assert cli.door(["eval", f"{server.url}#big", "--tasks", task, "--stream", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["scores"][0]["value"] == 0.5
        assert all(one["stream"] for one in server.requests)


def test_a_certificate_that_nobody_vouches_for_is_refused_or_accepted_when_told(task, tmp_path, capsys):
    with Endpoint(tls=certificate(tmp_path)) as server:
        how = ["eval", f"{server.url}#big", "--tasks", task, "--tries", "1", "--json"]
        assert cli.door(how) == 2 and "cannot connect" in capsys.readouterr().err
        assert cli.door([*how, "--insecure"]) == 0
        assert cli.door([*how, "--ca", str(tmp_path / "cert.pem")]) == 0


def test_offline_refuses_another_machine_s_endpoint(task, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cli.door(["eval", "https://models.example.org/v1#big", "--tasks", task, "--quiet"]) == 2
    assert "--offline was given" in capsys.readouterr().err


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("2\n3\n")
    return str(path)


def test_generate_asks_each_prompt_and_sends_its_sampling(prompts, tmp_path, capsys):
    """Two prompts, two replies each: four questions, seeds 7 and 8; a greedy one sends neither seed nor top_p."""
    how = ["--temperature", "0.5", "--top-p", "0.9", "--seed", "7", "--n", "2", "--max-tokens", "9", "--stop", "END"]
    with Endpoint() as server:
        model = f"{server.url}#big"
        assert cli.door(["generate", model, "--prompts", prompts, "--json", *how, "--concurrency", "1"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert cli.door(["generate", model, "--prompts", prompts, "--out", str(tmp_path / "r.jsonl"), "--quiet"]) == 0
    assert [(row["prompt"], row["reply"]) for row in rows] == [("2", "you said: 2")] * 2 + [("3", "you said: 3")] * 2
    assert rows[0]["finish"] == "stop" and rows[0]["tokens"] == 2  # the server counts a token for 4 of 11 letters
    assert sorted(one["seed"] for one in server.requests[:4]) == [7, 7, 8, 8]
    assert server.requests[0].items() >= {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "stop": ["END"]}.items()
    assert not {"seed", "top_p", "stop"} & set(server.requests[4])
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 2


def test_raw_texts_are_continued_by_completions(prompts):
    with Endpoint() as server:
        assert cli.door(["generate", f"{server.url}#big", "--prompts", prompts, "--raw", "--quiet"]) == 0
    assert set(server.paths) == {"/v1/completions"} and {one["prompt"] for one in server.requests} == {"2", "3"}


def test_a_prompt_without_an_answer_says_so_in_its_row_and_the_exit_code_is_9(prompts, capsys):
    with Endpoint(script=("400",)) as server:
        model = f"{server.url}#big"
        assert cli.door(["generate", model, "--prompts", prompts, "--json", "--concurrency", "1"]) == 9
        shown = capsys.readouterr()
        rows = json.loads(shown.out)
        assert ["error" in row for row in rows] == [True, False] and "HTTP 400" in rows[0]["error"]
        assert "1 of 2 prompts got no answer" in shown.err
    with Endpoint(script=("401",)) as server:
        assert cli.door(["generate", f"{server.url}#big", "--prompts", prompts, "--json", "--concurrency", "1"]) == 2
        assert "HTTP 401" in capsys.readouterr().err
    with Endpoint(script=("400", "400")) as server:
        assert cli.door(["generate", f"{server.url}#big", "--prompts", prompts, "--json"]) == 2
        assert "none of 2 prompts got an answer" in capsys.readouterr().err


def test_what_only_a_model_here_can_do_is_refused_for_an_endpoint(prompts, capsys):
    with Endpoint() as server:
        base = ["generate", f"{server.url}#big", "--prompts", prompts, "--quiet"]
        few = {
            "--top-k": "5",
            "--logprobs": "2",
            "--beams": "2",
            "--template": "chatml",
            "--weights": "nf4",
            "--batch": "4",
        }
        for option, value in few.items():
            assert cli.door([*base, option, value]) == 2
            assert f"{option} needs the model itself" in capsys.readouterr().err
        assert cli.door([*base, "--lookup"]) == 2 and "--lookup needs" in capsys.readouterr().err
        assert cli.door(["chat", f"{server.url}#big", "--weights", "int8"]) == 2
        assert cli.door(["chat", server.url]) == 2 and "#NAME" in capsys.readouterr().err
        assert cli.door(["chat", "garzone", "--tries", "2"]) == 2 and "--tries is for" in capsys.readouterr().err
        assert cli.door(["generate", "garzone", "--prompts", prompts, "--ca", "x.pem"]) == 2
        assert server.requests == []


def test_chat_streams_what_comes_remembers_and_starts_over(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\nand?\n/reset\nagain\n/exit\nnever\n"))
    monkeypatch.setenv("KEY", "sk-canary")
    with Endpoint() as server:
        assert cli.door(["chat", f"{server.url}#big", "--system", "brief", "--key-env", "KEY"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "you said: hello\nyou said: and?\nyou said: again\n" and "canary" not in shown.err
    said = [[turn["content"] for turn in one["messages"]] for one in server.requests]
    assert said == [["brief", "hello"], ["brief", "hello", "you said: hello", "and?"], ["brief", "again"]]
    assert all(one["stream"] for one in server.requests)


def test_the_pieces_of_a_chat_appear_before_the_reply_has_ended(monkeypatch, capsys):
    """The server waits, after its first piece, until that piece was printed: nothing would end if pieces were kept back."""
    import threading

    from bottega.workshop import distant

    seen = threading.Event()
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    monkeypatch.setattr(distant, "print", lambda *_, **__: seen.set(), raising=False)
    with Endpoint(between=lambda: seen.wait(20)) as server:
        assert cli.door(["chat", f"{server.url}#big"]) == 0
    assert server.waited == [True]


def test_a_chat_survives_a_reply_that_breaks_off_and_ends_at_a_wrong_key(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\nagain\n"))
    with Endpoint(script=("truncated",)) as server:
        assert cli.door(["chat", f"{server.url}#big"]) == 0
    shown = capsys.readouterr()
    assert "the question is forgotten" in shown.err and shown.out.endswith("you said: again\n")
    assert [turn["content"] for turn in server.requests[-1]["messages"]] == ["again"]
    assert len(server.requests) == 2  # what was begun is not tried again
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\nagain\n"))
    with Endpoint(script=("401",)) as server:
        assert cli.door(["chat", f"{server.url}#big"]) == 2
    assert len(server.requests) == 1 and "HTTP 401" in capsys.readouterr().err


def test_an_endpoint_that_does_not_stream_is_heard_too(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    with Endpoint(streams=False) as server:
        assert cli.door(["chat", f"{server.url}#big"]) == 0
    assert capsys.readouterr().out == "you said: hello\n"
