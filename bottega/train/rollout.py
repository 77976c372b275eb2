"""A round of the policy's own answers: prompts drawn, answers sampled, rewarded, scored, turned into rows to learn from.

Left out: the minibatches that are made of a round (experience.py), how good a token was (advantages.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from bottega.core.rundir import append_jsonl, trim_jsonl
from bottega.core.types import Reply, Row, Sampler, Tokens
from bottega.data.order import Shuffled
from bottega.data.prompts import Prompt
from bottega.train import pairing
from bottega.train.advantages import Advantage, Sampled
from bottega.train.answers import as_answer
from bottega.train.bounds import Memory
from bottega.train.parts import Parts
from bottega.train.rewards import Composition, Judged
from bottega.train.scoring import score_rows

EXAMPLES = 2
"""Answers of a round that are written down to be read: the best and the worst."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How a round is made.

    prompts: drawn for a round; group: answers each; max_tokens, temperature: of an answer. needs: what the trainer's own scores are
    wanted for: `logp` (else the sampler's are taken), `value`, `reference`. cut: what becomes of answers that max_tokens cut: `keep`
    them, or `mask` them out of the loss; cut_penalty: taken off their reward. resample: rounds of further prompts for those whose
    answers all have one reward (dynamic sampling, DAPO section 3.2). keep: only so many best answers are learned from; pair: only a
    better and a worse one, chosen by this rule. kl_target: nats an answer at which the penalty for distance settles.
    """

    prompts: int
    group: int
    max_tokens: int
    temperature: float
    seed: int
    needs: tuple[str, ...] = ()
    cut: str = "keep"
    cut_penalty: float = 0.0
    resample: int = 0
    keep: int | None = None
    pair: str | None = None
    kl_target: float | None = None
    stops: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    batch: int = 64


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Group:
    """A prompt, its answers, their rewards (G,) and each reward's part (G,) by name. place: in the stream of prompts."""

    index: int
    prompt: Prompt
    replies: tuple[Reply, ...]
    rewards: np.ndarray
    parts: Mapping[str, np.ndarray]
    place: int = 0

    @property
    def flat(self) -> bool:
        """Whether all answers have one reward, so that they say nothing about one another."""
        return bool((self.rewards == self.rewards[0]).all())


class Heard(NamedTuple):
    """An answer of an earlier round of which people have spoken since: its prompt's place, and what was said."""

    place: int
    reply: Reply


class People(Protocol):
    """Who is asked about a round's answers while it trains (train/live.py)."""

    def resume(self, number: int) -> None:
        """A run goes on: this round comes next."""

    def begin(self, number: int) -> None:
        """Before a round is sampled."""

    def again(self) -> Sequence[Sequence[Heard]]:
        """Answers, prompt by prompt, that are learned from once more in this round."""

    def end(self, number: int, groups: Sequence[Group]) -> Mapping[str, Any]:
        """After a round: ask about its answers; what is to be written down of it."""


def _only(group: Group, places: Sequence[int]) -> Group:
    """The group with the answers at `places` alone, in that order."""
    chosen = list(places)
    return dataclasses.replace(group, replies=tuple(group.replies[i] for i in chosen), rewards=group.rewards[chosen])


class Collector:
    """Called with a round's number, gives its rows; a function of the weights, the memory and the number alone.

    `parts` are set when they are built. log: where a line a round is written.
    """

    parts: Parts

    def __init__(
        self,
        prompts: Sequence[Prompt],
        sampler: Sampler,
        reward: Composition,
        advantage: Advantage,
        plan: Plan,
        *,
        memory: Memory,
        micro_tokens: int,
        log: Path | None = None,
        people: People | None = None,
    ) -> None:
        assert prompts
        self.prompts, self.sampler, self.reward, self.advantage, self.plan = prompts, sampler, reward, advantage, plan
        self.memory, self.micro_tokens, self.log, self.people = memory, micro_tokens, log, people
        self._trimmed = False

    def __call__(self, number: int) -> list[Row]:
        """The rows of round `number`."""
        if self.people is not None:
            self.people.begin(number)
        fresh, drawn = self._groups()
        groups = fresh + (self._again(self.people.again()) if self.people is not None else [])
        all_rewards = np.concatenate([group.rewards for group in groups])
        learned = [self._chosen(group) for group in groups]
        rows = [self._row(group, all_rewards, places) for group, places in zip(groups, learned, strict=True)]
        kept = [_only(group, places or (0, 0)) for group, places in zip(groups, learned, strict=True)]
        scores = self._scores(rows, kept)
        made = self._with_advantages(rows, kept, scores)
        self._adapt(rows, scores)
        told = {"live": self.people.end(number, fresh)} if self.people is not None else {}
        self._write(number, fresh, drawn, told)
        return made

    def _again(self, heard: Sequence[Sequence[Heard]]) -> list[Group]:
        """Answers of earlier rounds as groups of this one, with the rewards they have now.

        Their log-probabilities are those of the policy as it is now: they are learned from as if it had said them.
        """
        found = []
        for answers in heard:
            index = answers[0].place
            prompt = self.prompts[index]
            branches = tuple(Tokens(one.reply.ids, [1.0] * len(one.reply.ids)) for one in answers)
            row = Row(index=index, prefix=Tokens(prompt.ids, [0.0] * len(prompt.ids)), branches=branches)
            (score,) = score_rows(self.parts, [row], ("logp",), micro_tokens=self.micro_tokens)
            ends = np.cumsum([len(branch.ids) for branch in branches])
            logps = np.split(np.asarray(score["logp"], np.float32), ends[:-1])
            replies = tuple(
                one.reply._replace(logps=tuple(float(p) for p in own)) for one, own in zip(answers, logps, strict=True)
            )
            judged = self._judge([prompt], [replies])
            cut = np.array([reply.finish == "length" for reply in replies])
            rewards = judged.total - self.plan.cut_penalty * cut
            found.append(Group(index=index, prompt=prompt, replies=replies, rewards=rewards, parts=judged.parts))
        return found

    def _chosen(self, group: Group) -> tuple[int, ...] | None:
        """The places of the answers that are learned from; None where no pair is there, for all are equally good."""
        plan = self.plan
        if plan.pair is not None:
            return pairing.pair(group.rewards, plan.pair, np.random.default_rng([plan.seed, group.place]))
        if plan.keep is not None:
            return pairing.best(group.rewards, plan.keep)
        return tuple(range(len(group.replies)))

    def _adapt(self, rows: Sequence[Row], scores: Sequence[Mapping[str, Any]]) -> None:
        """What a nat costs from the next round on: up where answers are further than `kl_target` nats from the reference, down
        where they are nearer, by at most 2 percent (Ziegler et al. 2019, arXiv 1909.08593, section 2.2)."""
        if self.plan.kl_target is None:
            return
        answers = sum(sum(any(b.trains) for b in row.branches) for row in rows)
        away = sum(float((score["logp"] - score["ref.logp"]).sum()) for score in scores) / max(1, answers)
        self.memory.kl *= 1 + 0.1 * float(np.clip(away / self.plan.kl_target - 1, -0.2, 0.2))

    def draw(self, count: int) -> list[tuple[int, int]]:
        """(place in the stream, prompt) of the next `count` prompts: epoch after epoch, each in its own order."""
        size = len(self.prompts)
        found: list[tuple[int, int]] = []
        while len(found) < count:
            epoch, at = divmod(self.memory.taken, size)
            for index in Shuffled(size, self.plan.seed, epoch).take(at, count - len(found)):
                found.append((self.memory.taken, index))
                self.memory.taken += 1
        return found

    def _groups(self) -> tuple[list[Group], int]:
        """Groups to learn from, and how many were sampled for them."""
        plan = self.plan
        groups = self._sample(plan.prompts)
        drawn = len(groups)
        for _ in range(plan.resample):
            good = [group for group in groups if not group.flat]
            if len(good) == plan.prompts:
                break
            fresh = self._sample(plan.prompts - len(good))
            drawn += len(fresh)
            flat = [group for group in groups if group.flat]
            groups = good + [group for group in fresh if not group.flat]
            groups += (flat + [group for group in fresh if group.flat])[: plan.prompts - len(groups)]
        return groups, drawn

    def _sample(self, count: int) -> list[Group]:
        plan, chosen = self.plan, self.draw(count)
        replies = self.sampler.sample(
            [self.prompts[index].ids for _, index in chosen],
            n=plan.group,
            seed=[(plan.seed << 32) + place for place, _ in chosen],
            max_tokens=plan.max_tokens,
            temperature=plan.temperature,
            batch=max(plan.group, plan.batch),
            **plan.stops,
        )
        groups = [replies[i : i + plan.group] for i in range(0, len(replies), plan.group)]
        judged = self._judge([self.prompts[index] for _, index in chosen], groups)
        found = []
        for at, ((place, index), own) in enumerate(zip(chosen, groups, strict=True)):
            span = slice(at * plan.group, (at + 1) * plan.group)
            cut = np.array([reply.finish == "length" for reply in own])
            rewards = judged.total[span] - plan.cut_penalty * cut
            parts = {name: values[span] for name, values in judged.parts.items()}
            found.append(
                Group(
                    index=index,
                    prompt=self.prompts[index],
                    replies=tuple(own),
                    rewards=rewards,
                    parts=parts,
                    place=place,
                )
            )
        return found

    def _judge(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Reply]]) -> Judged:
        return self.reward(
            [as_answer(prompt, reply) for prompt, own in zip(prompts, groups, strict=True) for reply in own]
        )

    def _row(self, group: Group, all_rewards: np.ndarray, places: tuple[int, ...] | None) -> Row:
        """The prompt, computed once, and the answers at `places`; what was cut trains nothing where the plan says so, and a pair
        that is none trains nothing either.

        The spread of rewards is that among the answers to a prompt, and with one answer each that among a round's.
        """
        plan, kept = self.plan, _only(group, places or (0, 0))
        masked = [plan.cut == "mask" and reply.finish == "length" for reply in kept.replies]
        if all(masked) and plan.pair is None:
            masked = [False] * len(masked)  # a row must have a token; its advantage is nothing
        if places is None or (plan.pair is not None and any(masked)):
            masked = [True] * len(masked)
        count = len(kept.replies)
        known: dict[str, np.ndarray] = {
            "reward": group.rewards,
            "reward_spread": np.array([float((group.rewards if len(group.replies) > 1 else all_rewards).std())]),
            "length": np.array([float(len(reply.ids)) for reply in group.replies]),
            "cut": np.array([float(reply.finish == "length") for reply in group.replies]),
            "max_tokens": np.array([float(plan.max_tokens)]),
        }
        if len(group.parts) > 1:
            known |= {f"reward.{name}": np.nan_to_num(values) for name, values in group.parts.items()}
        extras = {  # of all answers, also where some are learned from
            name: values.tolist() if len(values) == count else [float(values.mean())] * count
            for name, values in known.items()
        }
        return Row(
            index=group.index,
            prefix=Tokens(group.prompt.ids, [0.0] * len(group.prompt.ids)),
            branches=tuple(
                Tokens(reply.ids, [0.0 if out else 1.0] * len(reply.ids))
                for reply, out in zip(kept.replies, masked, strict=True)
            ),
            extras=extras,
        )

    def _scores(self, rows: Sequence[Row], groups: Sequence[Group]) -> list[dict[str, Any]]:
        """Per row: `logp` of the policy that sampled, `ref.logp` and `value` where they are wanted, and how far sampler and
        trainer are apart."""
        own = [need for need in self.plan.needs if need != "reference"]
        scores: list[dict[str, Any]] = [{} for _ in rows]
        if own:
            scores = score_rows(self.parts, rows, sorted({*own, "logp"}), micro_tokens=self.micro_tokens)
        if "reference" in self.plan.needs:
            found = score_rows(self.parts, rows, ("logp",), view="reference", micro_tokens=self.micro_tokens)
            for score, reference in zip(scores, found, strict=True):
                score["ref.logp"] = reference["logp"]
        for row, group, score in zip(rows, groups, scores, strict=True):
            learned = [r.logps for r, b in zip(group.replies, row.branches, strict=True) if any(b.trains)]
            sampled = np.concatenate([np.zeros(0, np.float32), *(np.asarray(own, np.float32) for own in learned)])
            if "logp" in score:
                shift = (score["logp"] - sampled).astype(np.float64)
                score["drift"] = float((np.exp(shift) - 1 - shift).mean()) if len(shift) else 0.0
            else:
                score["logp"] = sampled
        return scores

    def _with_advantages(
        self, rows: Sequence[Row], groups: Sequence[Group], scores: Sequence[Mapping[str, Any]]
    ) -> list[Row]:
        nothing = np.zeros(0, dtype=np.float32)
        sampled = [
            Sampled(
                rewards=group.rewards,
                lengths=np.array([len(b.ids) if any(b.trains) else 0 for b in row.branches]),
                logp=score["logp"],
                ref_logp=score.get("ref.logp", nothing),
                value=score.get("value", nothing),
            )
            for row, group, score in zip(rows, groups, scores, strict=True)
        ]
        adapted = {"kl": self.memory.kl} if self.plan.kl_target is not None else {}
        found = self.advantage(sampled, **adapted)
        made = []
        for row, score, numbers in zip(rows, scores, found, strict=True):
            tokens = {"old.logp": score["logp"], **numbers}
            tokens |= {"old.value": score["value"]} if "value" in score else {}
            tokens |= {"ref.logp": score["ref.logp"]} if "ref.logp" in score else {}
            extras = dict(row.extras)
            if "drift" in score:
                extras["drift"] = [score["drift"]] * len(row.branches)
            if self.plan.kl_target is not None:
                extras["kl_cost"] = [self.memory.kl] * len(row.branches)
            made.append(
                dataclasses.replace(
                    row,
                    extras=extras,
                    tokens={name: np.asarray(values, dtype=np.float32) for name, values in tokens.items()},
                )
            )
        return made

    def _write(self, number: int, groups: Sequence[Group], drawn: int, told: Mapping[str, Any]) -> None:
        """A line about the round: each reward's mean, spread and share at zero, and answers to read."""
        if self.log is None or self.parts.world.rank:
            return
        names = list(groups[0].parts)
        judged = Judged(
            total=np.concatenate([group.rewards for group in groups]),
            parts={name: np.concatenate([group.parts[name] for group in groups]) for name in names},
        )
        flat = [(float(r), g, reply) for g in groups for r, reply in zip(g.rewards, g.replies, strict=True)]
        ranked = sorted(flat, key=lambda one: -one[0])
        shown = [ranked[0], ranked[-1]][: min(EXAMPLES, len(ranked))]
        if not self._trimmed:
            trim_jsonl(self.log, lambda line: line["round"] < number)
            self._trimmed = True
        with append_jsonl(self.log) as log:
            log.write(
                {
                    "round": number,
                    "prompts": len(groups),
                    "sampled": drawn,
                    "flat": sum(group.flat for group in groups),
                    "rewards": judged.stats(),
                    "length": float(np.mean([len(reply.ids) for _, _, reply in flat])),
                    "cut": float(np.mean([reply.finish == "length" for _, _, reply in flat])),
                    "examples": [{"prompt": g.prompt.text, "reply": r.text, "reward": value} for value, g, r in shown],
                    **told,
                }
            )
