"""Two scorecards on the same items: paired differences with intervals, corrected for their number, and which items
changed.

Left out: unpaired comparison: scores on different items say nothing about two models that their intervals do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

from bottega.core.errors import Mismatch
from bottega.evals.runner import RATIOS, ItemScore, Score, Scorecard
from bottega.grade.intervals import Difference, holm, paired

MAX_CHANGED = 20
Word = TypeVar("Word", bound=str)


@dataclass(frozen=True, kw_only=True, slots=True)
class Changed:
    """An item whose outcome differs: its value and reply before and after."""

    key: str
    prompt: str
    truth: str
    before: str
    after: str
    change: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The items of one value of a task's `group` column. p_corrected: Holm over the groups of the task."""

    name: str
    before: float
    after: float
    difference: Difference
    p_corrected: float
    verdict: Literal["improved", "regressed", "unchanged"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One task in two scorecards. difference: after - before in the direction of better. p_corrected: Holm over all
    tasks. groups: where the task names a column to tell its items apart by."""

    task: str
    metric: str
    before: float
    after: float
    difference: Difference
    p_corrected: float
    verdict: Literal["better", "worse", "no difference"]
    improved: tuple[Changed, ...]
    regressed: tuple[Changed, ...]
    groups: tuple[Group, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All tasks that both have; `missing` names those that only one has."""

    before: str
    after: str
    tasks: tuple[Comparison, ...]
    missing: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A plain object; unbounded limits are None."""
        data = asdict(self)
        for task in data["tasks"]:
            for one in (task, *task["groups"]):
                for side in ("low", "high"):
                    if abs(one["difference"][side]) == float("inf"):
                        one["difference"][side] = None
        return data

    def summary(self) -> str:
        """A line a task, for a person."""
        lines = [f"{self.before} -> {self.after}"]
        for one in self.tasks:
            d = one.difference
            lines.append(
                f"{one.task}: {one.metric} {one.before:.3f} -> {one.after:.3f}, paired difference {d.value:+.3f} "
                f"[{d.low:+.3f}, {d.high:+.3f}], p {one.p_corrected:.2g}, "
                f"{d.improved} improved, {d.regressed} regressed of {d.n}: {one.verdict}"
            )
        return "\n".join([*lines, *(f"{name}: only in one of the two" for name in self.missing)])


def compare(before: Scorecard, after: Scorecard, *, seed: int = 0) -> Report:
    """Compare two scorecards item by item.

    A verdict other than "no difference" needs both: an interval without 0, and a corrected p-value below 0.05.

    Raises:
        Mismatch: a task's version, metric, items, judge or (for perplexity) tokenizer differ.
    """
    left = {score.task: score for score in before.scores}
    right = {score.task: score for score in after.scores}
    shared = [name for name in left if name in right]
    for name in shared:
        left[name], right[name] = _both_rated(left[name], right[name])
    pairs = [_paired(left[name], right[name], seed=seed) for name in shared]
    corrected = holm([difference.p_value for difference in pairs])
    tasks = [_comparison(left[n], right[n], d, p, seed) for n, d, p in zip(shared, pairs, corrected)]
    return Report(
        before=before.model, after=after.model, tasks=tuple(tasks), missing=tuple(sorted(left.keys() ^ right.keys()))
    )


def _both_rated(before: Score, after: Score) -> tuple[Score, Score]:
    """The scores over the items that the judge has rated in both; others as they are."""
    left, right = before.verdicts, after.verdicts
    if left is None or right is None:
        return before, after
    if left.judge != right.judge:
        raise Mismatch(
            f"{before.task} was judged by {left.judge} in one scorecard and by {right.judge} in the other: evaluate both with one judge"
        )
    lost = {*left.unjudged, *right.unjudged}
    kept = [[item for item in score.items if item.key not in lost] for score in (before, after)]
    if not kept[0] or not kept[1]:
        raise Mismatch(f"{before.task} has no item that {left.judge} has rated in both: take another judge")
    pair = [
        replace(score, items=tuple(some), value=sum(item.value for item in some) / len(some), n=len(some))
        for score, some in zip((before, after), kept)
    ]
    return pair[0], pair[1]


def _paired(before: Score, after: Score, *, seed: int) -> Difference:
    for name in ("version", "metric", "kind"):
        one, other = getattr(before, name), getattr(after, name)
        if one != other:
            raise Mismatch(
                f"{before.task} has {name} {one} in one scorecard and {other} in the other: evaluate both anew"
            )
    if [item.key for item in before.items] != [item.key for item in after.items]:
        raise Mismatch(
            f"{before.task} was scored on {before.n} and {after.n} items that are not the same: "
            "evaluate both with one seed, limit and data"
        )
    one, other = [item.value for item in before.items], [item.value for item in after.items]
    if before.metric in RATIOS:
        weights = [item.weight for item in before.items]
        if weights != [item.weight for item in after.items]:
            raise Mismatch(
                f"{before.task}: the two models cut the text into different tokens: use metric bits_per_byte"
            )
        mean = sum(weights) / max(1, len(weights))
        one, other = ([v * w / mean for v, w in zip(values, weights)] for values in (one, other))
    return paired(one, other, seed=seed)


def _groups(before: Score, after: Score, *, seed: int) -> tuple[Group, ...]:
    """Each group's own paired difference, in the order of their names; none where no column tells items apart."""
    names = sorted({item.group for item in before.items} - {""})
    sides = []
    for name in names:
        pairs = [(old.value, new.value) for old, new in zip(before.items, after.items) if old.group == name]
        sides.append(([old for old, _ in pairs], [new for _, new in pairs]))
    found = [paired(one, other, seed=seed) for one, other in sides]
    corrected = holm([difference.p_value for difference in found])
    return tuple(
        Group(
            name=name,
            before=sum(one) / len(one),
            after=sum(other) / len(other),
            difference=difference,
            p_corrected=p_value,
            verdict=_moved(difference, p_value, ("improved", "regressed", "unchanged")),
        )
        for name, (one, other), difference, p_value in zip(names, sides, found, corrected)
    )


def _moved(difference: Difference, p_corrected: float, words: tuple[Word, Word, Word]) -> Word:
    """The word for up, down, or neither: an interval without 0 and a corrected p-value below 0.05."""
    if p_corrected < 0.05 and difference.low > 0:
        return words[0]
    return words[1] if p_corrected < 0.05 and difference.high < 0 else words[2]


def _comparison(before: Score, after: Score, difference: Difference, p_corrected: float, seed: int) -> Comparison:
    moved = [(old, new) for old, new in zip(before.items, after.items) if old.value != new.value]
    up = sorted((pair for pair in moved if pair[1].value > pair[0].value), key=lambda p: p[0].value - p[1].value)
    down = sorted((pair for pair in moved if pair[1].value < pair[0].value), key=lambda p: p[1].value - p[0].value)
    return Comparison(
        task=before.task,
        metric=before.metric,
        before=before.value,
        after=after.value,
        difference=difference,
        p_corrected=p_corrected,
        verdict=_moved(difference, p_corrected, ("better", "worse", "no difference")),
        improved=_changed(up),
        regressed=_changed(down),
        groups=_groups(before, after, seed=seed),
    )


def _changed(pairs: Sequence[tuple[ItemScore, ItemScore]]) -> tuple[Changed, ...]:
    return tuple(
        Changed(
            key=old.key,
            prompt=old.prompt,
            truth=old.truth,
            before=old.reply,
            after=new.reply,
            change=new.value - old.value,
        )
        for old, new in pairs[:MAX_CHANGED]
    )
