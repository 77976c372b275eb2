"""The blocks of flows, one by one, on rows written by hand."""

from __future__ import annotations

import asyncio

import pytest

from bottega.core.errors import UserError
from bottega.core.journal import Journal
from bottega.core.types import Reply
from bottega.synth import blocks, blocks_teacher
from bottega.synth.blocks_arithmetic import false_equations
from bottega.synth.blocks_parse import Parse
from bottega.synth.flow import running, stage
from bottega.synth.flow_prompts import Prompts
from bottega.synth.pipeline_account import Account, Step
from bottega.synth.teacher import Asker


class Said:
    """A teacher that says what it is told to, one after the other."""

    identity = "said"

    def __init__(self, *texts):
        self.texts = list(texts)

    async def respond(self, turns, **sampling):
        return Reply(text=self.texts.pop(0))


def through(block_stage, rows, tmp_path, teacher=None, wanted=99):
    """What comes out, what was rejected (reason, score), and the step."""
    gone = []
    account = Account(leaf="leaf", sink=gone.append)

    async def source():
        for row in rows:
            account.asked += 1
            yield row

    async def run():
        with Journal(tmp_path / "j.sqlite") as journal:
            context = blocks.Context(
                account=account, step=Step(name=""), asker=Asker(teacher or Said(), journal), language="en",
                wanted=lambda: wanted, prompts=Prompts(language="en"),
            )  # fmt: skip
            async with running([block_stage], source(), context) as stream:
                return [row async for row in stream]

    out = asyncio.run(run())
    account.kept = len(out)
    assert account.sums()
    return out, [(one["reason"], one["score"]) for one in gone], account.steps[0]


def test_filter_converts_compares_and_keeps_the_score_of_what_goes(tmp_path):
    """Scores " 2 ", "Score: 3" and "none": at least 2 keeps the first two; the third has no number."""
    block = stage("f", "filter", {"column": "s", "value": 2.0, "operation": "ge", "convert": "float"})
    out, gone, _ = through(block, [{"s": " 2 "}, {"s": "Score: 3"}, {"s": "none"}, {"s": "1"}], tmp_path)
    assert [row["s"] for row in out] == [" 2 ", "Score: 3"]
    assert [score for _, score in gone] == [None, 1.0]


def test_flatten_rename_duplicate_combine_select_populate_and_majority(tmp_path):
    rows = [{"a": "1", "b": "2", "k": "x"}]
    out, _, step = through(stage("f", "flatten", {"columns": ["a", "b"], "value": "v", "label": "l"}), rows, tmp_path)
    assert out == [{"k": "x", "l": "a", "v": "1"}, {"k": "x", "l": "b", "v": "2"}] and step.made == 1
    assert through(stage("r", "rename", {"columns": {"a": "b", "b": "a"}}), rows, tmp_path)[0] == [
        {"b": "1", "a": "2", "k": "x"}
    ]
    assert through(stage("d", "duplicate", {"columns": {"a": "c"}}), rows, tmp_path)[0][0]["c"] == "1"
    assert through(stage("c", "combine", {"columns": ["a", "b"], "output": "o"}), rows, tmp_path)[0][0]["o"] == "1\n\n2"
    chosen = stage("s", "select", {"choices": {"x": "b"}, "choice": "k", "output": "o"})
    assert through(chosen, rows, tmp_path)[0][0]["o"] == "2"
    filled = stage("p", "populate", {"column": "k", "values": {"x": {"more": 1}}})
    assert through(filled, [*rows, {"k": "y"}], tmp_path)[:2] == ([{**rows[0], "more": 1}], [("k is none of x", None)])
    votes = [{"m": "b"}, {"m": "a"}, {"m": "a"}]
    assert [row["m"] for row in through(stage("m", "majority", {"column": "m"}), votes, tmp_path)[0]] == ["a"] * 3


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    with pytest.raises(UserError, match="needs the column 'z', but rows have a"):
        through(stage("d", "dedupe", {"columns": ["z"]}), [{"a": "1"}], tmp_path)


def test_dedupe_knows_case_and_space_and_sample_takes_the_same_rows_each_time(tmp_path):
    out, gone, _ = through(
        stage("d", "dedupe", {"columns": ["q"]}), [{"q": "A  b"}, {"q": "a b "}, {"q": "c"}], tmp_path
    )
    assert len(out) == 2 and gone == [("the same again", None)]
    rows = [{"q": str(n)} for n in range(400)]
    half = stage("s", "sample", {"share": 0.5})
    first, _, _ = through(half, rows, tmp_path)
    again, _, _ = through(half, rows[::-1], tmp_path)
    assert 150 < len(first) < 250 and first == again[::-1]


def test_best_and_worst_of_neighbours_become_a_pair(tmp_path):
    """q1 has answers of 1, 3 and 2: best 3 against worst 1, margin 2. q2's are equal: rejected."""
    rows = [{"q": "1", "t": t, "s": s} for t, s in (("bad", 1), ("good", 3), ("fair", "2"))] + [
        {"q": "2", "t": t, "s": 2} for t in "ab"
    ]
    out, gone, step = through(stage("p", "pair", {"group": ["q"], "text": "t", "score": "s"}), rows, tmp_path)
    assert [(row["chosen"], row["rejected"], row["margin"]) for row in out] == [("good", "bad", 2.0)]
    assert gone == [("answers of equal worth", 0.0)] and step.made == -3


def test_multiple_choice_is_taken_apart_and_unclear_ones_go(tmp_path):
    good = {"q": "What is it?\n\nA) tin\nB) copper\nC) iron", "a": "B) copper"}
    rows = [good, {"q": "What?\nA) x\nB) x\nC) y", "a": "A) x"}, {**good, "a": "D) gold"}, {"q": "What?", "a": "A"}]
    out, gone, _ = through(stage("o", "options", {"question": "q", "answer": "a"}), rows, tmp_path)
    assert [(row["stem"], row["choices"], row["gold"]) for row in out] == [
        ("What is it?", ["tin", "copper", "iron"], 1)
    ]
    assert [reason for reason, _ in gone] == [
        "no clear choices",
        "the answer is none of the choices",
        "no clear choices",
    ]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("3 x 12 = 36 and 36 - 7 = 28", ["36 - 7 = 28"]), ("10 / 3 = 3.33", []), ("10 / 3 = 3.4", ["10 / 3 = 3.4"]),
        ("(2 + 3) * 4 = 20", []), ("$3 * 2 = $6, 50% * 10 = 5", []), ("1,000 + 1 = 1001", []), ("x = 5 and 5 = 6x", []),
        ("1 / 0 = 1", []), ("7" * 300 + " = 8", []),
    ],
)  # fmt: skip
def test_equations_are_checked_exactly_and_a_rounded_side_by_half_its_last_place(text, wrong):
    assert false_equations(text) == wrong


def test_tags_and_patterns_are_read_as_instructlab_does():
    tags = Parse.tags(["question", "response"])
    text = tags.write({"question": "a?", "response": "b"}) + "\n" + tags.write({"question": "c?", "response": "d"})
    assert tags.read(text) == [{"question": "a?", "response": "b"}, {"question": "c?", "response": "d"}]
    assert tags.read("[Start of Question]\na?\n[End of Question]\n[Start of Response]\nb") == [
        {"question": "a?", "response": "b"}
    ]
    assert tags.read("[Start of Question]\na?\n[End of Question]\n[Start of Response]\nb", cut=True) == []
    whole = Parse(columns=("output",), starts=("",), ends=("",))
    assert whole.read("  all of it ") == [{"output": "all of it"}] and whole.read("  ") == []
    pattern = Parse(columns=("q", "a"), pattern=r"\[Q\]\s*(.*?)\s*\[A\]\s*(.*?)\s*(?=\[Q\]|$)", cleanup=("[END]",))
    assert pattern.read("[Q] one [A] two [END] [Q] three [A] four") == [
        {"q": "one", "a": "two"},
        {"q": "three", "a": "four"},
    ]
    with pytest.raises(UserError, match="1 groups for 2 columns"):
        Parse(columns=("q", "a"), pattern="(x)")


def test_a_pattern_that_never_ends_is_given_up():
    assert Parse(columns=("a",), pattern=r"(a+)+\Zb").read("a" * 4000 + "c") == []


def test_a_judge_without_a_verdict_rejects_and_votes_are_averaged(tmp_path):
    """Votes 3, 1 and 3 on a scale of 1 to 3: mean 2.33 passes 2."""
    row = {"question": "q", "response": "r", "context": ""}
    say = "[Start of Explanation]\nwhy\n[End of Explanation]\n[Start of Score]\n{}\n[End of Score]".format
    block = stage("j", "judge", {"prompt": "pair_score", "votes": 3})
    out, _, step = through(block, [row], tmp_path, Said(say(3), say(1), say(3)))
    assert round(out[0]["pair_score"], 2) == 2.33 and step.calls == 3
    one = stage("j", "judge", {"prompt": "pair_score"})
    assert through(one, [row], tmp_path / "b", Said("hmm"))[1] == [("pair_score: no verdict", None)]
    assert through(one, [row], tmp_path / "c", Said(say(1)))[1] == [("pair_score", 1.0)]


def test_numbers_must_agree(tmp_path):
    """36 against 36 and 35: two of three agree. 36 against 35 and 35: one of three."""
    say = "[Start of Response]\nIt is {}\n[End of Response]".format
    row = {"question": "3 times 12?", "response": "It is 36", "pairs": [], "context": ""}
    block = stage("a", "agree", {"prompt": "answer", "column": "response", "output": "response"})
    assert len(through(block, [row], tmp_path, Said(say(36), say(35)))[0]) == 1
    assert through(block, [row], tmp_path / "b", Said(say(35), say(35)))[1] == [("answers do not agree", 1 / 3)]


def test_several_answers_and_personas_are_different_questions_and_rows_keep_their_order(tmp_path):
    asked = []

    class Slow:
        identity = "slow"

        async def respond(self, turns, **sampling):
            asked.append((turns[0].content[:9], sampling["seed"]))
            await asyncio.sleep(0.02 / len(asked))
            return Reply(text=f"[Start of Question]\n{turns[-1].content.split('[End')[0][-2]}\n[End of Question]")

    options = {"prompt": "harder", "outputs": ["question"], "n": 2, "personas": ["precise", "creative"]}
    rows = [{"question": str(n)} for n in range(9)]
    out, _, step = through(stage("g", "generate", options), rows, tmp_path, Slow())
    assert [row["question"] for row in out] == [str(n) for n in range(9) for _ in range(4)]
    assert step.calls == 36 and len({seed for _, seed in asked}) == 4
    repeated, _, _ = through(stage("i", "iterate", {"times": 3}), [{"q": "1", "_number": 2}], tmp_path)
    assert [blocks_teacher.number_of(row, 0) for row in repeated] == [6 * 64, 7 * 64, 8 * 64]


def test_a_dialogue_alternates_and_one_that_repeats_itself_goes(tmp_path):
    ask = "[Start of Question]\n{}\n[End of Question]".format
    say = "[Start of Response]\n{}\n[End of Response]".format
    options = {"asks": "dialogue_question", "answers": "dialogue_answer", "turns": 2}
    row = {"task_description": "t", "document": ""}
    out, _, step = through(
        stage("d", "dialogue", options), [row], tmp_path, Said(ask("a?"), say("b"), ask("c?"), say("d"))
    )
    assert [turn["content"] for turn in out[0]["messages"]] == ["a?", "b", "c?", "d"] and step.calls == 4
    again = Said(ask("a?"), say("b"), ask("a?"), say("d"))
    assert through(stage("d", "dialogue", options), [row], tmp_path / "b", again)[1] == [
        ("the conversation repeats itself", 4)
    ]
