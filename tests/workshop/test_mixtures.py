"""Mixtures and curricula as a recipe's keys: mistakes found before torch, and what a run draws (row D9)."""

from __future__ import annotations

import json

import pytest

from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.core.types import Row, Tokens
from bottega.data import shards
from bottega.workshop import shard_cache
from bottega.workshop.recipe import load
from bottega.workshop.sources import source_of
from bottega.workshop.stages import run
from tests.workshop.made import chat, jsonl, workshop


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = workshop(tmp_path_factory.mktemp("made"))
    graded = [{**chat(f"What is {i}?", f"It is {i}." * (1 + i % 5)), "level": (i * 7) % 24} for i in range(24)]
    jsonl(folder / "graded.jsonl", graded)
    return folder


def recipe(made, *parts, **stage):
    data = [{"path": str(made / "chats.jsonl"), **part} for part in parts]
    base = {"objective": "sft", "method": "full", "data": data or str(made / "graded.jsonl"), "batch": 4}
    return {"name": "t", "model": str(made / "model"), "stages": [{"s": base | stage}]}


TWO = ({"weight": 1}, {"weight": 1})
MISTAKES = [
    (({"weight": 0}, {"weight": 0}), {}, "weights of all sources are 0"),
    (({"weight": 1}, {}), {}, "some have none"),
    (TWO, {"mixture": {"schedule": [{"tokens": 0, "weights": [0, 0]}]}, "steps": 5}, "0, 0 draw from no source"),
    (TWO, {"mixture": [{"tokens": 0, "weights": [1]}], "steps": 5}, "1 weights for 2 sources"),
    (TWO, {"mixture": [{"tokens": 9, "weights": [1, 0]}, {"tokens": 9, "weights": [0, 1]}], "steps": 5}, "from 9 to 9"),
    (TWO, {"mixture": [{"tokens": 0, "weights": [1, 0]}]}, "give steps"),
    (({},), {"mixture": 2.0}, "needs two sources"),
    (TWO, {"mixture": {"temperature": 0}}, "temperature is 0"),
    (TWO, {"curriculum": "length"}, "leave mixture, weight and epochs"),
    (({}, {}), {"curriculum": "length", "objective": "pretrain", "blocks": True}, "cannot order them"),
    (({}, {}), {"curriculum": {"by": "loss", "bands": 1}}, "bands"),
    (({}, {}), {"curriculum": "loss", "objective": "dpo"}, "by: loss is for pretrain and sft"),
]


@pytest.mark.parametrize(("parts", "stage", "said"), MISTAKES)
def test_a_mistake_in_a_mixture_is_one_line_with_its_place(made, parts, stage, said):
    with pytest.raises(UserError, match=said):
        load(recipe(made, *parts, **stage))


def rows_of(*sizes: int) -> list[list[Row]]:
    tokens = Tokens([1, 2], [0.0, 1.0])
    return [[Row(index=100 * n + i, branches=(tokens,)) for i in range(size)] for n, size in enumerate(sizes)]


def counts(made, *parts, sizes, steps, **stage):
    source = source_of(load(recipe(made, *parts, steps=steps, **stage)).stages[0], rows_of(*sizes), seed=0)
    drawn = [row.index // 100 for _ in range(steps) for row in source.next()[0]]
    return [drawn.count(n) for n in range(len(sizes))]


def test_the_recipe_s_words_reach_the_source(made):
    """Batches of 4. Sizes 10, 40, 90: T = 2 gives 1/6, 2/6, 3/6 of 120 rows; epochs 3 and 1 of 10 and 30 rows give halves."""
    assert counts(made, {}, {}, {}, sizes=(10, 40, 90), steps=30, mixture=2.0) == [20, 40, 60]
    assert counts(made, {"epochs": 3}, {}, sizes=(10, 30), steps=10) == [20, 20]
    assert counts(made, {"weight": 1}, {"weight": 0}, sizes=(10, 10), steps=3) == [12, 0]
    later = [{"tokens": 16, "weights": [0, 1]}]
    assert counts(made, {"weight": 1}, {"weight": 0}, sizes=(10, 10), steps=4, mixture=later) == [8, 8]


def test_a_stage_that_is_longer_than_its_mixture_is_told_before_it_starts(made):
    stage = load(recipe(made, {"epochs": 2}, {"epochs": 0.5}, steps=9)).stages[0]
    with pytest.raises(UserError, match="takes 36 rows, and its sources have 25 .* take 7 steps"):
        source_of(stage, rows_of(10, 10), seed=0)
    stage = load(recipe(made, {"epochs": 2}, {"epochs": 0.5})).stages[0]
    assert source_of(stage, rows_of(10, 10), seed=0).steps_per_epoch == 7


@pytest.mark.parametrize("by", ["level", "length"])
def test_a_curriculum_is_the_same_from_shards_and_begins_with_what_is_easy(made, tmp_path, monkeypatch, by):
    monkeypatch.setenv(shard_cache.CACHE, str(tmp_path / "cache"))
    wanted = {"curriculum": {"by": by, "bands": 6}, "lr": 1e-3, "max_tokens": 100, "epochs": 1}
    for name, on_disk in (("memory", False), ("disk", True)):
        run(recipe(made, **wanted, shards=on_disk), out=tmp_path / name, quiet=True)
    one, two = (tmp_path / name / "stages" / "01-s" / "metrics.jsonl" for name in ("memory", "disk"))
    assert one.read_bytes() == two.read_bytes()
    (folder,) = (path.parent for path in (tmp_path / "cache").rglob("header.json"))
    rows = shards.ShardRows(folder)
    tokens = [line["tokens"] for line in rundir.read_jsonl(one)]
    keys = rows.column("difficulty") if by == "level" else rows.lengths()
    ordered = sorted(range(24), key=lambda i: keys[i])
    lengths = rows.lengths()
    assert tokens == [sum(int(lengths[i]) for i in ordered[a : a + 4]) for a in range(0, 24, 4)]


def test_a_row_without_the_column_is_named(made, tmp_path):
    rows = [{**chat("a", "b"), "level": 1}, {**chat("a", "c"), "level": "hard"}, chat("a", "d")]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=r"rows.jsonl:2 \[level\]: the column 'level' holds no number"):
        run(recipe(made, data=str(path), curriculum="level", steps=1), out=tmp_path / "out", quiet=True)


def test_a_curriculum_by_loss_is_heard_by_the_loop_and_ends_in_the_checkpoint(made, tmp_path):
    wanted = {"curriculum": {"by": "loss", "bands": 6}, "lr": 1e-3, "epochs": 2, "save_every": 3}
    result = run(recipe(made, **wanted), out=tmp_path / "out", quiet=True)
    last = max((tmp_path / "out" / "stages" / "01-s" / "checkpoints").glob("step-*"))
    state = next(json.loads(p.read_text()) for p in last.rglob("*.json") if "cursor" in p.read_text())
    heard, basis = state["cursor"]["heard"], state["cursor"]["basis"]
    assert result.stages["s"]["steps"] == 12 and None not in heard + basis and heard != basis
    assert all(0 < loss < 20 for loss in heard)


def test_a_mixture_of_tasks_trains_and_its_cursor_is_counts(made, tmp_path):
    (tmp_path / "notes.txt").write_text("A note of another kind. " * 4)
    parts = [{"path": str(made / "chats.jsonl"), "weight": 3}, {"path": str(tmp_path / "notes.txt"), "weight": 1}]
    run(recipe(made, data=parts, steps=5, lr=1e-3), out=tmp_path / "out", quiet=True)
    last = max((tmp_path / "out" / "stages" / "01-s" / "checkpoints").glob("step-*"))
    state = next(json.loads(p.read_text()) for p in last.rglob("*.json") if "cursor" in p.read_text())
    assert state["cursor"]["taken"] == [15, 5]
