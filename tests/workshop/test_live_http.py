"""People behind a server while it trains (row A11): a simulated annotator with a hidden preference answers over HTTP.

Left out: a store that the run opens itself (test_live.py), the pages (tests/studio), a model that learns something
(tests/journey). The reward of the recipe is where the annotator's turn comes: it answers all that the server asks, so that every run
hears the same at the same time.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2 as httpx
import pytest

from bottega.cli import door
from bottega.core import rundir
from bottega.store import people, queue
from bottega.store.schema import open_store
from bottega.workshop import report
from bottega.workshop.stages import run
from tests.studio.served import a_project, pair, served
from tests.workshop.made import jsonl, workshop

SCORE = """
import sys

def reward(prompt, reply):
    sys.modules["tests.workshop.test_live_http"].PERSON.turn()
    return 0.1 * (len(reply) % 3)
"""


class Person:
    """Answers what the server asks, by a hidden preference; before: is told of each turn."""

    def __init__(self) -> None:
        self.base = self.token = ""
        self.turns = self.answered = 0
        self.before = lambda turn: None
        self.project = "live"

    def turn(self) -> None:
        """As many questions as there are."""
        self.turns += 1
        self.before(self.turns)
        if not self.base:
            return
        with httpx.Client(
            base_url=f"{self.base}/api/{self.project}", headers={"Authorization": f"Bearer {self.token}"}
        ) as client:
            while (reply := client.get("/next")).status_code == 200 and (asked := reply.json()).get("item"):
                sides = [liking(one["text"]) for one in asked["body"]["answers"]]
                said = {"choice": int(sides[1] > sides[0])} if len(sides) == 2 else {"score": 1 + round(4 * sides[0])}
                sent = {"item": asked["item"], "key": f"key-{self.answered}-{asked['item']}"[:60], "answer": said}
                assert client.post("/answers", json=sent).status_code == 200
                self.answered += 1


def liking(text: str) -> float:
    """The hidden preference: the share of small letters from the first half of the alphabet."""
    letters = [one for one in text if "a" <= one <= "z"]
    return sum(one <= "m" for one in letters) / len(letters) if letters else 0.0


PERSON = Person()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = workshop(tmp_path_factory.mktemp("http"))
    (made / "score.py").write_text(SCORE)
    jsonl(made / "ask.jsonl", [{"prompt": f"What is {i} plus 1?", "completion": str(i + 1)} for i in range(6)])
    return made


@contextmanager
def asking(store: Path, monkeypatch, project: str = "live"):
    """(database, base URL) of a server with a lead, whose token is in the environment, and a person who answers."""
    with served(store) as (db, base):
        known = {one.name for one in people.everybody(db)}
        if "lead" not in known:
            _, token = people.add(db, "lead", role="lead")
            _, PERSON.token = people.add(db, "anna")
            monkeypatch.setenv("LEAD", token)
        PERSON.base, PERSON.turns, PERSON.answered, PERSON.before = base, 0, 0, lambda turn: None
        PERSON.project = project
        try:
            yield db, base
        finally:
            PERSON.base = ""


def recipe(folder: Path, base: str, objective: str = "grpo", *, live: dict | None = None, **more) -> dict:
    stage = {
        "objective": objective, "data": str(folder / "ask.jsonl"), "method": {"name": "lora", "rank": 4}, "steps": 6, "batch": 4,
        "rewards": [{"name": "python", "path": str(folder / "score.py")}], "save_every": 1, "lr": 1e-3,
        "rollout": {"prompts": 4, "group": 3, "max_tokens": 6, "flat_steps": 99, "cut_steps": 99, "max_kl": 1e9},
        "feedback": {"url": base, "token": "${env:LEAD}", "samples": 3, "refresh": 2, "refresh_steps": 3, "again": 2, **(live or {})},
        **more,
    }  # fmt: skip
    return {"name": "o", "model": str(folder / "model"), "seed": 1, "stages": [{"learn": stage}]}


def told(out: Path) -> list[dict]:
    return [line["live"] for line in rundir.read_jsonl(next(out.glob("stages/*/rounds.jsonl")))]


@pytest.mark.parametrize(("objective", "ask"), [("grpo", "compare"), ("ppo", "rate"), ("online_dpo", "compare")])
def test_ratings_over_http_count_and_the_token_is_in_no_file(folder, tmp_path, monkeypatch, capfd, objective, ask):
    with asking(tmp_path / "people.db", monkeypatch) as (_, base):
        run(recipe(folder, base, objective, live={"ask": ask}), out=tmp_path / "run")
        secrets = (PERSON.token, os.environ["LEAD"])
        assert PERSON.answered > 0
    rounds = told(tmp_path / "run")
    assert sum(one["heard"] for one in rounds) > 0 and any(one["used"] for one in rounds)
    assert any(one["learned"] for one in rounds) == (rounds[-1]["pairs"] > 0)
    shown = "".join(capfd.readouterr())
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            assert not any(secret.encode() in raw for secret in secrets), path
    assert not any(secret in shown for secret in secrets)
    page = report.page(report.read(tmp_path / "run"))
    assert "People in the loop" in page and "of answers" not in page and "never" in page


def test_a_server_that_is_away_stops_nothing_and_is_asked_again_when_it_is_back(folder, tmp_path, monkeypatch, capfd):
    """12 answers a round. The server goes while the second round is judged and comes back while the fourth is: what three rounds
    wanted to ask is asked in the fifth, each question once."""
    store, server = tmp_path / "people.db", ExitStack()
    _, base = server.enter_context(asking(store, monkeypatch))

    def before(turn: int) -> None:
        if turn == 13:
            server.close()
        elif turn == 37:
            server.enter_context(served(store, httpx.URL(base).port))
            PERSON.base = base

    PERSON.before = before
    with server:
        run(recipe(folder, base, live={"again": 0}), out=tmp_path / "run")
    PERSON.base = ""
    kept = [rundir.read_json(path) for path in sorted((tmp_path / "run").glob("stages/*/live/round-*.json"))]
    assert [bool(record["away"]) for record in kept] == [False, False, True, True, False, False]
    assert all(record["sent"] or not record["asked"] for record in kept)
    asked = sum(len(record["asked"]) for record in kept)
    db = open_store(store)
    assert db.read("SELECT COUNT(*) FROM items")[0][0] == asked
    db.close()
    said = "".join(capfd.readouterr())
    assert "is away" in said and "does not answer (ConnectError)" in said and "is back" in said
    assert "2 rounds" in report.page(report.read(tmp_path / "run"))


def test_a_server_that_was_never_there_is_told_and_the_run_ends_well(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("LEAD", "nobody")
    run(recipe(folder, "http://127.0.0.1:9", steps=2), out=tmp_path / "run")
    assert "training goes on without people" in "".join(capfd.readouterr())
    assert all(one["away"] and not one["heard"] for one in told(tmp_path / "run"))


def test_what_waiting_does_not_mend_is_said_before_anything_is_trained(folder, tmp_path, monkeypatch, capfd):
    with asking(tmp_path / "people.db", monkeypatch) as (db, base):
        a_project(db, kind="edit", name="other")
        path = tmp_path / "r.json"

        def words(**live) -> str:
            path.write_text(json.dumps(recipe(folder, base, live=live)))
            assert door(["run", str(path), "--out", str(tmp_path / "run"), "--quiet"]) in (2, 3)
            return capfd.readouterr().err

        assert "asks for" in words(project="other") or "refuses" in words(project="other")
        monkeypatch.setenv("LEAD", "wrong-token")
        assert "refuses (401" in words() and "wrong-token" not in words()
        monkeypatch.setenv("LEAD", PERSON.token)
        assert "refuses (403" in words()  # an annotator is no lead
        monkeypatch.delenv("LEAD")
        assert "the environment variable LEAD is not set" in words()
        assert "would go to far.example readable" in words(url="http://far.example")
        assert "needs url and token" in words(token=None)
    assert not list((tmp_path / "run").glob("stages/*/checkpoints/*"))


def test_ratings_of_samples_that_are_not_ours_are_left_out_and_said(folder, tmp_path, monkeypatch, capfd):
    """Another program put a question into the project, and somebody answered it; and the server refuses a score beyond its scale."""
    with asking(tmp_path / "people.db", monkeypatch) as (db, base):
        of = a_project(db, name="live")
        queue.put(db, of, [pair(1)], priorities=[9.0])
        run(recipe(folder, base, steps=3), out=tmp_path / "run")
        sent = {"item": "x", "key": "some-key-1", "answer": {"choice": 7}}
        headers = {"Authorization": f"Bearer {PERSON.token}"}
        assert httpx.post(f"{base}/api/live/answers", json=sent, headers=headers).status_code in (400, 404, 409)
    assert sum(one["unknown"] for one in told(tmp_path / "run")) == 1
    assert "ratings are of samples that this stage did not send" in "".join(capfd.readouterr())
