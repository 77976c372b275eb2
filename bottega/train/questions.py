"""Which of a round's answers people are asked about, and the form in which they are asked.

Left out: what becomes of what they say (live.py). At most one question a prompt: a person's minute tells most where prompts differ.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from bottega.grade.teach import pair_information
from bottega.train.rollout import Group

LIVING = ("model", "people")
"""Rewards of a round whose numbers say how sure the reward model is; else their sum does."""


class Asked(NamedTuple):
    """A question: the keys of two answers to one prompt, or of one, and what a person's word on it would tell, in nats."""

    keys: tuple[str, ...]
    tells: float


def key_of(prompt: str, reply: str) -> str:
    """The name of an answer: what a person saw. Two token sequences with one text are one answer."""
    return hashlib.sha256(json.dumps([prompt, reply]).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def scores_of(group: Group) -> np.ndarray:
    """(G,) what the reward model says of a group's answers, else the sum of its rewards."""
    for name in LIVING:
        if name in group.parts and not np.isnan(group.parts[name]).any():
            return group.parts[name]
    return group.rewards


def choose(
    groups: Sequence[Group], seen: Collection[tuple[str, ...]], *, count: int, active: bool, seed: Sequence[int]
) -> tuple[list[Asked], dict[str, Any]]:
    """The questions of a round, and the answers that they are about, by key.

    Active: of each prompt the two answers on which the reward model is least decided (`pair_information`), and of all prompts those
    first that tell most. Else two answers and prompts by lot. One answer a prompt is asked about by itself: the nearer its score is to
    the round's mean, the more it tells. Answers without a text, and questions of earlier rounds (`seen`), are left out.
    """
    draw = np.random.default_rng([*seed, 11])
    found: list[tuple[Asked, dict[str, Any]]] = []
    taken = set(seen)
    mean = float(np.mean([value for group in groups for value in scores_of(group)])) if groups else 0.0
    for group in groups:
        scores = scores_of(group)
        keys = [key_of(group.prompt.text, reply.text) for reply in group.replies]
        good = [i for i, reply in enumerate(group.replies) if reply.text.strip()]
        places: list[tuple[int, ...]] = list(combinations(good, 2)) if len(keys) > 1 else [(i,) for i in good]
        options = [
            (
                places_of,
                pair_information([float(scores[places_of[0]] - (scores[places_of[1]] if places_of[1:] else mean))]),
            )
            for places_of in places
            if len({keys[i] for i in places_of}) == len(places_of) and tuple(keys[i] for i in places_of) not in taken
        ]
        if not options:
            continue
        at, tells = max(options, key=lambda one: one[1]) if active else options[int(draw.integers(len(options)))]
        asked = Asked(tuple(keys[i] for i in at), round(tells, 6))
        taken.add(asked.keys)
        found.append((asked, {keys[i]: _shown(group, i, float(scores[i])) for i in at}))
    order = sorted(range(len(found)), key=lambda i: -found[i][0].tells) if active else draw.permutation(len(found))
    chosen = [found[int(i)] for i in order[:count]]
    return [asked for asked, _ in chosen], {key: one for _, shown in chosen for key, one in shown.items()}


def _shown(group: Group, place: int, score: float) -> dict[str, Any]:
    """An answer as a round's record keeps it: enough to ask about it, to learn from it once more, and to train on it."""
    reply = group.replies[place]
    return {
        "index": group.index,
        "prompt": group.prompt.text,
        "prompt_ids": list(group.prompt.ids),
        "reply": reply.text,
        "reply_ids": [int(i) for i in reply.ids],
        "finish": reply.finish,
        "score": score,
    }


def to_items(
    asked: Sequence[Asked], shown: Mapping[str, Any], kind: str, name: str
) -> tuple[list[dict[str, Any]], list[float]]:
    """Questions as items of the queue (store/kinds.py) with their priorities; of a rated pair each answer is one."""
    items, priorities = [], []
    for one in asked:
        for keys in [one.keys] if kind == "compare" else [(key,) for key in one.keys]:
            prompt = [{"role": "user", "content": shown[keys[0]]["prompt"]}]
            answers = [{"text": shown[key]["reply"]} for key in keys]
            items.append({"prompt": prompt, "answers": answers, "meta": {"from": name}})
            priorities.append(one.tells)
    return items, priorities
