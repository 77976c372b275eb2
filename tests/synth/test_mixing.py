"""Rows in their forms: where a document stands, how often the right one is missing, how many rows a leaf has (L15)."""

import pytest

from bottega.core.errors import UserError
from bottega.synth.mixing import Mix, counts, in_form, leaf_of, mixed

DOCUMENTS = {f"d{n}": f"Text number {n}." for n in range(8)}


def row(number, leaf="knowledge/a", document=None):
    about = {"leaf": leaf} | ({"document": document} if document else {})
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"Question {number}?"},
        {"role": "assistant", "content": f"Answer {number}."},
    ]
    return {"messages": messages, "unmask": False, "metadata": about}


def asked(made):
    return made["messages"][1]["content"]


def test_closed_rows_stay_and_grounded_ones_begin_with_their_document():
    plain = row(1, document="d3")
    closed = in_form(plain, DOCUMENTS, Mix(forms={"closed": 1}))
    assert closed["messages"] == plain["messages"] and closed["metadata"]["form"] == "closed"
    grounded = in_form(plain, DOCUMENTS, Mix(forms={"grounded": 1}))
    assert asked(grounded) == "Text number 3.\n\nQuestion 1?" and grounded["messages"][::2] == plain["messages"][::2]
    assert plain["metadata"] == {"leaf": "knowledge/a", "document": "d3"}, "the row itself is not touched"


def test_raft_puts_the_document_among_others_and_leaves_it_out_as_often_as_it_is_told():
    """Three others each time; of 400 rows four in five hold the right one, at places of their own."""
    mix = Mix(forms={"raft": 1}, distractors=3, golden=0.8)
    there, places = 0, set()
    for number in range(400):
        shown = asked(in_form(row(number, document="d2"), DOCUMENTS, mix)).split("\n\n")
        assert (
            shown.pop() == f"Question {number}?"
            and len(set(shown)) == len(shown)
            and set(shown) <= set(DOCUMENTS.values())
        )
        right = DOCUMENTS["d2"] in shown
        assert len(shown) == 3 + right
        there += right
        places |= {shown.index(DOCUMENTS["d2"])} if right else set()
    assert 290 <= there <= 350 and places == {0, 1, 2, 3}


def test_raft_with_no_other_document_shows_the_right_one():
    made = in_form(row(1, document="d2"), {"d2": "Alone."}, Mix(forms={"raft": 1}, golden=0.0))
    assert asked(made) == "Alone.\n\nQuestion 1?"


def test_a_row_without_a_document_is_in_no_form():
    for one in (row(1), row(2, document="gone"), {"messages": [{"role": "assistant", "content": "x"}], "metadata": {}}):
        assert in_form(one, DOCUMENTS, Mix(forms={"grounded": 1})) is one


def test_a_rows_form_depends_on_itself_and_the_seed_alone():
    rows = [row(n, document="d1") for n in range(40)]
    mix = Mix(forms={"closed": 0.5, "grounded": 0.5})
    forms = [in_form(one, DOCUMENTS, mix)["metadata"]["form"] for one in rows]
    assert {*forms} == {"closed", "grounded"} and 10 <= forms.count("closed") <= 30
    assert [in_form(one, DOCUMENTS, mix)["metadata"]["form"] for one in rows[::-1]] == forms[::-1]
    other = Mix(forms={"closed": 0.5, "grounded": 0.5}, seed=1)
    assert [in_form(one, DOCUMENTS, other)["metadata"]["form"] for one in rows] != forms


def test_leaves_are_capped_and_filled_up_to_their_share():
    """90 rows of one leaf and 3 of another: at most 30 each, and at least a quarter: 30 and 10, the three repeated."""
    rows = [row(n) for n in range(90)] + [row(n, leaf="knowledge/b") for n in range(3)]
    made = mixed(rows, {}, Mix(per_leaf=30, least=0.25))
    assert counts(made) == {"knowledge/a": {"as made": 30}, "knowledge/b": {"as made": 10}}
    small = [asked(one) for one in made if leaf_of(one) == "knowledge/b"]
    assert sorted({small.count(one) for one in small}) == [3, 4] and len({*small}) == 3
    assert [*made] == mixed(rows, {}, Mix(per_leaf=30, least=0.25)), "the same seed, the same rows"
    assert made != mixed(rows, {}, Mix(per_leaf=30, least=0.25, seed=1))
    assert len(mixed(rows, {}, Mix())) == 93 and mixed([], {}, Mix(least=0.1)) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"forms": {"open": 1}}, "the form 'open' is not known; there are closed, grounded, raft"),
        ({"forms": {"closed": -1}}, "closed=-1 draw nothing"),
        ({"forms": {"closed": float("nan")}}, "closed=nan draw nothing"),
        ({"forms": {"closed": 0}}, "closed=0 draw nothing"),
        ({"golden": 1.5}, "golden is 1.5"),
        ({"least": 1.0}, "the least share of a leaf is 1"),
        ({"forms": {"raft": 1}, "distractors": 0}, "distractors is 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, reason):
    with pytest.raises(UserError, match=reason):
        Mix(**options)


def test_more_least_shares_than_fit_are_refused():
    with pytest.raises(UserError, match="3 leaves of at least 0.5 each .* at most 0.333 each fits"):
        mixed([row(1, leaf=name) for name in "abc"], {}, Mix(least=0.5))
