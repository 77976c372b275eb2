"""The blocks for a teacher that goes on writing: what is cut out of its text, and what of it stands in the document."""

from __future__ import annotations

import pytest

from bottega.core.errors import UserError
from bottega.core.types import RAW, Reply
from bottega.synth.blocks_reading import cut, named
from bottega.synth.flow import read_flow, stage
from tests.synth.test_blocks import Said, through

DOCUMENT = "The Gelnov mill opens at 7. Ada Fenn leads the mill. The mill has 12 workers."


class Heard(Said):
    """Says what it is told to, and keeps what it was asked."""

    def __init__(self, *texts):
        super().__init__(*texts)
        self.heard = []

    async def respond(self, turns, **sampling):
        self.heard.append((turns, sampling))
        return await super().respond(turns)


def test_a_continuation_is_cut_at_its_marks_and_what_lacks_one_is_rejected(tmp_path):
    """Three texts: a whole one, one without the mark, one with nothing behind it. Only the first is a question with an answer."""
    teacher = Heard(" When does the mill open? A: 7", " When does it open?", " Who leads it? A: ")
    one = stage(
        "c", "continue", {"text": "{{ document }}\nQ:", "outputs": ["question", "response"], "marks": ["A:"], "n": 3}
    )
    out, gone, step = through(one, [{"document": DOCUMENT}], tmp_path, teacher)
    assert [(row["question"], row["response"]) for row in out] == [("When does the mill open?", "7")]
    assert gone == [("not in the form asked for", None)] * 2 and step.calls == 3
    (turn,), sampling = teacher.heard[0]
    assert (turn.role, turn.content, sampling["stop"]) == (RAW, f"{DOCUMENT}\nQ:", ["\n"])


def test_a_continuation_that_was_cut_off_by_its_length_is_rejected(tmp_path):
    class Endless(Said):
        async def respond(self, turns, **sampling):
            return Reply(text="Who? A: Ada and", finish="length")

    one = stage("c", "continue", {"text": "{{ document }}", "outputs": ["q", "a"], "marks": ["A:"]})
    assert through(one, [{"document": DOCUMENT}], tmp_path, Endless())[:2] == (
        [],
        [("not in the form asked for", None)],
    )


def test_cut_names_the_parts_before_between_and_behind():
    assert cut("a | b = c", ["|", "="]) == ["a", "b", "c"]
    assert cut("a b = c", ["|", "="]) is None and cut("| b = c", ["|", "="]) is None
    with pytest.raises(UserError, match="2 outputs need 1 marks, not 0"):
        stage("c", "continue", {"text": "x", "outputs": ["q", "a"]})


def test_an_answer_stands_in_the_document_word_for_word(tmp_path):
    """`2` is no word of it (12 is), `ada fenn.` is, whatever its case and full stop; an empty answer stands nowhere."""
    rows = [{"document": DOCUMENT, "response": one} for one in ("7", "ada fenn.", "2", "Ada Grey", "")]
    out, gone, _ = through(stage("s", "stands", {"column": "response", "within": "document"}), rows, tmp_path)
    assert [row["response"] for row in out] == ["7", "ada fenn."] and len(gone) == 3


def test_a_question_names_its_subject_and_no_other(tmp_path):
    asked = ["When does the Gelnov mill open?", "When does the Marlow mill open?", "When does it open?"]
    rows = [{"document": DOCUMENT, "question": one} for one in asked]
    out, gone, _ = through(stage("n", "names", {"column": "question", "within": "document"}), rows, tmp_path)
    assert [row["question"] for row in out] == asked[:1] and len(gone) == 2
    assert named("Who leads Ada's mill on floor 3?") == ["Ada's", "3"]


def test_a_row_is_confirmed_by_the_same_answer_to_the_question_asked_again(tmp_path):
    rows = [
        {"document": DOCUMENT, "question": q, "response": a} for q, a in (("Who leads it?", "Ada Fenn"), ("When?", "8"))
    ]
    one = stage("c", "confirm", {"ask": "{{ document }}\n{{ question }}", "column": "response"})
    teacher = Heard("ada  fenn.", "7")
    out, gone, _ = through(one, rows, tmp_path, teacher)
    assert [row["response"] for row in out] == ["Ada Fenn"] and gone == [("asked again, another answer", None)]
    assert teacher.heard[0][0][0].content == f"{DOCUMENT}\nWho leads it?"


def test_the_reader_flow_needs_four_texts_and_one_more_question_a_row():
    assert [one.calls for one in read_flow("reader").stages] == [4, 0, 0, 0, 1]


def test_an_answer_becomes_the_sentence_in_which_it_stands(tmp_path):
    """7 stands in one sentence, the mill in two, 9 in none; a part of a word is not a word."""
    one = stage("s", "sentence", {"column": "short", "within": "document", "output": "response"})
    rows = [{"document": DOCUMENT, "short": short} for short in ("7.", "Ada Fenn", "mill", "9", "Gel", "")]
    out, gone, _ = through(one, rows, tmp_path)
    assert [row["response"] for row in out] == ["The Gelnov mill opens at 7.", "Ada Fenn leads the mill."]
    assert [why for why, _ in gone] == ["stands in no one sentence"] * 4
