"""Tasks to a Scorecard: every score with its count, its interval, its seed and the outcome of every item.

Left out: the clock (a scorecard repeats byte by byte on one device; time is kept by the run).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from bottega.core.config import build
from bottega.core.errors import UserError
from bottega.core.types import Attached
from bottega.data.chat import Template
from bottega.evals.engine import Engine
from bottega.evals.judged import Judge, Verdicts, by_turn, judged, need
from bottega.evals.kinds import KINDS, REMOTE_KINDS, Outcome, metric_of
from bottega.evals.remote import Remote
from bottega.evals.tasks import Item, Task, column, items, load_task
from bottega.grade import intervals

SCHEMA = 1
MAX_SHOWN = 400  # characters of a prompt or reply that a scorecard keeps
RATIOS = ("perplexity", "loss", "bits_per_byte")


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemScore:
    """One item: `value` higher is better for pairing (losses are negated), `weight` its tokens or bytes where the
    score is a ratio, `said` a judge's words."""

    key: str
    value: float
    weight: float = 1.0
    prompt: str = ""
    truth: str = ""
    reply: str = ""
    stopped: bool | None = None
    group: str = ""
    said: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One task's score. low, high: the 95 percent interval, None where it is unbounded. stops: share of replies that
    ended by themselves. verdicts: what is known of the judge of a judged task."""

    task: str
    version: int
    kind: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    level: float = 0.95
    method: str = ""
    higher_is_better: bool = True
    random: float | None = None
    stops: float | None = None
    verdicts: Verdicts | None = None
    items: tuple[ItemScore, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorecard:
    """What a model scored: `model` names it, `seed` is that of draws and intervals."""

    model: str
    seed: int
    scores: tuple[Score, ...]
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """As written to scorecards/*.json."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Scorecard:
        """Read back what `to_json` wrote.

        Raises:
            UserError: it is no scorecard, or of a later version.
        """
        if isinstance(data, dict) and isinstance(data.get("schema"), int) and data["schema"] > SCHEMA:
            raise UserError(
                f"the scorecard has schema {data['schema']}, and this version reads up to {SCHEMA}: update bottega"
            )
        return build(Scorecard, data)

    def score(self, task: str) -> Score:
        """The score of a task.

        Raises:
            UserError: the task is not in the scorecard.
        """
        for score in self.scores:
            if score.task == task:
                return score
        raise UserError(
            f"task {task!r} is not in the scorecard of {self.model}; it has {', '.join(s.task for s in self.scores)}"
        )

    def summary(self) -> str:
        """A line a task, for a person."""
        lines = []
        for score in self.scores:
            bounds = "" if score.low is None or score.high is None else f" [{score.low:.3f}, {score.high:.3f}]"
            lines.append(f"{score.task}: {score.metric} {score.value:.3f}{bounds} (n={score.n})")
            lines += [f"  {line}" for line in _about(score.verdicts)]
        return "\n".join(lines)


def _about(verdicts: Verdicts | None) -> list[str]:
    """What a person has to know of a judge, in lines."""
    if verdicts is None:
        return []
    lines = [f"{len(verdicts.unjudged)} items had no clear rating and are left out"] if verdicts.unjudged else []
    return [*lines, *([verdicts.doubt()] if verdicts.doubt() else [])]


def evaluate(
    model: nn.Module | Attached,
    tokenizer: Any,
    tasks: Sequence[Task | str | Path],
    *,
    seed: int = 0,
    limit: int | None = None,
    template: Template | None = None,
    name: str = "",
    **more: Any,
) -> Scorecard:
    """Score a model on tasks.

    Args:
        model: a module, or what a Method attached (its prefixes then stand before every sequence).
        tasks: tasks, names of the table, or files (see `load_task`).
        seed: of the items drawn, the shots and the intervals. limit: at most so many items a task.
        template: chat template for tasks in chat; None: the tokenizer's own. name: of the model, for the scorecard.
        more: judge and told, as `evaluate_with`.

    Raises:
        UserError: a mistake in a task, its data, or a prompt that does not fit.
    """
    module, inputs = (model.model, model.inputs) if isinstance(model, Attached) else (model, None)
    engine = Engine(module, tokenizer, template=template, inputs=inputs)
    return evaluate_with(engine, tasks, seed=seed, limit=limit, name=name, **more)


def evaluate_with(
    asked: Engine | Remote,
    tasks: Sequence[Task | str | Path],
    *,
    seed: int = 0,
    limit: int | None = None,
    name: str = "",
    judge: Judge | None = None,
    told: Callable[[Task, Item, Outcome], None] | None = None,
) -> Scorecard:
    """The same for a model that can be asked already: an Engine, or one behind an endpoint.

    Args:
        judge: who rates the replies of judged tasks. told: is called with every item and what came of it, in whole texts.

    Raises:
        UserError: as `evaluate`; and a kind of task that an endpoint cannot do, before anything is asked.
    """
    loaded = [task if isinstance(task, Task) else load_task(task) for task in tasks]
    for task in loaded:
        if isinstance(asked, Remote) and task.kind not in REMOTE_KINDS:
            raise UserError(
                f"task {task.name} is of kind {task.kind}, which needs the log-probabilities of given texts, and an endpoint "
                f"does not give them: choose tasks of kind {', '.join(REMOTE_KINDS)}, or name the model's folder"
            )
    need(loaded, judge.name if judge else "")
    scores = []
    for task in loaded:
        questions = items(task, seed=seed, limit=limit)
        if judge is not None and task.kind == "judged":
            outcomes, verdicts = judged(asked, task, questions, judge)
            scores += _judged(task, questions, outcomes, verdicts, seed=seed)
        else:
            outcomes = KINDS[task.kind](asked, task, questions)
            scores.append(_score(task, questions, outcomes, seed=seed))
        if told is not None:
            for item, outcome in zip(questions, outcomes, strict=True):
                told(task, item, outcome)
    return Scorecard(model=name, seed=seed, scores=tuple(scores))


def _judged(
    task: Task, questions: Sequence[Item], outcomes: Sequence[Outcome], verdicts: Verdicts, *, seed: int
) -> list[Score]:
    """The score of a judged task over the items that have a rating; then one a turn, where there are several."""
    counted = [(item, outcome) for item, outcome in zip(questions, outcomes) if math.isfinite(outcome.value)]
    rated = [item for item, _ in counted]
    scores = [replace(_score(task, rated, [outcome for _, outcome in counted], seed=seed), verdicts=verdicts)]
    for turn, values in by_turn({item.key: outcome for item, outcome in counted}).items():
        those = [(item, replace(outcome, value=values[item.key])) for item, outcome in counted if item.key in values]
        part = replace(task, name=f"{task.name}: turn {turn}")
        scores.append(_score(part, [item for item, _ in those], [outcome for _, outcome in those], seed=seed))
    return scores


def _score(task: Task, questions: Sequence[Item], outcomes: Sequence[Outcome], *, seed: int) -> Score:
    default = {"generation": "exact", "perplexity": "perplexity", "judged": "rating"}.get(task.kind, "accuracy")
    metric = metric_of(task, default)[0]
    tops, weights = [one.value for one in outcomes], [one.weight for one in outcomes]
    if metric in RATIOS:
        found = intervals.ratio(tops, weights, seed=seed)
        change: Callable[[float], float] = math.exp if metric == "perplexity" else float
        values = [-top / weight if weight else 0.0 for top, weight in zip(tops, weights)]
    else:
        found = intervals.mean(tops, seed=seed)
        change, values = float, tops
    ended = [one.stopped for one in outcomes if one.stopped is not None]
    return Score(
        task=task.name,
        version=task.version,
        kind=task.kind,
        metric=metric,
        value=change(found.value),
        low=_bound(found.low, change),
        high=_bound(found.high, change),
        n=found.n,
        level=found.level,
        method=found.method,
        higher_is_better=metric not in RATIOS,
        random=task.random,
        stops=sum(ended) / len(ended) if ended else None,
        items=tuple(_kept(task, *one) for one in zip(questions, outcomes, values)),
    )


def _bound(value: float, change: Callable[[float], float]) -> float | None:
    return change(value) if math.isfinite(value) else None


def _kept(task: Task, item: Item, outcome: Outcome, value: float) -> ItemScore:
    texts = {name: _clip(getattr(outcome, name)) for name in ("prompt", "truth", "reply", "said")}
    group = str(column(task.group, item.record)) if task.group else ""
    return ItemScore(
        key=item.key, value=float(value), weight=outcome.weight, stopped=outcome.stopped, group=group, **texts
    )


def _clip(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN // 2]} ... {text[-MAX_SHOWN // 2 :]}"
