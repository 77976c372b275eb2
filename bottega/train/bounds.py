"""When learning from one's own answers has to stop: flat rewards, answers cut by length, a policy that has gone too far.

Left out: losses that are not finite (watch.py). What is counted is part of every checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

from bottega.core.errors import Diverged


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """max_kl: nats a token between the policy and the reference. max_drift: nats a token between the sampler's and the trainer's
    log-probabilities of one policy. flat_steps: steps in a row in which no reward differed from another. cut_share, cut_steps: share
    of answers cut by length, and how many steps in a row."""

    max_kl: float = 1.0
    max_drift: float = 0.02
    flat_steps: int = 20
    cut_share: float = 0.5
    cut_steps: int = 20


@dataclass(kw_only=True, slots=True)
class Memory:
    """What a run on its own experience remembers from step to step.

    taken: prompts drawn so far. kl: what a nat of distance costs now, where the penalty adapts. flat, cut: steps in a row. told: what
    was said once already.
    """

    bounds: Bounds = field(default_factory=Bounds)
    note: Callable[[str], None] = print
    taken: int = 0
    kl: float = 0.0
    flat: int = 0
    cut: int = 0
    told: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        kept = {spec.name: getattr(self, spec.name) for spec in fields(self) if spec.name not in ("bounds", "note")}
        return kept | {"told": list(self.told)}

    def restore(self, data: Mapping[str, Any]) -> None:
        """What `to_json` gave."""
        for name, value in data.items():
            setattr(self, name, list(value) if name == "told" else value)

    def hear(self, metrics: Mapping[str, float]) -> None:
        """The metrics of a step that was taken.

        Raises:
            Diverged: a bound is passed, with the number and what to change.
        """
        bounds = self.bounds
        self.flat = self.flat + 1 if metrics.get("reward_spread") == 0.0 else 0
        if self.flat >= bounds.flat_steps:
            raise Diverged(
                f"in {self.flat} steps no two answers to a prompt had different rewards (all {metrics.get('reward', 0.0):.4g}), so "
                "there is nothing to learn from: use a reward that tells answers apart, easier or harder prompts, or a higher "
                "temperature"
            )
        share = metrics.get("cut", 0.0)
        self.cut = self.cut + 1 if share > bounds.cut_share else 0
        if self.cut == 1:
            self.say(
                "cut",
                f"{share:.0%} of the answers were cut at max_tokens: raise rollout.max_tokens, or reward shorter answers",
            )
        if self.cut >= bounds.cut_steps:
            raise Diverged(
                f"in {self.cut} steps more than {bounds.cut_share:.0%} of the answers were cut at max_tokens ({share:.0%} now): raise "
                "rollout.max_tokens, or reward shorter answers"
            )
        if (kl := metrics.get("kl", 0.0)) > bounds.max_kl:
            raise Diverged(
                f"the policy is {kl:.4g} nats a token from the reference, above max_kl {bounds.max_kl:g}: lower lr, raise the "
                "objective's kl, or set rollout.max_kl higher"
            )

    def drifted(self, drift: float) -> None:
        """The distance between the sampler's and the trainer's log-probabilities of one policy.

        Raises:
            Diverged: above the bound.
        """
        if drift > self.bounds.max_drift:
            raise Diverged(
                f"the sampler's log-probabilities are {drift:.4g} nats a token from the trainer's, above max_drift "
                f"{self.bounds.max_drift:g}: they are not of one policy; set rollout.rescore: true, or use precision fp32"
            )

    def say(self, what: str, line: str) -> None:
        """Tell a person once."""
        if what not in self.told:
            self.told.append(what)
            self.note(line)


def over_optimised(seen: Sequence[tuple[float, float]], *, last: int = 3) -> str:
    """What to say where the reward rose over the last evaluations while a judge that is not trained on fell; nothing else.

    Gao et al. 2023 (arXiv 2210.10760): a proxy's reward goes on rising when the true one falls already.

    Args:
        seen: (reward, judge) of each evaluation so far. last: evaluations that are looked at.

    >>> over_optimised([(0.1, 0.5), (0.2, 0.6), (0.3, 0.5), (0.4, 0.3)])[:38]
    'the reward rose from 0.2 to 0.4 while '
    >>> over_optimised([(0.1, 0.5), (0.2, 0.6), (0.3, 0.7)])
    ''
    """
    now = list(seen[-last:])
    if len(now) < last:
        return ""
    rises = all(before[0] < after[0] for before, after in pairwise(now))
    falls = all(before[1] > after[1] for before, after in pairwise(now))
    if not (rises and falls):
        return ""
    return (
        f"the reward rose from {now[0][0]:.4g} to {now[-1][0]:.4g} while the judge fell from {now[0][1]:.4g} to {now[-1][1]:.4g}: the "
        "reward is being gamed; the best checkpoint by the judge is kept and becomes the result; mend the reward, raise kl, or stop "
        "earlier"
    )
