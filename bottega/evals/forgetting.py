"""What a model lost against its base: drops in accuracy item by item, rises in bits a byte on held-out text, and KL to the base.

Left out: scoring (runner.py) and loading. Both scorecards hold the same items; the interval's upper end is what a bound is held to.
"""

from __future__ import annotations

import math
from dataclasses import replace

from bottega.core.errors import Mismatch
from bottega.evals.audit import Audit, Finding, few, finding
from bottega.evals.runner import RATIOS, Score, Scorecard
from bottega.grade import intervals

REMEDIES = (
    "mix older rows into the data (`data: [{path: new.jsonl, weight: 0.75}, {path: old.jsonl, weight: 0.25}]`)",
    "train fewer numbers or fewer steps (`method: lora`, a lower `lr`), or stop earlier (`early_stop`)",
    "go part of the way back: bottega merge BASE:0.5 MODEL:0.5 --out between, and audit the result",
)


def judge(
    before: Scorecard,
    after: Scorecard,
    *,
    max_drop: float = 0.02,
    max_rise: float = 0.05,
    kl: tuple[float, int] | None = None,
    seed: int = 0,
) -> Audit:
    """The audit of `after` against its base.

    Args:
        max_drop: of a task's score, on its own scale (accuracy: 0 to 1), at most. max_rise: of the bits a byte (or of the loss a
            token) of held-out text, as a share of what they were. kl: mean KL(base || model) in nats a token, and over how many.

    Raises:
        Mismatch: the two have no task in common, or not the same items.
    """
    found: list[Finding] = []
    for old in before.scores:
        new = next((score for score in after.scores if score.task == old.task), None)
        if new is None:
            continue
        if [item.key for item in old.items] != [item.key for item in new.items] or old.metric != new.metric:
            raise Mismatch(f"{old.task} was not scored on the same items by the same metric: evaluate both anew")
        found.append(_rise(old, new, max_rise, seed) if old.metric in RATIOS else _drop(old, new, max_drop, seed))
    if not found:
        raise Mismatch(f"{before.model} and {after.model} have no task in common: score both on the same")
    if kl is not None:
        found.append(
            Finding(what="KL of the base from it", value=kl[0], low=None, high=None, n=kl[1], unit="nats a token")
        )
    notes = few(found)
    return Audit(
        risk="forgetting",
        model=after.model,
        base=before.model,
        seed=seed,
        findings=tuple(found),
        notes=notes,
        remedies=REMEDIES,
        examples=_lost(before, after),
    )


def _drop(old: Score, new: Score, bound: float, seed: int) -> Finding:
    lost = intervals.paired([item.value for item in new.items], [item.value for item in old.items], seed=seed)
    return finding(f"{old.task}: {old.metric} lost ({old.value:.3f} to {new.value:.3f})", lost, bound)


def _rise(old: Score, new: Score, bound: float, seed: int) -> Finding:
    """Of losses a token or byte: their ratio after / before, minus 1; items are resampled in pairs."""
    if [item.weight for item in old.items] != [item.weight for item in new.items]:
        raise Mismatch(f"{old.task}: the two models cut the text into different tokens: use metric bits_per_byte")
    tops = [-item.value * item.weight for item in new.items]
    bottoms = [-item.value * item.weight for item in old.items]
    rise = intervals.ratio(tops, bottoms, seed=seed)
    less = replace(rise, value=rise.value - 1, low=rise.low - 1, high=rise.high - 1)
    what = "perplexity" if old.metric == "perplexity" else old.metric.replace("_", " ")
    return finding(f"{old.task}: rise of the loss ({what} {old.value:.3f} to {new.value:.3f})", less, bound)


def _lost(before: Scorecard, after: Scorecard, most: int = 5) -> tuple[dict[str, str], ...]:
    """Items that were right and are wrong now."""
    examples: list[dict[str, str]] = []
    for old in before.scores:
        new = next((score for score in after.scores if score.task == old.task), None)
        if new is None or old.metric in RATIOS:
            continue
        pairs = [(a, b) for a, b in zip(old.items, new.items) if b.value < a.value and math.isfinite(b.value)]
        examples += [
            {"task": old.task, "prompt": a.prompt, "before": a.reply, "after": b.reply, "truth": a.truth}
            for a, b in pairs[:most]
        ]
    return tuple(examples)
