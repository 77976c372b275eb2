"""People in the loop while it trains: each round's samples go to a queue, and what came back of them is part of the reward.

Left out: the queue itself (a store or a server: workshop/build_live.py), what votes mean in numbers (grade/people.py), which questions
are asked (questions.py). Nothing here waits for a person. A round is a function of the weights, its number and the ratings that were
heard at its beginning; those are on the disk before they are used, so that a run that was killed goes on with the same ones.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from bottega.core.errors import Mismatch
from bottega.core.rundir import read_json, write_json
from bottega.core.types import Reply, Row, Tokens
from bottega.grade.people import Opinion, Preferred, Vote, alpha, opinions, preferences, standing, weights
from bottega.grade.rewards import Answer, Batch
from bottega.train.questions import Asked, choose, key_of, to_items
from bottega.train.rollout import Group, Heard

POLLS = 100
"""Pages of ratings that are fetched at the beginning of a round, at most; the rest comes with the next."""
WAITING = 4
"""Rounds whose questions wait for a queue that is away; older ones are not asked any more."""


class Away(Exception):
    """The queue cannot be reached now; the run goes on without it."""


class Queue(Protocol):
    """Where questions go and ratings come from. Both calls end within seconds."""

    def put(self, items: Sequence[Mapping[str, Any]], priorities: Sequence[float]) -> None:
        """Ask; what is there already is not asked twice. Raises Away."""

    def since(self, cursor: int) -> tuple[list[Mapping[str, Any]], int]:
        """What people said after `cursor`, oldest first (store/feedback.py's Event as a mapping), and the next cursor. Raises Away."""


class Learner(Protocol):
    """The reward model that learns from people."""

    opinion: bool
    """Whether it says anything yet."""

    def learn(self, version: int, rows: Sequence[Row]) -> None:
        """Become what its start makes of these pairs; a `version` that was made of them before is read from the disk."""

    def begin_again(self) -> None:
        """Become its start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LivePlan:
    """kind: compare or rate; scale: of ratings; blend: weight of people where they spoke (1: they replace the reward); samples:
    questions a round; active: those first whose answers tell most; refresh: rounds between trainings of the reward model (0: never);
    again: prompts of earlier rounds that are learned from once more when ratings of them come back, at most, in a round."""

    kind: str
    scale: int
    blend: float
    samples: int
    active: bool
    refresh: int
    again: int
    seed: int
    name: str


class _Sample(NamedTuple):
    """An answer that was asked about; place: of its prompt."""

    place: int
    prompt: str
    prompt_ids: tuple[int, ...]
    reply: Reply
    score: float
    round: int


class Live:
    """The rounds of one stage with people in them; `folder` keeps a JSON file a round.

    Args:
        queue: where questions go. learner: the reward model that is trained on what comes back, if one is.
    """

    def __init__(
        self, queue: Queue, plan: LivePlan, folder: Path, *, note: Callable[[str], None], learner: Learner | None = None
    ) -> None:
        self.queue, self.plan, self.folder, self.note, self.learner = queue, plan, folder, note, learner
        self.number = -1
        self._away = False
        self._events: list[dict[str, Any]] = []
        self._samples: dict[str, _Sample] = {}
        self._asked: list[Asked] = []
        self._record: dict[str, Any] = {}
        self._learned: dict[str, Any] = {}
        self._votes: list[Vote] = []
        self._opinions: dict[str, Opinion] = {}
        self._used: list[dict[str, Any]] = []
        self._moments: tuple[float, float] | None = None

    def path(self, number: int) -> Path:
        """Where a round's record lies."""
        return self.folder / f"round-{number:06d}.json"

    def resume(self, number: int) -> None:
        """Become what was there before round `number` began.

        Raises:
            Mismatch: a round's record is missing.
        """
        self._events, self._samples, self._asked, self._learned = [], {}, [], {}
        for earlier in range(number):
            if not self.path(earlier).is_file():
                raise Mismatch(
                    f"{self.path(earlier)} is missing, and later rounds rest on it: put it back, or begin anew"
                )
            self._take(read_json(self.path(earlier)))
        self.number = number - 1
        if self._learned and self.learner is not None:
            upto = [event for event in self._events if event["heard"] <= self._learned["round"]]
            self._teach(self._learned["round"], self._pairs(standing(upto))[0])

    def _take(self, record: Mapping[str, Any]) -> None:
        """An earlier round's questions and ratings, as they were."""
        self._events += record["events"]
        for key, one in record["samples"].items():
            reply = Reply(text=one["reply"], ids=tuple(one["reply_ids"]), finish=one["finish"])
            self._samples[key] = _Sample(
                one["index"], one["prompt"], tuple(one["prompt_ids"]), reply, one["score"], record["round"]
            )
        self._asked += [Asked(**{**asked, "keys": tuple(asked["keys"])}) for asked in record["asked"]]
        self._learned = record.get("learned") or self._learned

    def begin(self, number: int) -> None:
        """Hear what people said since the last round, and refresh the reward model where that is due."""
        if number != self.number + 1:
            self.resume(number)
        self.number, self._used, self._moments = number, [], None
        known = read_json(self.path(number)) if self.path(number).is_file() else None
        if known is None:
            known = self._hear(number)
            write_json(self.path(number), known)
        self._record = known
        self._events += known["events"]
        self._votes = [vote for vote in standing(self._events) if all(key in self._samples for key in vote.keys)]
        self._opinions = opinions(self._votes, weights(self._votes))
        if self.learner is not None and self.plan.refresh and number and number % self.plan.refresh == 0:
            self._refresh(number)

    def _hear(self, number: int) -> dict[str, Any]:
        """A new round's record: the ratings that came since the last."""
        before = read_json(self.path(number - 1)) if number else {"cursor": 0}
        cursor, events, unknown, away = before["cursor"], [], 0, ""  # type: int, list[dict[str, Any]], int, str
        try:
            for _ in range(POLLS):
                found, after = self.queue.since(cursor)
                for event in found:
                    made = self._readable(event, number)
                    events += [made] if made is not None else []
                    unknown += made is None
                if after == cursor:
                    break
                cursor = after
        except Away as error:
            away = str(error)
        self._tell_away(away)
        if unknown:
            self.note(
                f"round {number}: {unknown} ratings are of samples that this stage did not send; they are left out"
            )
        empty: dict[str, Any] = {"samples": {}, "asked": [], "sent": False}
        return {"round": number, "cursor": cursor, "away": away, "unknown": unknown, "events": events, **empty}

    def _tell_away(self, away: str) -> None:
        if bool(away) != self._away:
            self._away = bool(away)
            self.note(
                f"the feedback queue is away ({away}); training goes on without people"
                if away
                else f"the feedback queue is back; questions of more than {WAITING} rounds ago are not asked any more"
            )

    def _readable(self, event: Mapping[str, Any], number: int) -> dict[str, Any] | None:
        """What of an event is needed, in one form; None for one of a sample that is not ours, or that nobody can read."""
        try:
            made = {name: str(event[name]) for name in ("id", "item", "annotator", "kind")} | {"heard": number}
            if made["kind"] == "undo":
                return made | {"undoes": str(event["body"]["undoes"])}
            asked = event["item_body"]
            keys = [key_of(asked["prompt"][-1]["content"], answer["text"]) for answer in asked["answers"]]
            if made["kind"] == "skip" and all(key in self._samples for key in keys):
                return made
            values = self._values(event["body"], len(keys))
        except (KeyError, TypeError, ValueError, LookupError):
            return None
        if made["kind"] != "answer" or values is None or not all(key in self._samples for key in keys):
            return None
        return made | {"keys": keys, "values": values}

    def _values(self, body: Mapping[str, Any], count: int) -> list[float] | None:
        """An answer's numbers from -1 to 1, one a side."""
        if count == 2:
            choice = body["choice"]
            sides = {0: [1.0, -1.0], 1: [-1.0, 1.0], "tie": [0.0, 0.0], "neither": [-1.0, -1.0]}
            return None if isinstance(choice, bool) else sides.get(choice)
        middle = (1 + self.plan.scale) / 2
        value = (float(body["score"]) - middle) / (self.plan.scale - middle)
        return [value] if math.isfinite(value) and abs(value) <= 1 else None

    def _pairs(self, votes: Sequence[Vote]) -> tuple[list[Preferred], dict[str, float]]:
        own = [vote for vote in votes if all(key in self._samples for key in vote.keys)]
        weight = weights(own)
        return preferences(own, weight, {key: one.prompt for key, one in self._samples.items()}), weight

    def _refresh(self, number: int) -> None:
        """Train the reward model anew from its start on all that stands: what was withdrawn leaves no trace."""
        pairs, _ = self._pairs(self._votes)
        digest = hashlib.sha256(json.dumps(pairs).encode()).hexdigest()
        if digest == self._learned.get("digest") or not (pairs or self._learned):
            return
        self._learned = {"round": number, "pairs": len(pairs), "digest": digest}
        self._teach(number, pairs)

    def _teach(self, version: int, pairs: Sequence[Preferred]) -> None:
        assert self.learner is not None
        if pairs:
            self.learner.learn(version, [self._row(number, pair) for number, pair in enumerate(pairs)])
        else:
            self.learner.begin_again()

    def _row(self, number: int, pair: Preferred) -> Row:
        sides = [self._samples[key] for key in (pair.better, pair.worse)]
        prompt = sides[0].prompt_ids
        return Row(
            index=number,
            prefix=Tokens(prompt, [0.0] * len(prompt)),
            branches=tuple(Tokens(one.reply.ids, [1.0] * len(one.reply.ids)) for one in sides),
            extras={"share": [pair.share, pair.share]},
        )

    def judge(self, inner: Batch | None) -> Batch:
        """The reward `inner` with people in it: where they spoke of an answer (this very text to this very prompt)

        r = (1 - b) r_model + b (m + s z), b = blend * sure,

        with z their opinion from -1 to 1, sure how far they are to be believed (grade/people.py), and m and s the mean and the spread
        of the model's numbers among the round's answers, so that both are on one scale. Without a model r = sure * z.
        """

        def judged(answers: Sequence[Answer]) -> list[float | None]:
            speaks = inner is not None and (self.learner is None or self.learner.opinion)
            own: list[float | None] = inner(answers) if speaks and inner is not None else [None] * len(answers)
            known = [value for value in own if value is not None]
            if self._moments is None:
                self._moments = (float(np.mean(known)), float(np.std(known)) or 1.0) if known else (0.0, 1.0)
            return [self._blended(answer, value) for answer, value in zip(answers, own, strict=True)]

        return judged

    def _blended(self, answer: Answer, model: float | None) -> float | None:
        key = key_of(answer.prompt, answer.reply)
        opinion = self._opinions.get(key)
        if opinion is None:
            return model
        assert self._moments is not None
        mean, spread = self._moments
        share = self.plan.blend * opinion.sure
        value = opinion.sure * opinion.value if model is None else (
            (1 - share) * model + share * (mean + spread * opinion.value)
        )  # fmt: skip
        said = {"answer": key, "events": list(opinion.events), "people": opinion.value, "sure": opinion.sure}
        self._used.append({**said, "model": model, "reward": value})
        return value

    def again(self) -> list[list[Heard]]:
        """The questions of earlier rounds about which ratings came now, the newest first: their prompts are learned from once more."""
        told = {key for event in self._record["events"] for key in event.get("keys", ())}
        found = [asked for asked in reversed(self._asked) if told & set(asked.keys)][: self.plan.again]
        return [[Heard(self._samples[key].place, self._samples[key].reply) for key in asked.keys] for asked in found]

    def end(self, number: int, groups: Sequence[Group]) -> dict[str, Any]:
        """Ask about this round's answers, write the round down, and say how it stands."""
        assert number == self.number
        seen = {asked.keys for asked in self._asked}
        asked, shown = choose(
            groups, seen, count=self.plan.samples, active=self.plan.active, seed=[self.plan.seed, number]
        )
        record = self._record
        sent = record["sent"] or self._send(number, asked, shown)
        record |= {
            "used": self._used,
            "learned": self._learned if self._learned.get("round") == number else None,
            "samples": shown,
            "asked": [one._asdict() for one in asked],
            "sent": sent,
        }
        facts = self._facts(number)
        write_json(self.path(number), record | {"stands": facts})
        new = {"events": [], **{key: record[key] for key in ("samples", "asked", "round")}}
        self._take(new)
        return facts

    def _send(self, number: int, asked: Sequence[Asked], shown: Mapping[str, Any]) -> bool:
        """Put this round's questions into the queue, and those before them that found it away; whether they are there."""
        if self._record["away"]:
            return False
        try:
            for earlier in range(max(0, number - WAITING), number):
                waiting = read_json(self.path(earlier))
                if not waiting["sent"] and waiting["asked"]:
                    items = [Asked(**one) for one in waiting["asked"]]
                    self.queue.put(*to_items(items, waiting["samples"], self.plan.kind, self.plan.name))
                    write_json(self.path(earlier), waiting | {"sent": True})
            if asked:
                self.queue.put(*to_items(asked, shown, self.plan.kind, self.plan.name))
        except Away as error:
            self._tell_away(str(error))
            return False
        return True

    def _facts(self, number: int) -> dict[str, Any]:
        """How a round stands: what was heard and used, who agrees with whom, and people's rewards against the model's."""
        pairs, weight = self._pairs(self._votes)
        new = [event for event in self._record["events"] if event["kind"] == "answer"]
        late = [event for event in new if min(self._samples[key].round for key in event["keys"]) < number - 1]
        leads = [self._samples[one.better].score - self._samples[one.worse].score for one in pairs]
        both = [one for one in self._used if one["model"] is not None]
        return {
            "asked": len(self._record["asked"]),
            "heard": len(new),
            "late": len(late),
            "withdrawn": sum(event["kind"] == "undo" for event in self._record["events"]),
            "unknown": self._record["unknown"],
            "away": self._record["away"],
            "ratings": len(self._votes),
            "people": len(weight),
            "weights": {who: round(value, 4) for who, value in sorted(weight.items())},
            "agreement": alpha(self._votes),
            "pairs": len(pairs),
            "model_right": sum(0.5 if lead == 0 else float(lead > 0) for lead in leads),
            "used": len(self._used),
            "people_reward": float(np.mean([one["people"] for one in self._used])) if self._used else None,
            "model_reward": float(np.mean([one["model"] for one in both])) if both else None,
            "learned": self._learned.get("pairs", 0) if self._learned.get("round") == number else 0,
        }
