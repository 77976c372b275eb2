"""The world's promises: the same text for the same seed, true answers, splits that share nothing. Left out: how well
a model learns it."""

import json
import re
from collections import Counter
from random import Random

import pytest

from bottega.demo.world import (
    MIXTURES,
    SPECIAL_TOKENS,
    arithmetic_probes,
    documents,
    fact_probes,
    is_right,
    old_world_text,
    reading_probes,
    write_corpus,
)
from bottega.demo.world.corpus import _READING
from bottega.demo.world.facts import facts
from bottega.demo.world.phrase import article, bucket, join, plural, say
from bottega.demo.world.reading import fresh
from bottega.demo.world.registers import held_sum
from bottega.demo.world.render import chat, first_answer, plain, render

COPYING = [name for name in _READING if name != "counting"]


@pytest.fixture(scope="module")
def train() -> list[dict]:
    return list(documents(1, 6000)) + list(documents(2, 3000, mixture="first"))


def test_the_same_seed_gives_the_same_documents_and_another_seed_gives_others():
    assert list(documents(5, 200)) == list(documents(5, 200))
    assert [r["text"] for r in documents(5, 200)] != [r["text"] for r in documents(6, 200)]


@pytest.mark.parametrize("name", COPYING)
@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_every_in_context_answer_stands_in_its_passage(name, split):
    make, size = _READING[name]
    rng = Random(f"truth/{name}/{split}")
    for _ in range(60):
        passage = fresh(make, rng, split, *size)
        text = f"{passage.title}\n{passage.text}".lower()
        for ask in passage.asks:
            assert ask.answer.lower() in text, (passage, ask)


@pytest.mark.parametrize("name", COPYING)
def test_no_question_of_a_passage_has_two_answers(name):
    make, size = _READING[name]
    rng = Random(f"one/{name}")
    for _ in range(200):
        answers: dict[str, str] = {}
        for ask in fresh(make, rng, "train", *size).asks:
            assert answers.setdefault(ask.question, ask.answer) == ask.answer


def test_counting_stories_add_up():
    for row in reading_probes("counting", 1, 50, "dev"):
        first, second = (int(n) for n in re.findall(r"\d+", row["passage"]))
        assert int(row["answer"]) in (first + second, first - second)


@pytest.mark.parametrize("kind", ["handbook", "story", "entry", "table", "sketch", "record"])
def test_no_probe_passage_occurs_in_training_text_or_in_the_other_split(kind, train):
    passages = {split: {row["passage"] for row in reading_probes(kind, 3, 80, split)} for split in ("dev", "test")}
    assert not passages["dev"] & passages["test"]
    texts = "\n\n".join(row["text"] for row in train)
    assert not any(passage in texts for split in passages.values() for passage in split)
    assert all(bucket(p) == split for split, ps in passages.items() for p in ps)


def test_validation_documents_are_disjoint_from_training_documents(train):
    seen = {row["text"] for row in train}
    assert not seen & {row["text"] for row in documents(1, 500, split="dev")}


def test_held_wordings_and_facts_that_are_never_asked_stay_out_of_training(train):
    questions = set(re.findall(r"[^\n]*\?", "\n".join(row["text"].replace("Q: ", "\n") for row in train)))
    assert not questions & {q for fact in facts() for q in fact.held}
    assert not questions & {q for fact in facts() if not fact.asked for q in fact.questions}


def test_replay_mentions_no_fact_that_retention_probes_ask():
    text = "\n".join(old_world_text(3, 4000))
    probes = fact_probes("all", 1, 2000)
    assert len({(row["question"]) for row in probes}) >= 1000
    assert not [row for row in probes if row["question"] in text]
    assert not [s for fact in facts() if not fact.replayed for s in fact.statements if s in text]


def test_fact_probes_of_dev_and_test_share_nothing():
    dev, test = ({row["question"] for row in fact_probes(split, 1, 600)} for split in ("dev", "test"))
    assert len(dev) == len(test) == 600 and not dev & test


def test_sums_of_the_probes_are_never_practised(train):
    for row in train:
        for a, sign, b, c in re.findall(
            r"(\d+) (\+|-|plus|minus) (\d+)(?:\?<\|end\|>\n<\|assistant\|>\n|\? A: | = | is )(\d+)", row["text"]
        ):
            assert not held_sum(int(a), int(b))
            assert int(c) == (int(a) + int(b) if sign in "+plus" else int(a) - int(b))
    assert all(is_right(row["answer"], row["answer"]) for row in arithmetic_probes(1, 50))


def test_no_special_token_but_padding_and_the_end_of_text_is_absent_from_training(train):
    text = "".join(row["text"] for row in train)
    assert [token for token in SPECIAL_TOKENS if token not in text] == ["<|endoftext|>", "<|pad|>"]


def test_the_world_has_two_thousand_words(train):
    extra = list(documents(7, 6000))
    words = Counter(w for row in train + extra for w in re.findall(r"[^\W\d_]+", row["text"]))
    assert len([w for w in words if w.islower()]) >= 2000


def test_every_mixture_draws_every_one_of_its_registers():
    for name, weights in MIXTURES.items():
        drawn = Counter(row["register"] for row in documents(1, 1500, mixture=name))
        assert set(drawn) == set(weights)


def test_the_chat_form_is_exact():
    assert render(chat("Hi", "Yes")) == "<|user|>\nHi<|end|>\n<|assistant|>\nYes<|end|>\n"
    assert (
        render(chat("Hi", system="Be brief."), prompt=True)
        == "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n"
    )
    assert plain("Who?", "Ivo") == "Q: Who? A: Ivo"
    assert first_answer(" Ivo<|end|>\nmore") == "Ivo"


def test_small_words_are_right():
    assert [plural(w) for w in ("knife", "box", "berry", "day", "trout")] == [
        "knives",
        "boxes",
        "berries",
        "days",
        "trout",
    ]
    assert (article("apple"), article("mill"), join(["a", "b", "c"])) == ("an apple", "a mill", "a, b and c")
    assert say(Random(1), "(x|x) {n}", n=3) == "x 3"


def test_the_corpus_is_written_as_rows_with_text(tmp_path):
    written = write_corpus(tmp_path, 1, drill=10, first=50, main=80, held=20, probes=10)
    assert written["first.jsonl"] == 50 and written["main.jsonl"] == 80 and written["val.jsonl"] == 20
    for line in (tmp_path / "main.jsonl").read_text(encoding="utf-8").splitlines():
        assert {"text", "register"} <= set(json.loads(line))
    assert all((tmp_path / name).exists() for name in written)
