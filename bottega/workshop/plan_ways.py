"""Other ways to run a stage: which of full, LoRA, QLoRA, LISA and streaming fit a device, and what would make a recipe fit.

Left out: predicting one way (plan_stage.py).

Levers come in the order of what they cost: first those that change speed alone, then those that change what is learned.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from bottega.core import table
from bottega.models.methods import METHODS
from bottega.workshop.plan_rows import StageRows, most_tokens
from bottega.workshop.plan_stage import Predicted, Rehearsals, Way, predict, way_of
from bottega.workshop.plan_target import Target
from bottega.workshop.recipe import LOOP, Stage

Verdict = Literal["fits", "tight", "no"]
ROOM = 0.97
"""Of a device's memory, what a run may take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """A way that was looked at: what it is called, the change to the recipe, what it comes to."""

    name: str
    change: str
    found: Predicted
    verdict: Verdict


def verdict(found: Predicted, target: Target) -> Verdict:
    """`fits` if even the upper end of the range does, `no` if not even the lower end does, else `tight`."""
    if target.memory is None:
        return "fits"
    room = target.memory * ROOM
    if found.memory.process * target.slack[1] <= room:
        return "fits"
    return "tight" if found.memory.process * target.slack[0] <= room else "no"


def available() -> set[str]:
    """The ways that this version of the project has."""
    here = {"full", "lisa", "lora"} | ({"qlora"} if "qlora" in METHODS else set())
    streams = {"streaming"} | ({"streaming, 4 bits"} if "qlora" in METHODS else set())
    return here | (streams if "stream" in LOOP else set())


def method_ways(loop: Any) -> Iterator[tuple[str, str, Way]]:
    """(name, change to the recipe, way) of the methods that are compared."""
    lora = {"rank": 16}
    yield "full", "method: full", Way(method="full", options={}, loop=loop)
    yield "lisa", "method: {name: lisa, active: 2}", Way(method="lisa", options={"active": 2}, loop=loop)
    yield "lora", "method: {name: lora, rank: 16}", Way(method="lora", options=lora, loop=loop)
    yield "qlora", "method: {name: qlora, rank: 16}", Way(method="qlora", options={**lora, "base": "nf4"}, loop=loop)
    away = {**loop, "stream": True}
    yield "streaming", "method: {name: lora, rank: 16}, stream: true", Way(method="lora", options=lora, loop=away)
    four = Way(method="qlora", options={**lora, "base": "nf4"}, loop=away)
    yield "streaming, 4 bits", "method: {name: qlora, rank: 16}, stream: true", four


def compare(stage: Stage, rehearsals: Rehearsals, rows: StageRows, target: Target) -> list[Option]:
    """Each method in the stage's own settings, and in lean ones where these do not fit."""
    found = []
    for name, change, way in method_ways(stage.loop):
        if name not in available() or (way.method == "lisa" and rehearsals.shape.num_layers < 2):
            continue
        one = predict(stage, rehearsals, rows, target, way=way)
        said = verdict(one, target)
        if said != "fits":
            for words, leaner in lean(way, rows):
                other = predict(stage, rehearsals, rows, target, way=leaner)
                if verdict(other, target) == "fits":
                    one, said, change = other, "fits", f"{change}, {words}"
                    break
        found.append(Option(name=name, change=change, found=one, verdict=said))
    return found


def lean(way: Way, rows: StageRows) -> Iterator[tuple[str, Way]]:
    """Settings that trade time for memory, one added to the other."""
    words: list[str] = []
    for change, lighter in _lighter(rows):
        if (new := lighter(way)) is not None:
            way = new
            words.append(change)
            yield ", ".join(words), way


def levers(stage: Stage, rehearsals: Rehearsals, rows: StageRows, target: Target) -> list[Option]:
    """What would make the stage smaller, one added to the other in the order of their price, until it fits."""
    done: list[Option] = []
    way = way_of(stage)
    for words, leaner in [*lean(way, rows)]:
        way = leaner
        found = predict(stage, rehearsals, rows, target, way=way)
        done.append(Option(name=words.rsplit(", ", 1)[-1], change=words, found=found, verdict=verdict(found, target)))
        if done[-1].verdict == "fits":
            return done
    order = ["full", "lisa", "lora", "qlora", "streaming", "streaming, 4 bits"]
    start = order.index(way.method) + 1 if way.method in order else 0
    before = f"{done[-1].change}, " if done else ""
    for name, change, other in method_ways(way.loop):
        if order.index(name) < start or name not in available():
            continue
        found = predict(stage, rehearsals, rows, target, way=other)
        done.append(Option(name=change, change=before + change, found=found, verdict=verdict(found, target)))
        if done[-1].verdict == "fits":
            break
    return done


@functools.cache
def _has_8bit() -> bool:
    return "adamw8bit" in table.keys("bottega.train.optim:OPTIMIZERS") and find_spec("bitsandbytes") is not None


def _lighter(rows: StageRows) -> list[tuple[str, Callable[[Way], Way | None]]]:
    """(words, change): None where a change does nothing."""
    longest = max(row.num_tokens for row in rows.heaviest)
    micro = max(longest, 256)

    def shorter(way: Way) -> Way | None:
        return way.but(micro_tokens=micro) if micro < min(most_tokens(way.loop), rows.heavy_tokens) else None

    def recompute(way: Way) -> Way | None:
        return None if way.loop["checkpointing"] else way.but(checkpointing=True)

    def eight_bit(way: Way) -> Way | None:
        heavy = way.method in ("full", "lisa") and way.loop["optimizer"] in ("adamw", "schedule_free")
        return way.but(optimizer="adamw8bit") if heavy and _has_8bit() else None

    return [
        (f"micro_tokens: {micro}", shorter),
        ("checkpointing: true", recompute),
        ("optimizer: adamw8bit", eight_bit),
    ]
