"""A recipe whose rows lie on disk: the same training, tokenised once by several processes, in flat memory (rows D11, D12)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from bottega.data import prepare, sources, tokenise
from bottega.data.chat import Template
from bottega.models.load import load_tokenizer
from bottega.workshop import rows as stage_rows
from bottega.workshop import shard_cache
from bottega.workshop.stages import run
from tests.workshop.made import chat, jsonl, workshop

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return workshop(tmp_path_factory.mktemp("made"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(shard_cache.CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "rows"


def recipe(made, **stage):
    base = {"method": "full", "steps": 6, "batch": 4, "lr": 1e-3, "max_tokens": 64}
    return {"name": "t", "model": str(made / "model"), "stages": [{"s": base | stage}]}


def corpus_of(made, tokenizer):
    return tokenise.Corpus(
        path=str(made / "chats.jsonl"),
        plan=prepare.Plan(kind="chat", max_tokens=64),
        template=Template.of(tokenizer),
        identity=shard_cache.tokenizer_identity(tokenizer),
    )


STAGES = [
    {"objective": "sft", "data": "chats.jsonl", "validation": "chats.jsonl"},
    {"objective": "pretrain", "data": "docs", "blocks": True},
    pytest.param(
        {"objective": "dpo", "data": "prefs.jsonl", "method": {"name": "lora", "rank": 4}},
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize("stage", STAGES, ids=["sft", "pretrain", "dpo"])
def test_training_from_shards_is_training_from_memory_bit_for_bit(made, tmp_path, cache, stage):
    stage = stage | {key: str(made / stage[key]) for key in ("data", "validation") if key in stage}
    for name, shards in (("memory", False), ("disk", True)):
        run(recipe(made, **stage, shards=shards), out=tmp_path / name, quiet=True)
    one, other = (tmp_path / name / "stages" / "01-s" for name in ("memory", "disk"))
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    counts = [json.loads((folder / "intake.json").read_text()) for folder in (one, other)]
    assert counts[0] == counts[1] and len(list(cache.glob("*/header.json"))) == 1


def test_large_files_go_to_disk_by_themselves_and_the_run_says_so(made, tmp_path, cache, monkeypatch, capsys):
    monkeypatch.setattr(stage_rows, "SHARD_BYTES", 1000)
    once = recipe(made, objective="sft", data=str(made / "chats.jsonl"))
    run(once, out=tmp_path / "one")
    said = capsys.readouterr().err
    assert "the rows lie on disk in shards (0 MB of files, from 0 MB on)" in said and "tokenised once into" in said
    run(once, out=tmp_path / "two")
    assert "tokenised before" in capsys.readouterr().err and len(list(cache.glob("*/header.json"))) == 1
    stage = recipe(made, objective="sft", data=str(made / "chats.jsonl"), clean=["exact"])
    run(stage, out=tmp_path / "three")
    assert "so they are in memory" in capsys.readouterr().err


SHARES = [
    {"objective": "sft", "data": [{"path": "chats.jsonl", "weight": 2}, {"path": "more.jsonl", "weight": 1}]},
    pytest.param({"objective": "dpo", "data": [{"path": "prefs.jsonl"}], "method": "lora"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("stage", SHARES, ids=["sft", "dpo"])
def test_a_share_is_held_out_of_shards_as_it_is_in_memory(made, tmp_path, cache, stage):
    """Near duplicates, a row that cannot be used and one that is too long are in the second file."""
    rows = [chat(f"Say {i} in words, slowly and with a smile please", f"Number {i // 2}.") for i in range(30)]
    rows.insert(7, {"nothing": 1})
    rows.insert(9, chat("long", "word " * 200))
    jsonl(made / "more.jsonl", rows)
    parts = [{**part, "path": str(made / part["path"])} for part in stage["data"]]
    wanted = stage | {"data": parts, "validation": 0.2, "allow_loss": 1, "over_length": "truncate", "eval_every": 3}
    for name, shards in (("memory", False), ("disk", True)):
        run(recipe(made, **wanted, shards=shards), out=tmp_path / name, quiet=True)
    one, other = (tmp_path / name / "stages" / "01-s" for name in ("memory", "disk"))
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    counts = [json.loads((folder / "intake.json").read_text()) for folder in (one, other)]
    assert counts[0] == counts[1] and counts[0]["validation"][0]["taken"] > 5 and counts[0]["cut"] == len(parts) - 1
    run(recipe(made, **wanted, shards=True), out=tmp_path / "again", quiet=True)
    assert len(list(cache.glob("held-*"))) == 1 and len(list(cache.glob("*/header.json"))) == 2 * len(parts)


def test_few_documents_are_still_split_in_passages_in_memory(made, tmp_path, cache, capsys):
    parts = (f"Sentence {i * i} of part {i} speaks of thing {i}. " * 12 + "\n\n" for i in range(20))
    (tmp_path / "one.md").write_text("".join(parts))
    stage = recipe(made, objective="pretrain", data=str(tmp_path / "one.md"), validation=0.2, shards=True)
    run(stage, out=tmp_path / "out")
    assert "passages of few documents" in capsys.readouterr().err and not list(cache.glob("*/header.json"))


def test_processes_make_the_same_shards_as_one(made, tmp_path, monkeypatch):
    """Parts of 2,000 bytes of a 6 KB file; two processes open the tokenizer themselves and write."""
    monkeypatch.setattr(tokenise, "PART_BYTES", 2_000)
    monkeypatch.setattr(sources, "CHUNK", 512)
    tokenizer = load_tokenizer(made / "model")
    corpus = corpus_of(made, tokenizer)
    notes: list[str] = []
    made_by = {}
    for workers in (1, 2):
        jobs = shard_cache.runner(workers, notes.append)
        made_by[workers], _ = tokenise.shards(corpus, tokenizer, cache=tmp_path / str(workers), run_jobs=jobs)
    one, two = ({p.name: p.read_bytes() for p in rows.folder.iterdir()} for rows in made_by.values())
    assert one == two and len(one) > 8 and notes[0].endswith("parts in 2 processes")


def test_ranks_that_come_at_once_wait_for_the_first_and_need_no_process_group(made, tmp_path):
    """Four ask for the same corpus at once; one builds (slowly), all read the same rows."""
    tokenizer = load_tokenizer(made / "model")
    corpus = corpus_of(made, tokenizer)
    built, said = [], []

    def slowly(folder, numbers, using):
        built.append(numbers)
        time.sleep(0.3)
        tokenise.here(folder, numbers, using)

    def ask(_):
        return tokenise.shards(corpus, tokenizer, cache=tmp_path / "cache", run_jobs=slowly, note=said.append)[0]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(4)))
    assert len(built) == 1 and len(said) == 4 and not torch.distributed.is_initialized()
    assert len({tuple(row.num_tokens for row in rows) for rows in found}) == 1


def test_a_corpus_twenty_times_the_memory_limit_trains_in_flat_memory(made, tmp_path):
    """160 MB of shards under RLIMIT_DATA of what is used after three steps plus 8 MB; an epoch is read, with steps in between."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.workshop.limited", str(made / "model"), str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout)
    assert facts["corpus"] >= 20 * facts["limit"] and facts["rows"] == facts["seen"]
    assert facts["grown"] < facts["limit"], facts
