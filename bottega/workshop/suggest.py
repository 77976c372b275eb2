"""`bottega plan --suggest`: open models, each with the ways to tune it that fit a device, and what some hours of it buy.

Left out: which model is good at your task; that is measured (`bottega eval`). The numbers of each model come from
open_models.json, rehearsed once (benchmarks/plan_open_models.py) from the configs of plan_models.py; a device only does
arithmetic on them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bottega.core import rundir
from bottega.core.textio import table
from bottega.core.types import Row, Tokens
from bottega.workshop import plan_models, plan_shape, plan_target
from bottega.workshop.plan_memory import Needs, memory_of
from bottega.workshop.plan_rehearsal import Work
from bottega.workshop.plan_stage import Rehearsals, with_more_logits
from bottega.workshop.plan_target import Target
from bottega.workshop.plan_time import seconds, terms
from bottega.workshop.plan_ways import ROOM, available, method_ways
from bottega.workshop.recipe import LOOP

FILE = Path(__file__).with_name("open_models.json")
TOKENS, ROWS = 2048, 4
"""The micro-batch that a suggestion is made for: tokens, in so many rows, with checkpointing, weights in bf16."""


@cache
def known() -> dict[str, dict[str, Needs]]:
    """model -> way -> what a micro-batch needs."""
    found = rundir.read_json(FILE)["models"]
    return {name: {way: needs_from(one) for way, one in ways.items()} for name, ways in found.items()}


def needs_from(data: Mapping[str, Any]) -> Needs:
    """Needs as `needs_to` wrote them."""
    works = {key: Work.from_json(data[key]) for key in ("forward", "work")}
    return Needs(**{**data, **works})


def needs_to(found: Needs) -> dict[str, Any]:
    """Needs as JSON, numbers rounded to whole ones."""
    made: dict[str, Any] = {}
    for field in dataclasses.fields(Needs):
        value = getattr(found, field.name)
        made[field.name] = _rounded(value.to_json()) if isinstance(value, Work) else round(value)
    return made


def _rounded(value: Any) -> Any:
    return {key: _rounded(item) for key, item in value.items()} if isinstance(value, dict) else round(value)


def suggestions(device: str | None, memory: float | None, *, hours: float) -> dict[str, Any]:
    """The table of open models with the ways that fit a device.

    Returns:
        models: one line a model: its facts, and for each way the peak, whether it fits, and millions of tokens in `hours`
        (a range: it is a prediction).
    """
    target = plan_target.target(device, memory)
    models = []
    for entry in plan_models.OPEN_MODELS:
        here = {name: found for name, found in known()[entry.name].items() if name in available()}
        if target.kind != "cpu":
            here = {name: with_more_logits(found, entry.shape["vocab_size"]) for name, found in here.items()}
        ways = {name: _way(found, target, hours) for name, found in here.items()}
        best = next((name for name, one in ways.items() if one["fits"] == "fits"), None)
        models.append(
            {
                "name": entry.name,
                "billions": entry.billions,
                "licence": entry.licence,
                "languages": entry.languages,
                "context": entry.context,
                "best": best,
                "ways": ways,
            }
        )
    return {
        "date": plan_models.DATE,
        "based_on": plan_models.BASED_ON,
        "device": {
            "name": target.name,
            "kind": target.kind,
            "memory_bytes": None if target.memory is None else round(target.memory),
            "calibrated": target.calibrated,
            "note": target.note,
        },
        "hours": hours,
        "micro_tokens": TOKENS,
        "models": models,
        "exit_code": 0,
    }


def _way(found: Needs, target: Target, hours: float) -> dict[str, Any]:
    memory = memory_of(
        found, micro_batches=2, merges=False, self_check=False, fit=target.fit, interpreter=target.interpreter
    )
    passes = Work(bytes=found.gradients * 6 + found.states * 2)
    step_s = seconds(terms(found.work, target.rates, steps=0), target.factors) * 4  # four micro-batches a step
    step_s += seconds(terms(passes, target.rates), target.factors)
    step_s = step_s / target.threads if target.kind == "cpu" else step_s
    tokens = 4 * found.tokens * hours * 3600 / step_s / 1e6
    room = None if target.memory is None else target.memory * ROOM
    fits = "fits" if room is None or memory.process * target.slack[1] <= room else "tight"
    if room is not None and memory.process * target.slack[0] > room:
        fits = "no"
    return {
        "peak": round(memory.process),
        "fits": fits,
        "million_tokens": round(tokens, 2),
        "low": round(tokens / target.spread[1], 2),
        "high": round(tokens / target.spread[0], 2),
    }


def suggest_text(found: dict[str, Any]) -> str:
    """The table for people."""
    device = found["device"]
    memory = "" if device["memory_bytes"] is None else f", {device['memory_bytes'] / 1e9:.1f} GB"
    rows = []
    for model in found["models"]:
        best = model["best"]
        fits = ", ".join(name for name, way in model["ways"].items() if way["fits"] == "fits")
        way = model["ways"].get(best, {})
        buys = f"{way['low']:,.3g} to {way['high']:,.3g}" if way else ""
        peak = f"{way['peak'] / 1e9:.1f} GB" if way else ""
        rows.append(
            (model["name"], f"{model['billions']:g}", model["licence"], model["languages"], fits or "none", peak, buys)
        )
    headers = ("model", "billions", "licence", "languages", "what fits", "peak", f"M tokens in {found['hours']:g} h")
    return "\n".join(
        [
            f"{device['name']}{memory}: {device['note']}",
            "",
            table(rows, headers),
            "",
            f"peak and tokens are those of the first way that fits, at micro_tokens: {found['micro_tokens']} with "
            "checkpointing: true and precision: bf16-true; they are predictions, and tokens a range",
            f"models as of {found['date']} ({found['based_on']}); read the card and the licence before you train",
        ]
    )


def rehearse_model(entry: plan_models.Open) -> Iterator[tuple[str, Needs]]:
    """(way, needs) of an open model for the micro-batch that suggestions are made for."""
    loop = {**LOOP, **SETTINGS, "stream": False}
    shape = plan_shape.Shape(
        name=entry.name,
        config=plan_shape.table_config(entry),
        tokenizer=None,
        folder=None,
        file_bytes=round(entry.billions * 2e9),
        source="",
    )
    each = TOKENS // ROWS
    ids: Any = np.ones(each, dtype=np.int32)
    trains: Any = np.ones(each, dtype=np.float32)
    rows = tuple(Row(index=i, branches=(Tokens(ids, trains),)) for i in range(ROWS))
    rehearsals = Rehearsals(shape=shape, rows=rows, objective="sft")
    for name, _, way in method_ways(loop):
        yield name, rehearsals.needs(way)


SETTINGS = {"checkpointing": True, "precision": "bf16-true", "optimizer": "adamw", "micro_tokens": TOKENS}
"""The loop's settings of a suggestion."""
