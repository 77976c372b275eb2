"""Scorers: what each says about replies that a person can judge."""

from __future__ import annotations

from decimal import Decimal

import pytest

from bottega.core.errors import UserError
from bottega.core.types import Reply
from bottega.grade.scorers import SCORERS, exact, f1, find_json, find_scorer, last_number, normalise, number, rouge_l


@pytest.mark.parametrize(
    ("metric", "options", "reply", "truth", "score"),
    [
        ("exact", {}, " The Keys, please. ", "keys please", 1),
        ("exact", {}, "key", "keys", 0),
        ("exact", {}, "Scorpio", ["Skorpio", "Scorpio"], 1),
        ("exact", {"normal": False}, "The keys", "the keys", 0),
        ("exact", {"normal": False}, "the keys\n", "the keys", 1),
        ("contains", {}, "She gave Anna's keys back.", "keys", 1),
        ("contains", {}, "monkeys", "keys", 0),
        ("contains", {"every": True}, "red and blue", ["red", "green"], 0.5),
        ("starts", {}, "Yes, it is.", "yes", 1),
        ("starts", {}, "Yesterday", "yes", 0),
        ("number", {}, "2 + 2 = 4\n#### 4", "#### 4", 1),
        ("number", {}, "It costs $1,200.00", "1200", 1),
        ("number", {}, "none", "0", 0),
        ("number", {"tolerance": 0.5}, "about 3.6", "4", 1),
        ("regex", {"pattern": r"answer: (\w+)", "group": 1}, "answer: blue.", "blue", 1),
        ("regex", {}, "order 66-B", r"\d{2}-[A-Z]", 1),
        ("valid_json", {}, "Sure: {\"a\": 1}", "", 1),
        ("valid_json", {}, "no", "", 0),
        ("json_equal", {}, "```json\n{\"b\": 1.0, \"a\": \"X\"}\n```", '{"a": "x", "b": 1}', 1),
        ("json_equal", {}, '{"a": "x", "b": 1, "c": 2}', '{"a": "x", "b": 1}', 0),
        ("json_equal", {"partial": True}, '{"a": "x", "b": 2}', {"a": "x", "b": 1}, 0.5),
        ("json_equal", {}, '{"a": true}', '{"a": 1}', 0),
        ("json_equal", {}, "{broken", '{"a": 1}', 0),
    ],
)  # fmt: skip
def test_a_metric_scores_a_reply_as_a_person_would(metric, options, reply, truth, score):
    assert find_scorer(metric, options)(Reply(text=reply), truth) == score


def test_stops_reads_how_the_reply_ended_and_not_its_text():
    score = find_scorer("stops")
    assert score(Reply(text="x", finish="stop"), "") == 1 and score(Reply(text="x", finish="length"), "") == 0


def test_the_last_number_knows_signs_separators_and_the_gsm8k_mark():
    assert last_number("12-5") == 5 and last_number("it is -5") == -5 and last_number("1,234.5 kg") == Decimal("1234.5")
    assert last_number("#### 18\nand 7 more") == 18 and last_number("none") is None and last_number("v1.") == 1


def test_f1_counts_words_as_multisets():
    """red barn / barn: precision 1/2, recall 1 -> 2/3; barn barn / barn: 2*1/3."""
    assert f1("the red barn", "a barn") == pytest.approx(2 / 3)
    assert f1("barn barn", "barn") == pytest.approx(2 / 3)
    assert f1("", "") == 1 and f1("", "x") == 0


def test_rouge_l_follows_the_longest_common_subsequence():
    """police killed the gunman / police kill the gunman: 3 of 4 words in order -> 2*3/8."""
    assert rouge_l("police killed the gunman", "police kill the gunman") == pytest.approx(0.75)
    assert rouge_l("gunman the killed police", "police kill the gunman") == pytest.approx(0.25)


def test_normalising_twice_changes_nothing_and_unicode_forms_agree():
    for text in ("The  Àtelier!", "ﬁne — work", "a an the"):
        assert normalise(normalise(text)) == normalise(text)
    assert exact("cafe\u0301", "caf\u00e9") == 1


def test_deep_or_endless_brackets_in_a_reply_are_no_json_and_no_crash():
    assert find_json("[" * 20_000) is None and number("9" * 500, "1") == 0


def test_a_wrong_metric_option_or_pattern_is_refused_with_what_there_is():
    with pytest.raises(UserError, match="'exat' is no metric; there are exact"):
        find_scorer("exat")
    with pytest.raises(UserError, match="'tol' is no option of metric number; it has tolerance"):
        find_scorer("number", {"tol": 1})
    with pytest.raises(UserError, match="is no regular expression"):
        find_scorer("regex", {"pattern": "("})(Reply(text="x"), "x")
    with pytest.raises(UserError, match="0 accepted answers"):
        find_scorer("exact")(Reply(text="x"), [])


def test_every_metric_of_the_table_says_what_it_does_and_stays_within_0_and_1():
    for name, function in SCORERS.items():
        assert function.__doc__, name
        truth = "{}" if name == "json_equal" else "x"
        assert 0 <= find_scorer(name)(Reply(text="x {}"), truth) <= 1
