"""Tasks that another model rates (rows L19, E1): conversations turn by turn, controls, unclear verdicts; hand-made numbers."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest

from bottega.core.errors import Mismatch, UserError
from bottega.core.types import Reply
from bottega.evals.compare import compare
from bottega.evals.judged import Judge, judged
from bottega.evals.runner import Scorecard, evaluate_with
from bottega.evals.tasks import Task, items, load_task

RUBRIC = "Q {{ question }} R {{ reply }} S {{ low }}-{{ high }}"
TRUTH = "Q {{ question }} T {{ answer }} R {{ reply }}"


class Scripted:
    """Answers by a function of the last turn's text; keeps what it was asked."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def plain(self, text):
        return text

    def chat(self, turns):
        return [(turn.role, turn.content) for turn in turns]

    def replies(self, prompts, *, max_tokens, stop, chat, fit):
        self.asked += prompts
        return [Reply(text=self.answer(p if isinstance(p, str) else p[-1][1]), finish="stop") for p in prompts]


def task(**more):
    rows = more.pop(
        "rows", ({"prompt": "one", "answer": "1"}, {"prompt": "two", "answer": "2"}, {"prompt": "six", "answer": "6"})
    )
    known = {
        "name": "rated",
        "kind": "judged",
        "chat": True,
        "rubric": RUBRIC,
        "rubric_with_answer": TRUTH,
        "low": 1,
        "high": 5,
    }
    return Task(rows=tuple(rows), **(known | more))


def strict(text: str) -> str:
    """5 where reply and truth are equal, else 1; reasons in front."""
    found = re.search(r"T (\S+) R (\S+)", text)
    return f"It says 7 things.\nRating: [[{5 if found and found[1] == found[2] else 1}]]"


def test_a_reply_is_rated_against_its_truth_and_the_controls_say_what_the_judge_is_worth():
    student = Scripted({"one": "1", "two": "3", "six": "6"}.get)
    (score,) = evaluate_with(student, [task()], judge=Judge(asked=Scripted(strict), name="strict")).scores
    assert score.value == pytest.approx((5 + 1 + 5) / 3) and score.n == 3 and score.metric == "rating"
    assert [item.value for item in score.items] == [5, 1, 5] and score.items[1].said.startswith("It says")
    assert (score.verdicts.good, score.verdicts.bad, score.verdicts.controls) == (
        5,
        1,
        3,
    ) and not score.verdicts.doubt()


def test_a_judge_that_likes_everything_is_named():
    card = evaluate_with(Scripted(lambda _: "1"), [task()], judge=Judge(asked=Scripted(lambda _: "4"), name="kind"))
    assert (
        "kind rates known-good replies 4.00 and known-bad ones 4.00 of 5 (n=3 each): its ratings say little"
        in card.summary()
    )
    assert Scorecard.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_every_turn_is_asked_after_the_replies_before_it_and_rated_with_them_in_view():
    rows = [{"turns": ["a", "b"], "answer": ["x", "y"]}, {"turns": ["c", "d"]}]
    student = Scripted(lambda text: text * 2)
    judge = Scripted(lambda text: "[[2]]" if "R aa" in text or "R cc" in text else "[[4]]")
    one = task(rows=rows, turns="turns", rubric="R {{ reply }} C {{ conversation }}", rubric_with_answer="")
    outcomes, _ = judged(student, one, items(one, seed=0), Judge(asked=judge, name="j"))
    assert [outcome.parts for outcome in outcomes] == [(2, 4), (2, 4)] and outcomes[0].value == 3
    assert student.asked[2] == [("user", "a"), ("assistant", "aa"), ("user", "b")]
    assert judge.asked[1] == [("user", "R bb C User: a\n\nAssistant: aa\n\nUser: b\n\nAssistant: bb")]
    card = evaluate_with(student, [one], judge=Judge(asked=judge, name="j"))
    assert [(score.task, score.value) for score in card.scores] == [
        ("rated", 3),
        ("rated: turn 1", 2),
        ("rated: turn 2", 4),
    ]


def test_items_without_a_clear_rating_count_nowhere_and_a_comparison_leaves_them_out():
    def unsure(text: str) -> str:
        return "hard to say" if "Q two" in text else strict(text)

    cards = [
        evaluate_with(Scripted(answers.get), [task()], judge=Judge(asked=Scripted(unsure), name="unsure"), name=name)
        for name, answers in {
            "a": {"one": "1", "two": "2", "six": "0"},
            "b": {"one": "1", "two": "2", "six": "6"},
        }.items()
    ]
    score = cards[0].scores[0]
    assert score.n == 2 and score.value == 3 and len(score.verdicts.unjudged) == 1
    assert "1 items had no clear rating" in cards[0].summary()
    found = compare(*cards).tasks[0]
    assert (found.before, found.after, found.difference.n) == (3, 5, 2)
    other = replace(cards[1], scores=(replace(score, verdicts=replace(score.verdicts, judge="someone")),))
    with pytest.raises(Mismatch, match="was judged by unsure in one scorecard and by someone"):
        compare(cards[0], other)


def test_a_judge_that_rates_nothing_and_tasks_that_cannot_be_judged_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"mute gave no rating from 1 to 5 to any of 3 items of rated; .*'well'"):
        evaluate_with(Scripted(lambda _: "1"), [task()], judge=Judge(asked=Scripted(lambda _: "well"), name="mute"))
    with pytest.raises(UserError, match="task rated is judged by a model: name one, --judge MODEL"):
        evaluate_with(Scripted(lambda _: "1"), [task()])
    path = tmp_path / "t.yaml"
    for text, said in {
        "rubric: 'How good?'": "does not show what is judged",
        "low: 5\nhigh: 5\nrubric: '{{ reply }}'": "low must be below high",
        "low: 1": "does not say what the judge is asked",
        "metric: exact\nrubric: '{{ reply }}'": "takes neither metric nor shots",
    }.items():
        path.write_text(f"name: t\nkind: judged\nrows: [{{prompt: a}}]\n{text}\n")
        with pytest.raises(UserError, match=said):
            load_task(path)
    path.write_text("name: t\nkind: generation\nrows: [{prompt: a, answer: b}]\nrubric: '{{ reply }}'\n")
    with pytest.raises(UserError, match="of kind generation, which has no rubric"):
        load_task(path)
    with pytest.raises(UserError, match="the judge j has nothing to judge"):
        evaluate_with(
            Scripted(lambda _: "1"), [load_task_of_choice(tmp_path)], judge=Judge(asked=Scripted(strict), name="j")
        )


def load_task_of_choice(folder):
    path = folder / "plain.yaml"
    path.write_text("name: t\nkind: generation\nrows: [{prompt: a, answer: b}]\n")
    return load_task(path)


def test_an_item_without_the_truth_that_its_rubric_compares_with_is_named():
    rows = [{"prompt": "one", "answer": "1"}, {"prompt": "two"}]
    with pytest.raises(UserError, match="has no answer, and the rubric compares with one"):
        evaluate_with(
            Scripted(lambda _: "1"), [task(rows=rows, rubric="")], judge=Judge(asked=Scripted(strict), name="j")
        )


def test_a_judge_is_asked_about_a_text_once_in_all_that_it_rates():
    """Two models whose first replies are alike, and controls that are: the second asks about what is new."""
    scripted = Scripted(strict)
    judge = Judge(asked=scripted, name="j")
    for last in ("6", "7"):
        evaluate_with(Scripted({"one": "1", "two": "2", "six": last}.get), [task()], judge=judge)
    texts = [prompt[-1][1] for prompt in scripted.asked]
    assert len(texts) == len(set(texts)) == 3 + 3 + 1


def test_mt_bench_s_files_are_read_with_their_references_as_they_are(shared_data):
    for spec in ("mt_bench/question.jsonl", "mt_bench"):
        found = items(load_task(f"mt_bench={shared_data(spec)}"), seed=0)
        assert len(found) == 80 and sum("answer" in one.record for one in found) == 30
    whole = load_task(f"mt_bench={shared_data('mt_bench')}")
    card = evaluate_with(
        Scripted(lambda text: text[:20]), [whole], judge=Judge(asked=Scripted(lambda _: "[[7]]"), name="seven")
    )
    assert [score.value for score in card.scores] == [7, 7, 7] and card.scores[0].n == 80
    assert {item.group for item in card.scores[0].items} >= {"writing", "math", "coding"} and card.scores[
        0
    ].verdicts.controls == 12


def test_mt_bench_rows_that_are_none_are_named_with_their_line(tmp_path):
    (tmp_path / "question.jsonl").write_text('{"question_id": 1, "turns": ["a"]}\n{"question_id": 2, "turns": "b"}\n')
    with pytest.raises(UserError, match=r"question.jsonl:2 has no question_id with a list of turns"):
        items(load_task(f"mt_bench={tmp_path}"), seed=0)


def test_a_rating_beyond_the_scale_is_not_counted_as_one():
    one, judge = task(), Judge(asked=Scripted(lambda text: "9" if "Q six" in text else "2"), name="j")
    outcomes, verdicts = judged(Scripted(lambda _: "1"), one, items(one, seed=0), judge)
    assert [outcome.value for outcome in outcomes[:2]] == [2, 2] and math.isnan(outcomes[2].value)
    assert verdicts.unjudged == (items(one, seed=0)[2].key,)
