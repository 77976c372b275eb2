"""Shards give the rows and the account that memory gives, are made once, and say which of them is damaged (row D11)."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bottega.core.errors import Unsafe, UserError
from bottega.core.types import Row, Tokens
from bottega.data import formats, prepare, shards, sources, tokenise
from bottega.data.blocks import blocks
from bottega.data.chat import Template

CHATML = Template.named("chatml")


def chat(said: str, **more) -> dict:
    return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": said}], **more}


def many(kind: str, count: int = 300) -> list[dict]:
    """Rows of uneven lengths; of chats every seventh weighs its answer, and every ninth has nothing to learn."""
    if kind == "text":
        return [{"text": f"text {i} " * (1 + i % 13)} for i in range(count)]
    if kind == "preference":
        made = [{"prompt": f"p{i % 5}", "chosen": "yes " * (1 + i % 9), "rejected": f"no {i}"} for i in range(count)]
        return [row | ({"margin": i / 7} if i % 2 else {"margin": 0.5}) for i, row in enumerate(made)]
    rows = [chat(f"answer {i} " * (1 + i % 11)) for i in range(count)]
    for i in range(0, count, 7):
        rows[i]["messages"][1]["weight"] = 0.25 + i / 1000
    for i in range(0, count, 9):
        rows[i]["messages"][1]["weight"] = 0.0
    return rows


def corpus(path, tokenizer, kind: str, **options) -> tokenise.Corpus:
    plan = prepare.Plan(kind=kind, **{"max_tokens": 60, "over_length": "truncate"} | options)
    return tokenise.Corpus(path=str(path), plan=plan, template=CHATML.bind(tokenizer), identity="bytes")


def in_memory(path, tokenizer, plan, **options):
    fields = {name: getattr(plan, name) for name in ("kind", "max_tokens", "over_length", "mask", "thinking")}
    return prepare.rows(formats.samples(path), tokenizer, CHATML, **fields, **options)


def same(one: Row, other: Row) -> bool:
    pairs = zip((one.prefix, *one.branches), (other.prefix, *other.branches), strict=True)
    arrays = all(
        np.array_equal(a, b) and np.asarray(a).dtype == np.asarray(b).dtype
        for left, right in pairs
        for a, b in ((left.ids, right.ids), (left.trains, right.trains))
    )
    return one.index == other.index and arrays and dict(one.extras) == dict(other.extras)


@pytest.fixture
def small(monkeypatch):
    """Parts and shards of a few rows, so that there are many."""
    monkeypatch.setattr(tokenise, "PART_BYTES", 2_000)
    monkeypatch.setattr(sources, "CHUNK", 512)
    monkeypatch.setattr(shards, "SHARD_TOKENS", 700)
    monkeypatch.setattr(shards, "MAX_OPEN", 3)


CASES = [("text", "split"), ("text", "drop"), ("chat", "truncate"), ("chat", "split"), ("preference", "truncate")]


@pytest.mark.parametrize(("kind", "over_length"), CASES)
def test_shards_hold_the_rows_and_the_account_of_the_path_in_memory(
    kind, over_length, tokenizer, write, tmp_path, small
):
    records = many(kind)
    records[40] = {"nothing": 1}
    records[41] = {"text": ""} if kind == "text" else {"messages": "no"}
    path = write("rows.jsonl", records)
    path.write_text(path.read_text().replace("\n", "\n\n", 5) + "{broken\n")
    wanted = corpus(path, tokenizer, kind, over_length=over_length)
    found, intake = tokenise.shards(wanted, tokenizer, cache=tmp_path / "cache", allow_loss=5)
    rows, account = in_memory(path, tokenizer, wanted.plan, allow_loss=5)
    assert len(found.shards) > 5 and len({shard["name"].partition("-")[0] for shard in found.shards}) > 3
    assert intake.to_json() == account.to_json() and len(intake.examples) >= 3
    assert len(found) == len(rows) and all(map(same, found, rows))
    assert same(found[-1], rows[-1]) and len(found[2:5]) == 3
    assert found.lengths().tolist() == [row.num_tokens for row in rows] and found.num_tokens == intake.tokens


def test_a_folder_of_files_of_many_kinds_gives_the_same_rows(tokenizer, tmp_path, small):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many("text", 100)))
    (data / "b.json").write_text(json.dumps(many("text", 20)))
    (data / "c.csv").write_text("text\n" + "".join(f"line {i}\n" for i in range(30)))
    (data / "d.jsonl").write_bytes('{"text": "sixteen"}\n{"text": "bits"}\n'.encode("utf-16"))
    for i in range(9):
        (data / f"e{i}.txt").write_text(f"a text of its own, number {i}")
    wanted = corpus(data, tokenizer, "text")
    found, intake = tokenise.shards(wanted, tokenizer, cache=tmp_path / "cache")
    rows, account = in_memory(data, tokenizer, wanted.plan)
    assert intake.to_json() == account.to_json() and all(map(same, found, rows))


def test_the_second_time_nothing_is_tokenised_and_every_input_is_part_of_the_key(tokenizer, write, tmp_path):
    path = write("rows.jsonl", many("chat", 30))

    def make(wanted, **options):
        done: list[int] = []

        def jobs(folder, numbers, using):
            done.extend(numbers)
            tokenise.here(folder, numbers, using)

        tokenise.shards(wanted, tokenizer, cache=tmp_path / "cache", run_jobs=jobs, **options)
        return len(done)

    first = corpus(path, tokenizer, "chat")
    assert make(first) == 1 and make(first) == 0 and make(first, allow_loss=3) == 0
    moved = write("elsewhere.jsonl", many("chat", 30))
    assert make(corpus(moved, tokenizer, "chat")) == 0, "the same bytes under another name"
    assert make(corpus(path, tokenizer, "chat", max_tokens=50)) == 1
    assert make(corpus(path, tokenizer, "chat", mask="last")) == 1
    other = tokenise.Corpus(path=str(path), plan=first.plan, template=first.template, identity="other")
    assert make(other) == 1
    path.write_text(path.read_text().replace("answer 3", "answer 4"))
    assert make(first) == 1


def test_the_account_names_the_files_as_they_are_called_now(tokenizer, write, tmp_path):
    rows = [*many("chat", 10), {"nothing": 1}]
    wanted = corpus(write("old.jsonl", rows), tokenizer, "chat")
    tokenise.shards(wanted, tokenizer, cache=tmp_path / "cache", allow_loss=1)
    path = write("new.jsonl", rows)
    _, intake = tokenise.shards(corpus(path, tokenizer, "chat"), tokenizer, cache=tmp_path / "cache", allow_loss=1)
    assert intake.to_json() == in_memory(path, tokenizer, wanted.plan, allow_loss=1)[1].to_json()


@pytest.mark.parametrize("allow_loss", [None, 1, 0])
def test_too_many_bad_rows_stop_with_the_same_sentence(tokenizer, write, tmp_path, small, allow_loss):
    rows = many("chat")
    for i in (30, 150, 290):
        rows[i] = {"nothing": i}
    path = write("rows.jsonl", rows)
    wanted = corpus(path, tokenizer, "chat")
    with pytest.raises(UserError) as kept:
        tokenise.shards(wanted, tokenizer, cache=tmp_path / "cache", allow_loss=allow_loss)
    with pytest.raises(UserError) as plain:
        in_memory(path, tokenizer, wanted.plan, allow_loss=allow_loss)
    assert str(kept.value) == str(plain.value) and ":31" in str(kept.value)


def test_a_row_that_is_too_long_is_the_first_one_of_the_file_and_nothing_stays_behind(
    tokenizer, write, tmp_path, small
):
    path = write("rows.jsonl", many("chat"))
    wanted = corpus(path, tokenizer, "chat", over_length="error")
    with pytest.raises(UserError) as kept:
        tokenise.shards(wanted, tokenizer, cache=tmp_path / "cache")
    with pytest.raises(UserError) as plain:
        in_memory(path, tokenizer, wanted.plan)
    assert str(kept.value) == str(plain.value)
    assert [p for p in (tmp_path / "cache").iterdir() if not p.name.endswith(".lock")] == []


def test_a_build_that_was_cut_off_goes_on_behind_the_parts_that_are_done(tokenizer, write, tmp_path, small):
    wanted = corpus(write("rows.jsonl", many("chat")), tokenizer, "chat")

    def dying(folder, numbers, using):
        tokenise.here(folder, numbers[:3], using)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenise.shards(wanted, tokenizer, cache=tmp_path / "cache", run_jobs=dying)
    asked: list[int] = []

    def counting(folder, numbers, using):
        asked.extend(numbers)
        tokenise.here(folder, numbers, using)

    found, _ = tokenise.shards(wanted, tokenizer, cache=tmp_path / "cache", run_jobs=counting)
    assert asked[0] == 3
    rows, _ = in_memory(wanted.path, tokenizer, wanted.plan)
    assert len(found) == len(rows) and all(map(same, found, rows))
    assert {p.suffix for p in found.folder.iterdir()} == {".json", ".ids", ".weights", ".starts", ".rows"}


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_shard_is_noticed_and_named(tokenizer, write, tmp_path, small, damage):
    wanted = corpus(write("rows.jsonl", many("chat")), tokenizer, "chat")
    found, _ = tokenise.shards(wanted, tokenizer, cache=tmp_path / "cache")
    victim = found.folder / f"{found.shards[2]['name']}.ids"
    content = bytearray(victim.read_bytes())
    if damage == "cut":
        victim.write_bytes(content[:-2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    else:
        victim.unlink()
    with pytest.raises(Unsafe, match=rf"{victim.name} .*remove .* and run again"):
        again, _ = tokenise.shards(wanted, tokenizer, cache=tmp_path / "cache")
        list(again)


def test_weights_of_any_number_of_values_come_back_bit_for_bit(tmp_path):
    """300 different weights do not fit in one byte: they are kept as float32."""
    weights = np.linspace(0.001, 1, 300).astype(np.float32)
    rows = [Row(index=i, branches=(Tokens([i, 70_000], [0.0, weights[i]]),)) for i in range(300)]
    shards.write(tmp_path / "rows", rows, ids="uint32")
    found = shards.ShardRows(tmp_path / "rows")
    assert found.shards[0]["palette"] is None and found[7].branches[0].ids.tolist() == [7, 70_000]
    assert [row.branches[0].trains[1] for row in found] == weights.tolist()


def test_blocks_of_shards_are_the_blocks_of_memory(tokenizer, write, tmp_path, small):
    wanted = corpus(write("rows.jsonl", many("text")), tokenizer, "text")
    found, _ = tokenise.shards(wanted, tokenizer, cache=tmp_path / "cache")
    lazy, plain = blocks(found, length=64), blocks(list(found), length=64)
    assert len(lazy) == len(plain) > 20 and all(map(same, lazy, plain))


def test_a_file_is_cut_at_its_lines_and_lines_keep_their_numbers(write, monkeypatch):
    monkeypatch.setattr(sources, "CHUNK", 7)
    path = write("rows.jsonl", "".join(f'{{"text": "{"x" * (i % 9)}"}}\n' + "\n" * (i % 3) for i in range(40)))
    digest, found = sources.spans(path, size=50)
    whole = list(sources.read(path))
    assert len(found) > 8 and [pair for span in found for pair in sources.read_span(path, span)] == whole
    assert digest == sources.spans(path, size=10_000)[0] and sources.spans(path, size=10_000)[1] == [sources.WHOLE]
