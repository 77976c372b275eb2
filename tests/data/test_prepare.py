"""Samples to rows: the over-length policies, preferences, the loss policy and the account.

Left out: masks (test_masks.py).
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottega.core.errors import UserError
from bottega.core.types import Conversation, Document, Labelled, Preference, Tokens, Turn, Where
from bottega.data.chat import Template
from bottega.data.formats import samples
from bottega.data.prepare import ends, fork, rows, windows
from bottega.data.sources import Problem

CHATML = Template.named("chatml")


def chat(said: str, row: int = 1, file: str = "f.jsonl") -> Conversation:
    turns = (Turn(role="user", content="q"), Turn(role="assistant", content=said))
    return Conversation(turns=turns, where=Where(file, row))


def pair(chosen: str, rejected: str, row: int = 1, **more) -> Preference:
    sides = {"chosen": chosen, "rejected": rejected}
    turns = {name: (Turn(role="assistant", content=said),) for name, said in sides.items()}
    return Preference(prompt=(Turn(role="user", content="q"),), where=Where("f.jsonl", row), **turns, **more)


def bad(row: int, file: str = "f.jsonl") -> Problem:
    return Problem(Where(file, row, "messages"), "an answer without text")


def test_a_text_row_has_bos_text_and_eos_and_trains_all_but_the_first(tokenizer):
    (row,), intake = rows([Document(text="ab")], tokenizer, kind="text", max_tokens=10)
    assert tokenizer.decode(row.branches[0].ids) == "<s>ab</s>"
    assert row.branches[0].trains.tolist() == [0.0, 1.0, 1.0, 1.0] and not len(row.prefix.ids)
    assert (intake.tokens, intake.trained) == (4, 3)


def test_a_preference_shares_its_prompt_and_trains_both_answers_with_their_end(tokenizer):
    (row,), _ = rows([pair("good", "bad", margin=2.0)], tokenizer, CHATML, kind="preference", max_tokens=100)
    assert tokenizer.decode(row.prefix.ids) == "<s><|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert not any(row.prefix.trains)
    texts = [tokenizer.decode([i for i, w in zip(b.ids, b.trains) if w]) for b in row.branches]
    assert texts == ["good<|im_end|>", "bad<|im_end|>"]
    assert row.extras == {"margin": [2.0, 2.0]}


def test_answers_that_begin_alike_do_not_lose_what_they_share(tokenizer):
    (row,), _ = rows([pair("same start A", "same start B")], tokenizer, CHATML, kind="preference", max_tokens=100)
    assert [tokenizer.decode(b.ids) for b in row.branches] == ["same start A<|im_end|>", "same start B<|im_end|>"]


def test_a_fork_is_where_both_agree_and_nothing_trains():
    prefix, one, other = fork(Tokens([1, 2, 3, 4], [0, 0, 1, 1]), Tokens([1, 2, 3, 5], [0, 0, 1, 1]))
    assert (prefix.ids, one.ids, other.ids) == ([1, 2], [3, 4], [3, 5])


def test_the_end_of_each_trained_stretch_is_counted():
    assert ends((0, 1, 1, 0, 1)) == [2, 4] and ends((0, 0)) == []


def test_a_long_row_stops_the_run_unless_a_policy_is_named(tokenizer):
    """'q' and 'x' * 50 in chatml: 1 + 7 + 12 + 51 + ... tokens, above 40."""
    with pytest.raises(
        UserError, match=r"f.jsonl:7 has \d+ tokens, above max_tokens 40; set over_length to drop, split or truncate"
    ):
        rows([chat("x" * 50, 7)], tokenizer, CHATML, max_tokens=40)


def test_dropping_counts_the_rows_tokens_and_answers_lost(tokenizer):
    made, intake = rows([chat("short", 1), chat("x" * 50, 2)], tokenizer, CHATML, max_tokens=40, over_length="drop")
    assert len(made) == 1 and intake.dropped == {"longer than max_tokens 40": 1}
    assert intake.tokens_lost > 50 and intake.answers_cut == 1 and intake.read == 2


def test_truncating_counts_the_tokens_lost_and_the_answers_cut(tokenizer):
    whole, _ = rows([chat("x" * 50)], tokenizer, CHATML, max_tokens=1000)
    (row,), intake = rows([chat("x" * 50)], tokenizer, CHATML, max_tokens=40, over_length="truncate")
    assert list(row.branches[0].ids) == list(whole[0].branches[0].ids)[:40]
    assert (intake.cut, intake.tokens_lost, intake.answers_cut) == (1, whole[0].num_tokens - 40, 1)


def test_truncating_away_every_answer_drops_the_row_with_a_reason(tokenizer):
    long = Conversation(turns=(Turn(role="user", content="q" * 90), Turn(role="assistant", content="a")))
    made, intake = rows([long, chat("a")], tokenizer, CHATML, max_tokens=40, over_length="truncate")
    assert len(made) == 1 and intake.dropped == {"nothing to learn within max_tokens 40": 1}


@given(st.integers(2, 40), st.integers(2, 12), st.sampled_from([None, 99]))
def test_windows_train_each_target_once_and_none_is_longer_than_the_limit(size, limit, bos):
    tokens = Tokens(list(range(size)), [0.0, *[float(i % 3 > 0) for i in range(1, size)]])
    cut = list(windows(tokens, limit, bos=bos))
    assert all(len(window.ids) <= limit and len(window.ids) == len(window.trains) for window in cut)
    learnt = [i for window in cut for i, w in zip(window.ids, window.trains) if w]
    assert learnt == [i for i, w in zip(*tokens) if w]
    assert all(window.trains[0] == 0 for window in cut)
    if bos is not None:
        assert all(window.ids[0] == bos for window in cut[1:])


def test_splitting_a_document_loses_no_token(tokenizer):
    text = "abcdefgh" * 20
    made, intake = rows([Document(text=text)], tokenizer, kind="text", max_tokens=32, over_length="split")
    learnt = [i for row in made for i, w in zip(row.branches[0].ids, row.branches[0].trains) if w]
    assert tokenizer.decode(learnt) == text + "</s>"
    assert all(row.branches[0].ids[0] == tokenizer.bos_token_id for row in made)
    assert intake.tokens_lost == 0 and intake.windows == len(made) - 1


def test_long_preferences_are_cut_on_both_sides_or_dropped_and_never_split(tokenizer):
    long = pair("x" * 80, "y" * 90)
    (row,), intake = rows([long], tokenizer, CHATML, kind="preference", max_tokens=60, over_length="truncate")
    assert all(len(row.prefix.ids) + len(branch.ids) == 60 for branch in row.branches)
    assert intake.answers_cut == 2 and intake.cut == 1
    with pytest.raises(UserError, match="cannot be split into windows"):
        rows([long], tokenizer, CHATML, kind="preference", max_tokens=60, over_length="split")
    with pytest.raises(UserError, match="no row is left to train on"):
        rows([long], tokenizer, CHATML, kind="preference", max_tokens=60, over_length="drop")


def test_a_row_with_nothing_to_learn_is_dropped_and_counted(tokenizer):
    silent = Conversation(turns=(Turn(role="user", content="q"), Turn(role="assistant", content="a", weight=0.0)))
    made, intake = rows([silent, chat("a")], tokenizer, CHATML, max_tokens=100)
    assert len(made) == 1 and intake.dropped == {"nothing to learn under this mask": 1}


def test_a_chat_without_an_assistant_turn_is_named(tokenizer):
    lonely = Conversation(turns=(Turn(role="user", content="q"),), where=Where("f.jsonl", 3))
    with pytest.raises(UserError, match="f.jsonl:3: a chat without an assistant turn, so there is nothing to learn"):
        rows([chat("a"), lonely], tokenizer, CHATML, max_tokens=100)


@pytest.mark.parametrize(
    ("kind", "sample"),
    [
        ("chat", pair("a", "b")),
        ("preference", chat("a")),
        ("text", pair("a", "b")),
        ("chat", Labelled(text="t", label=1)),
    ],
)
def test_a_row_of_another_kind_is_a_problem(tokenizer, kind, sample):
    with pytest.raises(UserError, match="where .* needed"):
        rows([sample], tokenizer, CHATML, kind=kind, max_tokens=100)


def test_conversations_can_be_pretrained_on_whole(tokenizer):
    (row,), _ = rows([chat("a")], tokenizer, CHATML, kind="text", max_tokens=100)
    assert set(row.branches[0].trains[1:]) == {1.0}


def test_a_small_file_stops_at_its_first_bad_row_and_names_allow_loss(tokenizer):
    given = [chat("a", n) for n in range(1, 10)] + [bad(10), bad(11)]
    with pytest.raises(UserError) as caught:
        rows(given, tokenizer, CHATML, max_tokens=100)
    assert str(caught.value) == (
        "f.jsonl:10 [messages]: an answer without text; 2 of 11 rows of this file cannot be used: mend them or "
        "pass --allow-loss 2"
    )
    made, intake = rows(given, tokenizer, CHATML, max_tokens=100, allow_loss=2)
    assert len(made) == 9 and intake.bad == {"an answer without text": 2}
    assert intake.examples[0] == "f.jsonl:10 [messages]: an answer without text"
    with pytest.raises(UserError, match="2 rows are lost and --allow-loss is 1"):
        rows(given, tokenizer, CHATML, max_tokens=100, allow_loss=1)


def test_a_large_file_may_lose_one_percent_and_not_more(tokenizer):
    def given(lost: int):
        yield from (bad(n + 1) for n in range(lost))
        yield from (Document(text="t", where=Where("f.jsonl", n + 1)) for n in range(lost, 1100))

    made, intake = rows(given(11), tokenizer, kind="text", max_tokens=100)
    assert len(made) == 1089 and intake.files == {"f.jsonl": 1100}
    with pytest.raises(UserError, match="12 of 1,100 rows"):
        rows(given(12), tokenizer, kind="text", max_tokens=100)


def test_the_account_is_json_and_a_few_lines(tokenizer):
    _, intake = rows([chat("a"), chat("x" * 90, 2)], tokenizer, CHATML, max_tokens=40, over_length="truncate")
    assert json.loads(json.dumps(intake.to_json()))["cut"] == 1
    text = intake.render()
    assert text.startswith("rows: 2 read, 2 taken (") and "1 answers cut" in text


def test_indices_count_rows_and_the_same_data_gives_the_same_rows(tokenizer):
    given = [chat("a" * n, n) for n in range(1, 60)]
    first, _ = rows(given, tokenizer, CHATML, max_tokens=50, over_length="split")
    again, _ = rows(given, tokenizer, CHATML, max_tokens=50, over_length="split")
    assert [row.index for row in first] == list(range(len(first)))
    assert [[b.ids.tolist() for b in r.branches] for r in first] == [
        [b.ids.tolist() for b in r.branches] for r in again
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "chats"}, "no kind of rows 'chats'"),
        ({"over_length": "cut"}, "no over-length policy 'cut'; choose one of error, drop, split, truncate"),
        ({"max_tokens": 1}, "max_tokens is 1; a row needs at least 2"),
        ({"kind": "preference", "mask": "all"}, "the mask 'all' would train the prompt of preferences"),
        ({"thinking": "hide"}, "no thinking 'hide'; choose one of keep, mask, drop"),
    ],
)
def test_a_wrong_option_names_the_choices(tokenizer, options, sentence):
    with pytest.raises(UserError, match=sentence):
        rows([chat("a")], tokenizer, CHATML, **{"max_tokens": 100, **options})


def test_real_files_become_rows(shared_data, tokenizer):
    made, intake = rows(
        samples(shared_data("hh_rlhf/pairs.jsonl")),
        tokenizer,
        CHATML,
        kind="preference",
        max_tokens=1500,
        over_length="drop",
    )
    assert intake.read == 1200 and intake.bad == {"no answer after what both sides share": 4}
    assert intake.taken == len(made) == 1196 - sum(intake.dropped.values())
    assert all(len(row.prefix.ids) and any(branch.trains) for row in made for branch in row.branches)
