"""`feedback: live` (row A11): samples go to people while it trains, and their word is in the reward.

Left out: a server (test_live_http.py). The annotator here is a reward function that answers what is in the queue whenever it is called:
real events in a real store.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bottega.core import rundir
from bottega.store import people
from bottega.store.schema import open_store
from bottega.train.live import Away
from bottega.workshop.live_queue import StoreQueue
from bottega.workshop.recipe_live import Feedback
from bottega.workshop.stages import run
from tests.workshop.made import jsonl, workshop

ROOT = Path(__file__).resolve().parents[2]

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


def test_two_who_always_disagree_count_little_and_are_told(folder, store, tmp_path, monkeypatch):
    """Eve says the opposite of Anna on each of n questions: both weigh 1 / (1 + n), alpha is below 0, and nobody is preferred."""
    monkeypatch.setenv("NAMES", "anna,eve")
    run(recipe(folder, store, live={"per_item": 2}), out=tmp_path / "run", quiet=True)
    last = lines(tmp_path / "run")[-1]["live"]
    both = last["ratings"] // 2
    assert last["people"] == 2 and both > 1 and last["agreement"] < 0
    assert list(last["weights"].values()) == pytest.approx([1 / (1 + both)] * 2, abs=0.2) and last["pairs"] == 0


def test_a_store_that_another_process_holds_is_away_within_its_time(folder, store, tmp_path):
    """The lock of a writer that does not end: each call gives up after timeout_s, and not after the minute of the pages."""
    queue = StoreQueue(Feedback(store=str(store), timeout_s=0.2), fresh=False)
    queue.open()
    holder = sqlite3.connect(store, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(Away, match=r"was locked by another process for 0\.2 s"):
        queue.put([{"prompt": [{"role": "user", "content": "q"}], "answers": [{"text": "a"}, {"text": "b"}]}], [0.0])
    with pytest.raises(Away):
        queue.since(0)
    assert time.monotonic() - began < 5
    holder.execute("ROLLBACK")
    assert queue.since(0) == ([], 0)
    holder.close()


@pytest.mark.parametrize(
    "objective", ["grpo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ppo", "online_dpo"))]
)
def test_a_run_that_is_killed_in_each_round_hears_the_same_and_ends_in_the_same_bytes(
    folder, store, tmp_path, objective
):
    """Killed at the 20th answer that each process judges, in its second round, until one lives to the end; what was heard at the
    beginning of a round is on the disk, and a question is asked once."""
    twin = tmp_path / "twin.db"
    ends = {}
    shutil.copyfile(store, twin)
    for name, place, deadly in (("cut", store, True), ("whole", twin, False)):
        plan = recipe(folder, place, objective, steps=5, live={"again": 0})
        (tmp_path / f"{name}.json").write_text(json.dumps(plan))
        words = [sys.executable, "-m", "bottega.cli", "run", str(tmp_path / f"{name}.json"), "--quiet", "--out"]
        env = os.environ | {"STORE": str(place), "OMP_NUM_THREADS": "1", **({"DIE_AT": "20"} if deadly else {})}
        deaths = 0
        while (
            done := subprocess.run([*words, str(tmp_path / name)], env=env, cwd=ROOT, capture_output=True)
        ).returncode != 0:
            assert done.returncode == -signal.SIGKILL and deaths < 9, done.stderr[-2000:]
            deaths += 1
        ends[name] = deaths
    assert ends["cut"] >= 3 and ends["whole"] == 0

    def left(name: str) -> dict[str, str]:
        paths = [*(tmp_path / name).glob("stages/**/*.safetensors"), *(tmp_path / name).glob("stages/*/metrics.jsonl")]
        return {str(path.relative_to(tmp_path / name)): rundir.sha256(path) for path in paths}

    assert left("cut") == left("whole") and len(left("cut")) > 5
    told = [[{**line["live"]} for line in lines(tmp_path / name)] for name in ("cut", "whole")]
    for one in (*told[0], *told[1]):
        one["weights"] = len(one["weights"])
    assert told[0] == told[1]
    counts = []
    for place in (store, twin):
        db = open_store(place)
        counts.append([db.read(f"SELECT COUNT(*) FROM {table}")[0][0] for table in ("items", "events")])
        db.close()
    assert counts[0] == counts[1] and counts[0][0] > 0
