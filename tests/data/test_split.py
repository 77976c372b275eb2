"""Splits and near duplicates: shares, seeds, strata, groups, time, and no near-equal row across parts."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottega.core.errors import UserError
from bottega.core.types import Document, Labelled
from bottega.data.near import groups, jaccard, shingles, signatures
from bottega.data.split import split, split_file

WORDS = [f"word{i}" for i in range(400)]


def sentence(seed: int, size: int = 30) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=size))


def rows(count: int) -> list[dict]:
    return [
        {"text": sentence(n), "n": n, "label": "rare" if n % 10 == 0 else "common", "who": f"u{n % 7}"}
        for n in range(count)
    ]


def test_shingles_are_runs_of_words():
    """'to be or not to be' has the two runs of five words 'to be or not to' and 'be or not to be'."""
    assert len(shingles("To be, or not to be!")) == 2
    assert shingles("To be, or not to be!") == shingles("to be or not to be")
    assert len(shingles("one two")) == 1 and len(shingles("")) == 1


def test_jaccard_is_the_share_of_common_shingles():
    assert jaccard(frozenset({1, 2, 3}), frozenset({2, 3, 4})) == 0.5
    assert jaccard(frozenset(), frozenset()) == 1.0


def test_signatures_agree_as_often_as_the_sets_are_alike():
    """A = 0..99, B = 50..149: Jaccard 50 / 150 = 0.333; 128 hashes, so within 3 x 0.042."""
    one, other = signatures([frozenset(range(100)), frozenset(range(50, 150))])
    assert abs(float(np.mean(one == other)) - 1 / 3) < 0.125


def test_equal_and_nearly_equal_texts_share_a_group():
    text = sentence(1, 60)
    changed = text.replace(text.split()[30], "other", 1)
    assert jaccard(shingles(text), shingles(changed)) >= 0.8
    assert groups([text, sentence(2), text.upper() + "!", changed]) == [0, 1, 0, 0]
    assert groups([text, changed], threshold=1.0) == [0, 1]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(20, 60))
def test_no_near_duplicate_lies_across_parts(seed, count):
    noise = random.Random(seed)
    texts = [sentence(noise.randrange(count), 40) + (" tail" * noise.randrange(2)) for _ in range(count)]
    parts = split([{"text": text, "n": n} for n, text in enumerate(texts)], seed=seed)
    assert sorted(row["n"] for part in parts.values() for row in part) == list(range(count))
    for one in parts["train"]:
        for other in parts["validation"]:
            assert jaccard(shingles(one["text"]), shingles(other["text"])) < 0.8


def test_rows_that_share_a_long_system_turn_are_not_alike_for_that():
    shared = {"role": "system", "content": sentence(0, 300)}
    talks = [{"messages": [shared, {"role": "user", "content": sentence(n, 12)}]} for n in range(1, 21)]
    assert len(split(talks, seed=0)["validation"]) == 2


def test_the_same_seed_gives_the_same_split_and_another_seed_another():
    given_rows = rows(100)
    assert split(given_rows, seed=1) == split(given_rows, seed=1)
    assert split(given_rows, seed=1) != split(given_rows, seed=2)
    parts = split(given_rows, seed=1, shares={"train": 0.8, "validation": 0.1, "test": 0.1})
    assert [len(part) for part in parts.values()] == [80, 10, 10]
    assert [row["n"] for row in parts["train"]] == sorted(row["n"] for row in parts["train"])


def test_a_stratified_split_has_the_rare_class_in_every_part():
    parts = split(rows(200), seed=3, stratify="label")
    for part in parts.values():
        assert abs(sum(row["label"] == "rare" for row in part) / len(part) - 0.1) < 0.051
    labelled = [Labelled(text=sentence(n), label=n % 2) for n in range(40)]
    assert sum(s.label for s in split(labelled, seed=0, stratify="label")["validation"]) == 2


def test_a_group_stays_in_one_part():
    parts = split(rows(140), seed=0, group="who", shares={"train": 0.7, "validation": 0.3})
    assert not {row["who"] for row in parts["train"]} & {row["who"] for row in parts["validation"]}


def test_a_split_by_time_puts_the_latest_last():
    shuffled = random.Random(0).sample(rows(100), 100)
    parts = split(shuffled, seed=0, time="n", shares={"train": 0.8, "validation": 0.1, "test": 0.1})
    assert max(row["n"] for row in parts["train"]) < min(row["n"] for row in parts["validation"])
    assert [len(part) for part in parts.values()] == [80, 10, 10]
    assert {row["n"] for row in parts["test"]} == set(range(90, 100))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"shares": {"train": 0.9, "validation": 0.2}}, "must be positive and add up to 1, not 1.1"),
        ({"shares": {"train": 1.0, "validation": 0.0}}, "must be positive"),
        ({"group": "nobody"}, "no column 'nobody' to split by"),
        ({"stratify": "label", "time": "n"}, "cannot be stratified"),
    ],
)
def test_a_split_that_cannot_be_is_refused_with_the_value(options, sentence):
    with pytest.raises(UserError, match=sentence):
        split(rows(20), seed=0, **options)


def test_rows_that_are_all_alike_cannot_be_split():
    with pytest.raises(UserError, match="the part 'validation' stays empty: the rows fall into 1 groups"):
        split([Document(text=sentence(1))] * 20, seed=0)


def test_a_file_is_split_into_files_with_all_its_columns(write, tmp_path):
    result = split_file(write("a.jsonl", rows(50)), shares={"train": 0.8, "test": 0.2}, seed=5, out=tmp_path / "out")
    assert {name: part["rows"] for name, part in result["parts"].items()} == {"train": 40, "test": 10}
    lines = [json.loads(line) for name in ("train", "test") for line in (tmp_path / "out" / f"{name}.jsonl").open()]
    assert sorted(lines, key=lambda row: row["n"]) == rows(50)


def test_a_broken_row_stops_the_split_of_a_file(write, tmp_path):
    with pytest.raises(UserError, match="a.jsonl:1: broken JSON.*; mend it before splitting"):
        split_file(write("a.jsonl", "{\n"), out=tmp_path / "out")


def test_parts_of_an_older_split_are_not_left_to_overlap_with_the_new_one(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"text": "row number {i} of many, {i * i}"}}\n' for i in range(40)))
    split_file(path, shares={"train": 0.8, "validation": 0.1, "test": 0.1}, seed=0, out=tmp_path / "parts")
    with pytest.raises(UserError, match="test.jsonl of another split"):
        split_file(path, shares={"train": 0.9, "validation": 0.1}, seed=0, out=tmp_path / "parts")
