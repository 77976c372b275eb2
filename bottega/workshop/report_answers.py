"""The report's section on how answers changed: how long they are, and how different from each other, before and after.

Left out: whether they are right (the scores) and what they say (the samples).
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from bottega.evals.runner import ItemScore
from bottega.workshop.markup import bounds, number, section, table
from bottega.workshop.report_files import Run

WORDS = (
    "Words a reply; replies that no other reply equals (of all); different words among the first so many of all replies, as many of "
    "each column as the shorter one has. The change in length is paired item by item, with a 95 percent interval (normal)."
)


def answers(run: Run) -> str:
    """The section as HTML; nothing where no task has replies before and after."""
    cards = list(run.cards.values())
    if len(cards) < 2:
        return ""
    before, after = ({score.task: score.items for score in card.scores} for card in (cards[0], cards[-1]))
    rows = []
    for task in before:
        pairs = paired(before[task], after.get(task, ()))
        if not any(one for pair in pairs for one in pair):
            continue
        change = length_change(pairs)
        least = min(sum(len(said(pair[side])) for pair in pairs) for side in (0, 1))
        cells = [escape(task)]
        for side in (0, 1):
            replies = [pair[side] for pair in pairs]
            cells += [number(statistics.fmean(len(said(one)) for one in replies)), number(alone(replies))]
            cells.append(f"{different(replies, least):,}")
        gap = f"{change[0]:+.2f}{bounds(*change[1:])}"
        rows.append([*cells, gap, f"{len(pairs):,}"])
    if not rows:
        return ""
    head = ("Task", "words before", "alone", "vocabulary", "words after", "alone", "vocabulary", "change in words", "n")
    return section("How answers changed", table(head, rows, numbers=range(1, 9), stacks=True), WORDS)


def paired(before: Sequence[ItemScore], after: Sequence[ItemScore]) -> list[tuple[str, str]]:
    """The replies to the same items."""
    later: Mapping[str, str] = {item.key: item.reply for item in after}
    return [(item.reply, later[item.key]) for item in before if item.key in later]


def said(reply: str) -> list[str]:
    """A reply's words, in small letters."""
    return re.findall(r"\w+", reply.lower())


def length_change(pairs: Sequence[tuple[str, str]]) -> tuple[float, float, float]:
    """By how many words replies got longer: the mean and its 95 percent interval.

    >>> length_change([("a", "a b"), ("a b", "a b c d"), ("a", "a b c d")])
    (2.0, 0.87, 3.13)
    """
    gaps = [len(said(after)) - len(said(before)) for before, after in pairs]
    mean = statistics.fmean(gaps)
    half = 1.96 * statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.inf
    return mean, round(mean - half, 2), round(mean + half, 2)


def alone(replies: Sequence[str]) -> float:
    """The share of replies that no other one equals (letters' size and spaces apart).

    >>> alone(["Yes.", "yes", "No."])
    0.3333333333333333
    """
    counts = Counter(" ".join(said(reply)) for reply in replies)
    return sum(count == 1 for count in counts.values()) / len(replies)


def different(replies: Sequence[str], first: int) -> int:
    """How many different words the first so many words of all replies hold."""
    return len(set([word for reply in replies for word in said(reply)][:first]))
