"""How the demo measures a model, and what each stage must have reached on held-out probes.

Left out: what the probes are (world/journey.py, plan.py) and when they are asked (journey.py).

A check compares the model after a stage with the model before it, on the same items; what decides, the value or the end
of its 95 percent interval, is said in its words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core.types import Reply, Row, Tokens, Turn
from bottega.grade import intervals

if TYPE_CHECKING:
    from bottega.evals.engine import Engine
    from bottega.evals.runner import Score, Scorecard

POLITE = "polite_endings"
POLITE_TASK = "polite endings"
TASKS = (
    "company_documents",
    "old_world_text",
    "tickets",
    "requests",
    "company_questions",
    "old_world_questions",
    "old_world_reading",
)
"""Tasks measured by greedy replies; polite endings are sampled at temperature 1, where habits have their own share."""
OLD_WORLD = ("old world questions", "old world reading")
NEEDED = {
    "fall": 10.0,
    "rise": 1.05,
    "tickets": 0.8,
    "stops": 0.95,
    "new facts": 0.6,
    "polite": 0.8,
    "kl": 4.0,
    "lost": 0.05,
    "lost in all": 0.2,
}
"""The bounds: perplexity before / after on the company's documents, after / before on old-world text; shares; KL in
nats an answer, of the aligned model from the one before; old-world questions lost through alignment, and since the base."""
REPLY_TOKENS = 48
Pair = tuple[list[int], list[int]]
"""Ids of a prompt, and of an answer sampled to it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One verdict: `value` with its interval, against `bound`, on `n` items."""

    stage: str
    check: str
    value: float
    low: float | None
    high: float | None
    bound: str
    passed: bool
    n: int

    def to_json(self) -> dict[str, Any]:
        """As in checks.json."""
        return asdict(self)

    def line(self) -> str:
        """For people."""
        bounds = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        mark = "passed" if self.passed else "FAILED"
        return f"{self.stage}: {self.check}: {self.value:.3f}{bounds}, bound {self.bound} (n={self.n:,}): {mark}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A scorecard, and the sampled answers (prompt ids, reply ids) that the KL is taken on."""

    card: Scorecard
    sampled: tuple[Pair, ...]


def measure(model: str, tasks: Path, *, seed: int, name: str) -> Measured:
    """Score a model on the tasks in a folder.

    Args:
        model: folder or name. name: of the column in the report.
    """
    from bottega.evals.engine import Engine
    from bottega.evals.runner import Scorecard, evaluate
    from bottega.models.load import load

    loaded = load(model)
    module: Any = loaded.attached or loaded.model
    card = evaluate(module, loaded.tokenizer, [tasks / f"{task}.yaml" for task in TASKS], seed=seed, name=name)
    inputs = loaded.attached.inputs if loaded.attached else None
    engine = Engine(getattr(module, "model", module) if loaded.attached else module, loaded.tokenizer, inputs=inputs)
    score, sampled = _polite(engine, tasks / f"{POLITE}.yaml", seed)
    return Measured(card=Scorecard(model=name, seed=seed, scores=(*card.scores, score)), sampled=sampled)


def _polite(engine: Engine, path: Path, seed: int) -> tuple[Score, tuple[Pair, ...]]:
    """The share of answers, sampled at temperature 1, that end in a polite form; and the answers."""
    from bottega.evals.engine import end_of_turn
    from bottega.evals.runner import ItemScore, Score
    from bottega.evals.tasks import items, load_task
    from bottega.grade.scorers import find_scorer

    task = load_task(path)
    questions, scorer = items(task, seed=seed), find_scorer("regex")
    asked = [str(item.record["request"]) for item in questions]
    prompts = [engine.chat([Turn(role="user", content=text)]) for text in asked]
    more, strings = end_of_turn(engine.tokenizer, engine.chat_template())
    replies: list[Reply] = engine.generator.sample(
        prompts,
        max_tokens=REPLY_TOKENS,
        temperature=1.0,
        seed=seed,
        stop_ids=(*engine.generator.stop_ids(), *more),
        stop=strings,
        logps=False,
    )
    values = [scorer(reply, item.record["answer"]) for item, reply in zip(questions, replies)]
    found = intervals.mean(values, seed=seed)
    kept = [
        ItemScore(key=item.key, value=value, prompt=text, reply=reply.text, stopped=reply.finish == "stop")
        for item, text, reply, value in zip(questions, asked, replies, values)
    ]
    score = Score(
        task=POLITE_TASK,
        version=task.version,
        kind="generation",
        metric="share, sampled",
        value=found.value,
        low=found.low,
        high=found.high,
        n=found.n,
        method=found.method,
        items=tuple(kept),
    )
    return score, tuple((prompt, list(reply.ids)) for prompt, reply in zip(prompts, replies))


def divergence(policy: str, reference: str, sampled: Sequence[Pair], *, seed: int) -> intervals.Interval:
    """KL(policy || reference) in nats an answer: the mean, over answers sampled from the policy at temperature 1, of
    the sum over their tokens of log policy - log reference.
    """
    from bottega.evals.engine import Engine
    from bottega.models.load import load

    rows = [
        Row(index=at, prefix=Tokens(prompt, [0.0] * len(prompt)), branches=(Tokens(reply, [1.0] * len(reply)),))
        for at, (prompt, reply) in enumerate(sampled)
        if reply
    ]
    sums = []
    for name in (policy, reference):
        loaded = load(name)
        found = Engine(loaded.model, loaded.tokenizer).logps(rows)
        sums.append([float(branches[0].sum(dtype="float64")) for branches in found])
    return intervals.bootstrap([mine - other for mine, other in zip(*sums)], seed=seed)


# ---- verdicts


def judge(
    stage: str, before: Scorecard, after: Scorecard, base: Scorecard, kl: intervals.Interval | None = None
) -> list[Check]:
    """The checks of a stage from the scorecards before it, after it and of the base; `kl` for align."""
    made = {"adapt": _adapt, "task": _task, "instruct": _instruct, "align": _align}[stage](before, after)
    if stage == "align":
        assert kl is not None
        made += [_kl(kl), *_kept(before, after, base)]
    return [replace(check, stage=stage) for check in made]


def _check(words: str, found: Any, bound: str, passed: bool) -> Check:
    low, high = (one if one is not None and math.isfinite(one) else None for one in (found.low, found.high))
    return Check(
        stage="", check=words, value=found.value, low=low, high=high, bound=bound, passed=bool(passed), n=found.n
    )


def ratio(before: Score, after: Score, *, seed: int) -> intervals.Interval:
    """Perplexity after / perplexity before, items resampled in pairs."""
    weights = [item.weight for item in before.items]
    rises = [(old.value - new.value) * old.weight for old, new in zip(before.items, after.items)]
    found = intervals.ratio(rises, weights, seed=seed)
    value, low, high = (math.exp(one) for one in (found.value, found.low, found.high))
    return replace(found, value=value, low=low, high=high)


def _adapt(before: Scorecard, after: Scorecard) -> list[Check]:
    rise = ratio(before.score("old world text"), after.score("old world text"), seed=after.seed)
    fall = ratio(after.score("company documents"), before.score("company documents"), seed=after.seed)
    old, new = (card.score("company documents").value for card in (before, after))
    least, most = NEEDED["fall"], NEEDED["rise"]
    words = f"perplexity of unseen company documents, before / after ({old:.1f} / {new:.2f}); low end decides"
    return [
        _check(words, fall, f">= {least:g}", fall.low >= least),
        _check("perplexity of old-world text, after / before", rise, f"<= {most:g}", rise.value <= most),
    ]


def _share(before: Scorecard, after: Scorecard, task: str, words: str, bound: float) -> Check:
    score = after.score(task)
    words = f"{words} (before: {before.score(task).value:.2f})"
    return _check(words, score, f">= {bound:g}", score.value >= bound)


def _task(before: Scorecard, after: Scorecard) -> list[Check]:
    return [_share(before, after, "tickets", "unseen tickets put into the form exactly", NEEDED["tickets"])]


def _instruct(before: Scorecard, after: Scorecard) -> list[Check]:
    cards = ("requests", "company questions")
    ended = [float(bool(item.stopped)) for task in cards for item in after.score(task).items]
    stops = intervals.mean(ended, seed=after.seed)
    facts = after.score("company questions")
    old, new = (intervals.mean([i.value for i in card.score("requests").items], seed=0) for card in (before, after))
    gain = intervals.paired(*[[i.value for i in c.score("requests").items] for c in (before, after)], seed=after.seed)
    assert facts.low is not None
    known = before.score("company questions").value
    words = f"new facts asked in unseen wordings (before: {known:.2f}); low end decides"
    held = f"held-out requests in unseen wordings, gain ({old.value:.2f} to {new.value:.2f}); low end decides"
    return [
        _check("replies that stop by themselves", stops, f">= {NEEDED['stops']:g}", stops.value >= NEEDED["stops"]),
        _check(words, facts, f">= {NEEDED['new facts']:g}", facts.low >= NEEDED["new facts"]),
        _check(held, gain, "> 0", gain.low > 0),
    ]


def _align(before: Scorecard, after: Scorecard) -> list[Check]:
    return [_share(before, after, POLITE_TASK, "answers, sampled, with a polite ending", NEEDED["polite"])]


def _kl(kl: intervals.Interval) -> Check:
    words = "KL of the aligned model from the one before, nats an answer"
    return _check(words, kl, f"<= {NEEDED['kl']:g}", kl.value <= NEEDED["kl"])


def _kept(before: Scorecard, after: Scorecard, base: Scorecard) -> list[Check]:
    """Old-world questions (facts that replay never mentions, unseen passages) lost through alignment, and in all."""
    checks = []
    for start, words, key in ((before, "alignment", "lost"), (base, "the whole journey", "lost in all")):
        values = [[item.value for task in OLD_WORLD for item in card.score(task).items] for card in (after, start)]
        lost = intervals.paired(*values, seed=after.seed)
        ends = f"{sum(values[1]) / len(values[1]):.3f} to {sum(values[0]) / len(values[0]):.3f}"
        said = f"old-world questions lost through {words}, paired ({ends})"
        checks.append(_check(said, lost, f"<= {NEEDED[key]:g}", lost.value <= NEEDED[key]))
    return checks
