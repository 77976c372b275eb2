"""The report's section on length and variety of answers (L18)."""

from types import SimpleNamespace

import pytest

from bottega.evals.runner import ItemScore
from bottega.workshop import report_answers as own


def items(*replies):
    return [ItemScore(key=str(number), value=0.0, reply=reply) for number, reply in enumerate(replies)]


def test_the_change_in_length_is_paired_by_item():
    """One word more, three more, one less: 1 on average, and 2 of standard deviation over the root of 3 on both sides."""
    pairs = own.paired(items("a", "a b", "a b c"), items("a b", "a b c d e", "a b")[::-1])
    mean, low, high = own.length_change(pairs)
    assert mean == 1 and (low, high) == pytest.approx((1 - 1.96 * 2 / 3**0.5, 1 + 1.96 * 2 / 3**0.5), abs=0.01)
    assert own.length_change([("a", "a b")])[1:] == (float("-inf"), float("inf"))


def test_items_of_one_side_alone_are_left_out():
    assert own.paired(items("a", "b", "c"), items("x", "y")) == [("a", "x"), ("b", "y")]


def test_variety_is_counted_over_as_many_words_on_both_sides():
    assert own.alone(["Yes.", " yes", "No", "Maybe so"]) == 0.5
    assert own.different(["one two", "two three four"], 3) == 2
    assert own.different([], 0) == 0


def card(**tasks):
    return SimpleNamespace(scores=[SimpleNamespace(task=task, items=own) for task, own in tasks.items()])


def test_the_section_has_a_line_for_each_task_with_replies():
    before = card(asked=items("a", "a", "b c"), silent=items("", "", ""), gone=items("x", "y", "z"))
    after = card(asked=items("a b", "a c", "d"), silent=items("", "", ""))
    page = own.answers(SimpleNamespace(cards={"before": before, "after": after}))
    assert "How answers changed" in page and page.count("<tr>") == 2 and "asked" in page and "+0.33" in page
    assert own.answers(SimpleNamespace(cards={"before": before})) == ""
    assert own.answers(SimpleNamespace(cards={"before": card(), "after": card()})) == ""
