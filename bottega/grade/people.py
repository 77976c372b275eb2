"""What several people say of answers, as numbers: whose word counts how much, what an answer is worth to them, which one they prefer.

Left out: the questions (store/), what a reward model learns from it (train/live.py), agreement beyond chance (agreement.py).

A vote is one person's judgement of one question: of a pair (1, -1) for the better and the worse side, (0, 0) for a tie, (-1, -1) for
neither; of a single answer its place on the scale, from -1 to 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

from bottega.grade.agreement import krippendorff

MAX_PAIRS = 200
"""Of rated answers to one prompt, at most so many pairs are made: those that are furthest apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vote:
    """annotator, event: who, and the id of what they said; keys: the answers; values: one each, from -1 to 1."""

    annotator: str
    event: str
    keys: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def leans(self) -> float:
        """Of a pair how far it leans to the first side, of a single answer its value; from -1 to 1."""
        return (self.values[0] - self.values[1]) / 2 if len(self.values) == 2 else self.values[0]


class Opinion(NamedTuple):
    """What people think of an answer: their weighted mean from -1 to 1, how far they are to be believed, and by which events."""

    value: float
    sure: float
    events: tuple[str, ...]


class Preferred(NamedTuple):
    """A better and a worse answer to one prompt, and the share of people who say so (above 0.5, 1: all of them)."""

    better: str
    worse: str
    share: float


def standing(events: Iterable[Mapping[str, Any]]) -> list[Vote]:
    """The votes that stand after events, oldest first: a later answer takes the place of an earlier one of the same person to the
    same item; a skip and an undo leave none.

    Args:
        events: with id, item, annotator, kind (answer, skip, undo); answers with keys and values, undos with the event in `undoes`.

    >>> first = {"id": "a", "item": "i", "annotator": "anna", "kind": "answer", "keys": ["x", "y"], "values": [1, -1]}
    >>> [vote.leans for vote in standing([first])]
    [1.0]
    >>> standing([first, {"id": "b", "item": "i", "annotator": "anna", "kind": "undo", "undoes": "a"}])
    []
    """
    found: dict[tuple[str, str], Vote] = {}
    for event in events:
        place = (event["item"], event["annotator"])
        if event["kind"] == "answer":
            found.pop(place, None)
            found[place] = Vote(
                annotator=event["annotator"],
                event=event["id"],
                keys=tuple(event["keys"]),
                values=tuple(float(value) for value in event["values"]),
            )
        elif event["kind"] == "skip" or (place in found and found[place].event == event.get("undoes")):
            found.pop(place, None)
    return list(found.values())


def _questions(votes: Iterable[Vote]) -> dict[tuple[str, ...], dict[str, float]]:
    """Question -> person -> where they lean; a pair counts as one question whichever side was put first."""
    found: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for vote in votes:
        swapped = len(vote.keys) == 2 and vote.keys[0] > vote.keys[1]
        found[vote.keys[::-1] if swapped else vote.keys][vote.annotator] = -vote.leans if swapped else vote.leans
    return found


def weights(votes: Sequence[Vote]) -> dict[str, float]:
    """Annotator -> how much their word counts: w = (1 + sum of matches) / (1 + number of matches), a match being 1 - |difference| / 2
    with each other person on each question that both answered. Who shares no question counts 1, two who always contradict each other
    on n questions 1 / (1 + n) each.

    >>> said = [("anna", 1.0), ("ben", -1.0)]
    >>> votes = [Vote(annotator=n, event=n, keys=("x", "y"), values=(v, -v)) for n, v in said]
    >>> weights(votes)
    {'anna': 0.5, 'ben': 0.5}
    """
    right: dict[str, float] = {vote.annotator: 1.0 for vote in votes}
    count: dict[str, int] = dict.fromkeys(right, 1)
    for leans in _questions(votes).values():
        for a, b in combinations(leans, 2):
            for who in (a, b):
                right[who] += 1 - abs(leans[a] - leans[b]) / 2
                count[who] += 1
    return {who: right[who] / count[who] for who in right}


def opinions(votes: Sequence[Vote], weight: Mapping[str, float]) -> dict[str, Opinion]:
    """Answer -> what people think of it: sum of w v / sum of w, as sure as the largest w among those who spoke.

    Example: two people of weight 1/2 say 1 and -1: value 0, sure 1/2.
    """
    heard: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for vote in votes:
        for key, value in zip(vote.keys, vote.values, strict=True):
            heard[key].append((weight[vote.annotator], value, vote.event))
    return {
        key: Opinion(
            value=sum(w * v for w, v, _ in said) / sum(w for w, _, _ in said),
            sure=max(w for w, _, _ in said),
            events=tuple(sorted({event for _, _, event in said})),
        )
        for key, said in heard.items()
    }


def preferences(votes: Sequence[Vote], weight: Mapping[str, float], prompts: Mapping[str, str]) -> list[Preferred]:
    """Pairs to learn from: those that people compared, and rated answers to one prompt; none where they lean to no side.

    The share that prefers the better one is 1/2 + d s / 2: of a compared pair d is the weighted mean of where people lean and s the
    largest weight; of rated answers d is half the difference of their opinions, and s the smaller sureness.

    Args:
        prompts: answer -> its prompt.

    >>> one = Vote(annotator="anna", event="e", keys=("x", "y"), values=(-1.0, 1.0))
    >>> preferences([one], {"anna": 1.0}, {})
    [Preferred(better='y', worse='x', share=1.0)]
    """
    found: dict[tuple[str, str], float] = {}
    for keys, leans in _questions(vote for vote in votes if len(vote.keys) == 2).items():
        mean = sum(weight[who] * lean for who, lean in leans.items()) / sum(weight[who] for who in leans)
        found[keys[0], keys[1]] = mean * max(weight[who] for who in leans)
    rated: dict[str, list[tuple[str, Opinion]]] = defaultdict(list)
    for key, opinion in sorted(opinions([vote for vote in votes if len(vote.keys) == 1], weight).items()):
        rated[prompts[key]].append((key, opinion))
    for said in rated.values():
        apart = [((a, b), (x.value - y.value) / 2 * min(x.sure, y.sure)) for (a, x), (b, y) in combinations(said, 2)]
        apart.sort(key=lambda one: -abs(one[1]))
        for pair, difference in apart[:MAX_PAIRS]:
            found.setdefault(pair, difference)
    made = []
    for (a, b), difference in sorted(found.items()):
        if difference:
            better, worse = (a, b) if difference > 0 else (b, a)
            made.append(Preferred(better=better, worse=worse, share=0.5 + abs(difference) / 2))
    return made


def alpha(votes: Sequence[Vote]) -> float | None:
    """Krippendorff's alpha on the questions that several people answered; None where it is not defined."""
    shared = [list(leans.values()) for leans in _questions(votes).values() if len(leans) > 1]
    return krippendorff(shared, level="interval") if shared else None
