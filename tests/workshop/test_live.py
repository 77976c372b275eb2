"""`feedback: live` (row A11): samples go to people while it trains, and their word is in the reward.

Left out: a server, kills. The annotator here is a reward function that answers what is in the queue whenever it is called: real events
in a real store.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bottega.core import rundir
from bottega.store import people
from bottega.store.schema import open_store
from bottega.workshop.stages import run
from tests.workshop.made import jsonl, workshop

ANNOTATOR = """
import os, signal
from bottega.store import feedback, people, queue
from bottega.store.schema import open_store

calls = 0

def worth(text):
    return sum(map(ord, text)) % 11

def answer_all(path, names):
    db = open_store(path)
    for who in people.everybody(db):
        if who.name not in names:
            continue
        for of in queue.projects(db):
            while (asked := queue.ask(db, of, who)) is not None:
                sides = [worth(one["text"]) for one in asked.body["answers"]]
                if of.kind == "rate":
                    said = {"score": 1 + sides[0] % of.settings.scale}
                else:
                    said = {"choice": "tie" if sides[0] == sides[1] else int((sides[1] > sides[0]) != (who.name == "eve"))}
                feedback.answer(db, of, who, asked.item, said, f"{who.name}-{asked.item}"[:64])
    db.close()

def reward(prompt, reply):
    global calls
    calls += 1
    if calls == int(os.environ.get("DIE_AT", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    if os.path.isfile(os.environ["STORE"]):
        answer_all(os.environ["STORE"], os.environ.get("NAMES", "anna").split(","))
    return 0.1 * (len(reply) % 3)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = workshop(tmp_path_factory.mktemp("live"))
    (made / "annotator.py").write_text(ANNOTATOR)
    jsonl(made / "ask.jsonl", [{"prompt": f"What is {i} plus 1?", "completion": str(i + 1)} for i in range(6)])
    return made


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store with its people, whose ids are the same in its copies."""
    path = tmp_path / "people.db"
    db = open_store(path)
    for name in ("anna", "eve"):
        people.add(db, name)
    db.close()
    monkeypatch.setenv("STORE", str(path))
    return path


def recipe(folder: Path, store: Path, objective: str = "grpo", *, live: dict | None = None, **more) -> dict:
    stage = {
        "objective": objective, "data": str(folder / "ask.jsonl"), "method": {"name": "lora", "rank": 4}, "steps": 10, "batch": 4,
        "rewards": [{"name": "python", "path": str(folder / "annotator.py")}], "save_every": 1, "lr": 1e-3,
        "rollout": {"prompts": 4, "group": 3, "max_tokens": 6},
        "feedback": {"store": str(store), "samples": 3, "refresh": 2, "refresh_steps": 3, "again": 2, **(live or {})}, **more,
    }  # fmt: skip
    return {"name": "o", "model": str(folder / "model"), "seed": 1, "stages": [{"learn": stage}]}


def lines(out: Path, name: str = "rounds.jsonl") -> list[dict]:
    return rundir.read_jsonl(next(out.glob(f"stages/*/{name}")))


def records(out: Path) -> list[dict]:
    return [rundir.read_json(path) for path in sorted(out.glob("stages/*/live/round-*.json"))]


def test_samples_go_out_ratings_come_back_and_the_reward_model_learns_from_them(folder, store, tmp_path, capfd):
    run(recipe(folder, store), out=tmp_path / "run")
    kept = records(tmp_path / "run")
    told = [line["live"] for line in lines(tmp_path / "run")]
    assert all(record["sent"] and len(record["asked"]) <= 3 for record in kept)
    assert [one["heard"] for one in told[:2]] == [0, 0] and told[2]["heard"] == len(kept[0]["asked"])
    assert told[2]["people"] == 1 and told[2]["late"] == told[2]["heard"] and told[2]["learned"] == told[2]["pairs"] > 0
    used = [one for record in kept for one in record["used"]]
    heard = {event["id"] for record in kept for event in record["events"]}
    assert used and all(set(one["events"]) <= heard for one in used), "each rating that counted is named"
    model = next((tmp_path / "run").glob("stages/*/live/reward-000002"))
    assert {"adapter_model.safetensors", "reward_head.safetensors"} <= {path.name for path in model.iterdir()}
    assert "the reward model was trained on" in "".join(capfd.readouterr())


def test_a_dry_run_says_whom_it_asks(folder, store, tmp_path):
    plan = run(recipe(folder, store), out=tmp_path / "run", dry_run=True)
    assert "asks people about up to 3 pairs to compare a round" in plan["stages"][0]["people"]
