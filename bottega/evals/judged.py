"""Tasks that another model rates: replies, or conversations of several turns, each on the scale of the task.

Left out: two answers against each other. With the ratings come two controls: what the judge gives to known-good replies (the truths)
and to known-bad ones (truths, or replies, of other questions); a judge that does not tell these apart tells nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from bottega.core.errors import UserError
from bottega.core.types import Reply, Turn
from bottega.evals.kinds import Asked, Outcome
from bottega.evals.tasks import Item, Task, column, fill
from bottega.grade.judge import rating

CONTROLS = 12
"""Items whose known-good and known-bad replies the judge is shown, at most."""
LEAST_GAP = 0.25
"""Of the scale: known-good replies must be rated so much better than known-bad ones on average."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """Who rates: a model that can be asked, and its name. said: its words for every text that it was asked about, in every task."""

    asked: Asked
    name: str
    said: dict[tuple[str, int], str] = field(default_factory=dict)


def need(tasks: Sequence[Task], judge: str) -> bool:
    """Whether one of the tasks is judged.

    Raises:
        UserError: it is, and no judge is named, or one is named that has nothing to judge.
    """
    wanted = [task.name for task in tasks if task.kind == "judged"]
    if wanted and not judge:
        raise UserError(
            f"task {wanted[0]} is judged by a model: name one, --judge MODEL of eval and compare, evaluate.judge of a recipe"
        )
    if judge and not wanted:
        raise UserError(f"the judge {judge} has nothing to judge: no task is of kind judged, such as mt_bench")
    return bool(wanted)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdicts:
    """What is known of the judge in one task. unjudged: keys of items about which it said nothing clear, which no score counts.
    good, bad: its mean ratings of `controls` known-good and known-bad replies (None without any)."""

    judge: str
    low: float
    high: float
    unjudged: tuple[str, ...] = ()
    good: float | None = None
    bad: float | None = None
    controls: int = 0

    def doubt(self) -> str:
        """Why its ratings say little; empty where nothing speaks against them."""
        if self.bad is None or self.good is None:
            return "" if self.controls else "the judge had no controls: no item has a truth"
        if self.good - self.bad >= LEAST_GAP * (self.high - self.low):
            return ""
        return (
            f"{self.judge} rates known-good replies {self.good:.2f} and known-bad ones {self.bad:.2f} of {self.high:g} "
            f"(n={self.controls} each): its ratings say little; take another judge"
        )


class _Talk(NamedTuple):
    """An item's conversation so far."""

    item: Item
    asked: list[str]
    said: list[Reply]


def judged(asked: Asked, task: Task, items: Sequence[Item], judge: Judge) -> tuple[list[Outcome], Verdicts]:
    """Greedy replies to every turn, each rated once, greedily; the value of an item is the mean of its turns.

    Raises:
        UserError: the judge said nothing clear about any item.
    """
    talks = [_Talk(item, _questions(task, item), []) for item in items]
    for at in range(max(len(talk.asked) for talk in talks)):
        open_ones = [talk for talk in talks if at < len(talk.asked)]
        prompts = [_prompt(asked, task, talk, at) for talk in open_ones]
        replies = asked.replies(prompts, max_tokens=task.max_tokens, stop=task.stop, chat=_in_chat(task), fit="skip")
        for talk, reply in zip(open_ones, replies, strict=True):
            talk.said.append(reply._replace(text=reply.text.strip()))
    shown = [_asked_about(task, talk, at, talk.said[at].text) for talk in talks for at in range(len(talk.asked))]
    verdicts = iter(_verdicts(judge, task, shown))
    outcomes, unjudged = [], []
    for talk in talks:
        found = [next(verdicts) for _ in talk.asked]
        ratings = [value for value, _ in found if value is not None]
        outcome = _outcome(task, talk, ratings, [words for _, words in found])
        outcomes.append(outcome)
        if len(ratings) < len(found):
            unjudged.append(talk.item.key)
    if len(unjudged) == len(talks):
        words = outcomes[0].said.strip()[:120]
        raise UserError(
            f"{judge.name} gave no rating from {task.low:g} to {task.high:g} to any of {len(talks)} items of {task.name}; of the "
            f"first it said {words!r}: take another judge, or another rubric"
        )
    known = Verdicts(judge=judge.name, low=task.low, high=task.high, unjudged=tuple(unjudged))
    return outcomes, _controlled(judge, task, talks, known)


def _in_chat(task: Task) -> bool:
    return task.chat or bool(task.turns)


def _questions(task: Task, item: Item) -> list[str]:
    if not task.turns:
        return [fill(task.prompt, item.record)]
    turns = column(task.turns, item.record)
    if not isinstance(turns, list) or not turns:
        raise UserError(f"item {item.key} of task {task.name} needs a list of turns, not {turns!r}: correct the row")
    return [str(turn) for turn in turns]


def _truths(task: Task, item: Item) -> list[str]:
    """The truth of each turn; empty where the item has none."""
    if "{{" not in task.answer and task.answer not in item.record:
        return []
    truth = column(task.answer, item.record)
    if truth is None or truth == "":
        return []
    return [str(one) for one in truth] if isinstance(truth, list) else [str(truth)]


def _prompt(asked: Asked, task: Task, talk: _Talk, at: int) -> Any:
    if not _in_chat(task):
        return asked.plain(talk.asked[0])
    turns = [Turn(role="system", content=task.system)] if task.system else []
    for question, reply in zip(talk.asked[:at], talk.said):
        turns += [Turn(role="user", content=question), Turn(role="assistant", content=reply.text)]
    return asked.chat([*turns, Turn(role="user", content=talk.asked[at])])


def _asked_about(task: Task, talk: _Talk, at: int, reply: str) -> str:
    """What the judge is asked about one reply; earlier turns are shown as the candidate wrote them."""
    truths = _truths(task, talk.item)
    known = truths[at] if at < len(truths) else ""
    rubric = task.rubric_with_answer if known and task.rubric_with_answer else task.rubric
    if not rubric:
        asked = talk.asked[at][:60]
        raise UserError(
            f"the item {asked!r} of task {task.name} has no {task.answer}, and the rubric compares with one: add it"
        )
    lines = [f"User: {q}\n\nAssistant: {said.text}" for q, said in zip(talk.asked[:at], talk.said)]
    values = {
        "question": talk.asked[at],
        "reply": reply,
        "conversation": "\n\n".join([*lines, f"User: {talk.asked[at]}\n\nAssistant: {reply}"]),
        "answer": known,
        "low": f"{task.low:g}",
        "high": f"{task.high:g}",
    }
    return fill(rubric, {**talk.item.record, **values})


def _verdicts(judge: Judge, task: Task, questions: Sequence[str]) -> list[tuple[float | None, str]]:
    """The rating and the words of the judge for each text; a text is asked about once."""
    new = [text for text in dict.fromkeys(questions) if (text, task.judge_tokens) not in judge.said]
    prompts = [judge.asked.chat([Turn(role="user", content=text)]) for text in new]
    replies = judge.asked.replies(prompts, max_tokens=task.judge_tokens, stop=(), chat=True, fit="skip") if new else []
    judge.said.update({(text, task.judge_tokens): reply.text for text, reply in zip(new, replies, strict=True)})
    words = {text: judge.said[text, task.judge_tokens] for text in questions}
    return [(rating(words[text], low=task.low, high=task.high), words[text]) for text in questions]


def _outcome(task: Task, talk: _Talk, ratings: Sequence[float], words: Sequence[str]) -> Outcome:
    whole = len(ratings) == len(talk.asked)
    return Outcome(
        value=statistics.fmean(ratings) if whole else float("nan"),
        prompt="\n\n".join(talk.asked),
        truth="\n\n".join(_truths(task, talk.item)),
        reply="\n\n".join(reply.text for reply in talk.said),
        stopped=all(reply.finish == "stop" for reply in talk.said),
        parts=tuple(ratings) if whole and len(ratings) > 1 else (),
        said="\n\n".join(words),
    )


def _controlled(judge: Judge, task: Task, talks: Sequence[_Talk], known: Verdicts) -> Verdicts:
    """The first turns with their truths, and with the truths of the next item that has another one."""
    having = [(talk, _truths(task, talk.item)[0]) for talk in talks if _truths(task, talk.item)]
    pairs = []
    for at, (talk, truth) in enumerate(having[:CONTROLS]):
        others = [other for _, other in [*having[at + 1 :], *having[:at]] if other.strip() != truth.strip()]
        if others:
            pairs.append((talk, truth, others[0]))
    if not pairs:
        return known
    sides = []
    for replies in ([truth for _, truth, _ in pairs], [other for _, _, other in pairs]):
        shown = [_asked_about(task, talk, 0, reply) for (talk, _, _), reply in zip(pairs, replies)]
        sides.append([value for value, _ in _verdicts(judge, task, shown) if value is not None])
    good, bad = (statistics.fmean(values) if values else None for values in sides)
    return replace(known, good=good, bad=bad, controls=len(pairs))


def by_turn(outcomes: Mapping[str, Outcome]) -> dict[int, dict[str, float]]:
    """The ratings of each turn, by the key of the item; empty where items have one turn."""
    found: dict[int, dict[str, float]] = {}
    for key, outcome in outcomes.items():
        for at, value in enumerate(outcome.parts, 1):
            found.setdefault(at, {})[key] = value
    return found
