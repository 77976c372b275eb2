"""`bottega plan`: what a recipe will need, before anything is loaded, and what would make it fit.

Left out: the arithmetic (plan_*.py) and the table of open models (suggest.py).

A stage is rehearsed on tensors without content (plan_rehearsal.py), so the plan knows every architecture that loads and
reads no weights.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from bottega.core.errors import UserError
from bottega.core.textio import clock, table
from bottega.train.objectives import OBJECTIVES
from bottega.workshop import plan_devices, plan_rows, plan_shape, plan_target
from bottega.workshop import recipe as recipes
from bottega.workshop.plan_stage import Predicted, Rehearsals, predict
from bottega.workshop.plan_target import Target
from bottega.workshop.plan_ways import Option, compare, levers, verdict
from bottega.workshop.recipe import Recipe

Source = str | os.PathLike[str] | Mapping[str, Any]


def plan(
    recipe: Source | None = None,
    overrides: Sequence[str] = (),
    *,
    suggest: bool = False,
    device: str | None = None,
    device_memory: str | None = None,
    price_per_hour: float | None = None,
    currency: str = "EUR",
    hours: float = 5.0,
    ways: bool = True,
) -> dict[str, Any]:
    """Memory, time, disk and cost of a recipe on a device; or, with `suggest`, the open models that fit the device.

    Args:
        recipe: a file, or the same as a mapping. overrides: `key=value` texts.
        device: a name of the table of devices; default: this machine. device_memory: its memory instead, such as 24GB.
        price_per_hour: what an hour of the device costs, in `currency`; without it there is no cost.
        hours: for `suggest`: how long the device is rented.
        ways: compare methods too (some seconds).

    Returns:
        What `bottega plan --json` prints; `exit_code` is 6 where the recipe cannot fit.

    Raises:
        UserError: see core/errors.py; a recipe, data or a device that are not there.
    """
    memory = plan_devices.memory_bytes(device_memory) if device_memory else None
    if suggest or recipe is None:
        from bottega.workshop.suggest import suggestions

        return suggestions(device, memory, hours=hours)
    loaded = recipes.load(recipe, overrides)
    return plan_recipe(
        loaded, plan_target.target(device, memory), price_per_hour=price_per_hour, currency=currency, ways=ways
    )


RECKONED = {"nll", "logp", "entropy", "embedding"}
"""Scores whose cost a rehearsal knows."""


def _refuse_unknown(stage: str, objective: str) -> None:
    others = {need for need in OBJECTIVES[objective].needs if not need.startswith("ref.")} - RECKONED
    if others:
        raise UserError(
            f"{stage}: plan does not reckon {objective} yet, whose head gives {', '.join(sorted(others))}; start the run, "
            "which tries its heaviest batch first"
        )


def plan_recipe(
    recipe: Recipe,
    target: Target,
    *,
    price_per_hour: float | None = None,
    currency: str = "EUR",
    ways: bool = True,
) -> dict[str, Any]:
    """The plan of a recipe that was read already."""
    if recipe.init is not None:
        raise UserError(
            "plan reads a model that is there, and this recipe makes one (init): `bottega run --dry-run` checks it"
        )
    for stage in recipe.stages:
        _refuse_unknown(stage.name, stage.objective.name)
    shape = plan_shape.find_shape(recipe.model, revision=recipe.revision)
    packs = plan_shape.packs(shape.config)
    stages: list[dict[str, Any]] = []
    worst: tuple[float, Any] = (-1.0, None)
    for stage in (recipes.on_device(stage, target.kind, half=target.half) for stage in recipe.stages):
        rows = plan_rows.look(stage, shape.config, shape.tokenizer, seed=recipe.seed, packed=packs)
        rehearsals = Rehearsals(shape=shape, rows=rows.heaviest, objective=stage.objective.name)
        found = predict(stage, rehearsals, rows, target)
        stages.append(_stage_json(stage, rows, found, target))
        if found.memory.process > worst[0]:
            worst = (found.memory.process, (stage, rehearsals, rows, found))
    stage, rehearsals, rows, found = worst[1]
    said = verdict(found, target)
    seconds = sum(one["seconds"]["total"] for one in stages)
    wall = seconds / target.threads if target.kind == "cpu" else seconds
    options = compare(stage, rehearsals, rows, target) if ways else []
    changes = levers(stage, rehearsals, rows, target) if ways and said != "fits" else []
    return {
        "name": recipe.name,
        "model": recipe.model,
        "config": shape.source,
        "parameters": round(found.needs.total),
        "device": _device_json(target),
        "stages": stages,
        "peak_bytes": round(worst[0]),
        "peak_low": round(worst[0] * target.slack[0]),
        "peak_high": round(worst[0] * target.slack[1]),
        "fits": said,
        "seconds": seconds,
        "wall_seconds": wall,
        "wall_low": wall * target.spread[0],
        "wall_high": wall * target.spread[1],
        "disk_bytes": round(sum(one["disk_bytes"] for one in stages)),
        "cost": _cost(wall, target, price_per_hour, currency),
        "compared": stage.name,
        "ways": [_option_json(option) for option in options],
        "levers": [_option_json(option) for option in changes],
        "error_bar": plan_target.error_bar(),
        "sentence": _sentence(stage.name, found, target, said, changes),
        "exit_code": 6 if said == "no" else 0,
    }


def _stage_json(stage: Any, rows: plan_rows.StageRows, found: Predicted, target: Target) -> dict[str, Any]:
    return {
        "name": stage.name,
        "objective": stage.objective.name,
        "method": stage.method.name,
        "rows": rows.rows,
        "tokens": round(rows.tokens),
        "counted": rows.how,
        "steps": rows.steps,
        "micro_tokens": plan_rows.most_tokens(stage.loop),
        "micro_batches": round(rows.micro_batches, 2),
        "heaviest_tokens": rows.heavy_tokens,
        "trainable": round(found.needs.trainable),
        "memory": {
            "peak": round(found.memory.process),
            "low": round(found.memory.process * target.slack[0]),
            "high": round(found.memory.process * target.slack[1]),
            "worst": found.memory.worst,
            "parts": {name: round(value) for name, value in found.memory.parts.items()},
            "moments": {name: round(value) for name, value in found.memory.moments.items()},
        },
        "seconds": {
            "step": found.step_s,
            "train": found.train_s,
            "reference": found.reference_s,
            "evaluate": found.evaluate_s,
            "total": found.total_s,
        },
        "disk_bytes": round(found.disk),
    }


def _device_json(target: Target) -> dict[str, Any]:
    return {
        "name": target.name,
        "kind": target.kind,
        "memory_bytes": None if target.memory is None else round(target.memory),
        "threads": target.threads,
        "calibrated": target.calibrated,
        "note": target.note,
    }


def _option_json(option: Option) -> dict[str, Any]:
    return {
        "name": option.name,
        "change": option.change,
        "fits": option.verdict,
        "peak": round(option.found.memory.process),
        "step_s": option.found.step_s,
    }


def _cost(wall: float, target: Target, price: float | None, currency: str) -> dict[str, Any] | None:
    if price is None:
        return None
    low, middle, high = (wall * factor / 3600 * price for factor in (target.spread[0], 1.0, target.spread[1]))
    return {"amount": middle, "low": low, "high": high, "currency": currency, "price_per_hour": price}


def _sentence(name: str, found: Predicted, target: Target, said: str, changes: Sequence[Option]) -> str:
    """The verdict: value, limit, remedy."""
    if target.memory is None:
        return f"{name} needs about {gigabytes(found.memory.process)}"
    need, have = gigabytes(found.memory.process), gigabytes(target.memory)
    if said == "fits":
        return f"{name} needs about {need} and fits in the {have} of {target.name}"
    remedy = next((option.change for option in changes if option.verdict == "fits"), None)
    ending = f"; what would make it fit: {remedy}" if remedy else "; nothing that is known here makes it fit"
    how = "is close to" if said == "tight" else "does not fit in"
    return f"{name} needs about {need}, which {how} the {have} of {target.name}{ending if changes else ''}"


def gigabytes(size: float) -> str:
    """`1.2 GB`, or MB below a tenth of one."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def plan_text(found: dict[str, Any]) -> str:
    """The plan for people."""
    if "models" in found:
        from bottega.workshop.suggest import suggest_text

        return suggest_text(found)
    device = found["device"]
    unit = "CPU s" if device["kind"] == "cpu" else "s"
    lines = [
        f"{found['name']}: {found['model']}, {found['parameters'] / 1e6:,.1f} M parameters ({found['config']})",
        f"on {device['name']}: {device['note']}",
        "",
        table([_line(stage, unit) for stage in found["stages"]], ("stage", "what", "data", "steps", "peak", "time")),
        "",
        *_parts(found),
        "",
        f"time     {_range(found, 'wall', clock)} of clock; disk {gigabytes(found['disk_bytes'])}"
        + _cost_text(found["cost"]),
        f"verdict  {found['sentence']}",
    ]
    if found["ways"]:
        rows: list[tuple[Any, ...]] = [
            (o["name"], gigabytes(o["peak"]), f"{o['step_s']:.3g} s", o["fits"], o["change"]) for o in found["ways"]
        ]
        lines += ["", table(rows, (f"ways ({found['compared']})", "peak", "a step", "fits", "in the recipe"))]
    if found["levers"]:
        rows = [(o["name"], gigabytes(o["peak"]), f"{o['step_s']:.3g} s", o["fits"]) for o in found["levers"]]
        lines += ["", table(rows, ("to make it smaller, one after the other", "peak", "a step", "fits"))]
    return "\n".join([*lines, "", found["error_bar"]["sentence"]])


def _line(stage: dict[str, Any], unit: str) -> tuple[str, ...]:
    data = f"{stage['rows']:,} rows, {stage['tokens']:,} tokens"
    time = f"{stage['seconds']['total']:,.0f} {unit} ({stage['seconds']['step']:.3g} a step)"
    what = f"{stage['objective']}, {stage['method']}"
    return stage["name"], what, data, f"{stage['steps']:,}", gigabytes(stage["memory"]["peak"]), time


def _parts(found: dict[str, Any]) -> list[str]:
    """Where the memory of the largest stage goes."""
    stage = next(s for s in found["stages"] if s["name"] == found["compared"])
    parts = ", ".join(f"{name} {gigabytes(size)}" for name, size in stage["memory"]["parts"].items() if size > 0)
    low, high = gigabytes(found["peak_low"]), gigabytes(found["peak_high"])
    return [
        f"memory   {gigabytes(found['peak_bytes'])} ({low} to {high}) in {stage['name']}, at {stage['memory']['worst']}: {parts}",
        f"counted  {stage['counted']}; the heaviest micro-batch has {stage['heaviest_tokens']:,} tokens",
    ]


def _range(found: dict[str, Any], name: str, shown: Any) -> str:
    return f"{shown(found[name + '_seconds'])} ({shown(found[name + '_low'])} to {shown(found[name + '_high'])})"


def _cost_text(cost: dict[str, Any] | None) -> str:
    if cost is None:
        return ""
    return f"; cost {cost['amount']:.2f} {cost['currency']} ({cost['low']:.2f} to {cost['high']:.2f})" + (
        f" at {cost['price_per_hour']:g} an hour"
    )
