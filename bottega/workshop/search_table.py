"""What a search found: quality with intervals, and what each method costs, from the run folders and scorecards it left.

Left out: running anything but the measuring of finished models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bottega.core import rundir
from bottega.core.config import plain
from bottega.core.textio import clock, table
from bottega.grade.intervals import crossed, student
from bottega.workshop.measure import made_from, scorecard

if TYPE_CHECKING:
    from bottega.workshop.recipe import Recipe
    from bottega.workshop.search import Search
    from bottega.workshop.search_trials import Trial

BASE = "untrained"


def compared(
    plan: Recipe, folder: Path, finals: Mapping[str, Sequence[str]], note: Callable[[str], None]
) -> dict[str, Any]:
    """Each task's score for the model before training and for every group's runs, over the same items.

    Returns:
        {task: {group: {"value", "low", "high", "n", "metric", "higher_is_better", "against": difference from the first
        group or None}}}; without tasks in the recipe, nothing.
    """
    if plan.evaluate is None or not any(finals.values()):
        return {}
    cards: dict[str, list[dict[str, Any]]] = {}
    if plan.evaluate.before:
        cards[BASE] = [_card(plan, folder, BASE, plan.model, note)]
    for group, names in finals.items():
        cards[group] = [_card(plan, folder, name, str(folder / "trials" / name), note) for name in names]
    cards = {group: found for group, found in cards.items() if found}
    reference = next(group for group in cards if group != BASE)
    tasks = [score["task"] for score in cards[reference][0]["scores"]]
    return {
        task: {group: _score(task, i, found, cards[reference], group == reference) for group, found in cards.items()}
        for i, task in enumerate(tasks)
    }


def _card(plan: Recipe, folder: Path, name: str, model: str, note: Callable[[str], None]) -> dict[str, Any]:
    """The scorecard of a model on the recipe's tasks, made once."""
    from bottega.models.place import choose_for
    from bottega.workshop import build

    evaluate = plan.evaluate
    assert evaluate is not None
    path = folder / "scorecards" / f"{name}.json"
    revision, device = plan.revision if model == plan.model else None, choose_for(model, plan.device, note=note)
    loaded = build.open_model(model, revision=revision, trust=None, device=device)
    key = made_from(evaluate, plan.seed, loaded.identity)
    if path.is_file():
        known = rundir.read_json(path)
        if known["made_of"] == key:
            return dict(known["card"])
    note(f"measuring {name}")
    found = scorecard(evaluate, loaded, seed=plan.seed, name=name, folder=folder, device=device, note=note)
    card = plain(found.to_json())
    rundir.write_json(path, {"made_of": key, "card": card})
    return dict(card)


def _score(
    task: str, i: int, cards: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]], is_first: bool
) -> dict[str, Any]:
    """One group on one task: its runs' items together, and the paired difference from the reference group's."""
    scores = [card["scores"][i] for card in cards]
    first = scores[0]
    facts = {key: first[key] for key in ("metric", "higher_is_better", "n")}
    ratio = first["metric"] in ("perplexity", "loss", "bits_per_byte")
    values_SN = np.array([[item["value"] for item in score["items"]] for score in scores])
    weights_N = np.array([item["weight"] for item in first["items"]]) if ratio else None
    if len(scores) == 1:
        value, low, high = (first[key] for key in ("value", "low", "high"))
    else:
        found = crossed(values_SN, weights_N, seed=0)
        ends = (found.value, found.low, found.high) if not ratio else (-found.value, -found.high, -found.low)
        value, low, high = (float(np.exp(end)) for end in ends) if first["metric"] == "perplexity" else ends
    against = None
    if not is_first:
        other_SN = np.array([[item["value"] for item in card["scores"][i]["items"]] for card in reference])
        least = min(len(values_SN), len(other_SN))
        # runs with one seed saw the same rows: pairs; a lone card (the base) stands against the mean of the runs
        apart = values_SN[:least] - other_SN[:least] if least > 1 else values_SN.mean(0)[None] - other_SN.mean(0)[None]
        difference = crossed(apart, weights_N, seed=0)
        against = {"value": difference.value, "low": difference.low, "high": difference.high}
    return {**facts, "value": value, "low": _finite(low), "high": _finite(high), "against": against}


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def costs(folder: Path, stage: str, stage_folder: Path) -> dict[str, Any]:
    """What one run took: memory, time, operations, and what its result weighs."""
    facts = rundir.read_json(folder / "result.json")["stages"][stage]
    spent = rundir.read_json(folder / "host.json")["stages"][stage]
    here = folder / stage_folder
    timing = rundir.read_jsonl(here / "timing.jsonl")
    metrics = rundir.read_jsonl(here / "metrics.jsonl")
    states = sorted((here / "checkpoints").glob("step-*/state/optimizer.safetensors"))
    files = [path for path in (here / "result").rglob("*") if path.is_file()]
    known = facts.get("method", {})
    return {
        "steps": facts["steps"],
        "rows": sum(line.get("rows", 0) for line in metrics),
        "tokens": sum(line["tokens"] for line in timing),
        "trainable": known.get("trainable"),
        "share": known.get("share"),
        "peak_mb": spent["peak_mb"],
        "seconds": spent["seconds"],
        "cpu_s": spent["cpu_s"],
        "flops": sum(line.get("flops", 0.0) for line in timing),
        "optimizer_bytes": tensor_bytes(states[-1]) if states else None,
        "disk_bytes": sum(path.stat().st_size for path in files),
        "weight_bytes": sum(path.stat().st_size for path in files if path.suffix == ".safetensors"),
    }


def tensor_bytes(path: Path) -> int:
    """Bytes of the tensors in a safetensors file: its size without the header, whose length its first 8 bytes hold."""
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    return path.stat().st_size - 8 - header


def report(this: Search, finals: Mapping[str, Sequence[Trial]], tasks: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a search as plain data."""
    from bottega.workshop.stage import folder_of

    stage = this.asked.stage
    where = folder_of(Path(), this.asked.number, stage)
    groups = []
    for label, runs in finals.items():
        spent = [costs(this.folder / "trials" / run.name, stage.name, where) for run in runs]
        if not runs:
            continue
        found = student([run.value or 0.0 for run in runs])
        cost = {key: _middle([one[key] for one in spent], key) for key in spent[0]}
        groups.append(
            {
                "group": label,
                "settings": runs[0].settings,
                "runs": [str(this.folder / "trials" / run.name) for run in runs],
                "seeds": [run.seed for run in runs],
                "value": found.value,
                "low": _finite(found.low),
                "high": _finite(found.high),
                **cost,
            }
        )
    failed = sorted(run.name for run in this.asked_for.values() if run.state == "failed")
    better = "smaller" if this.asked.metric.sign > 0 else "larger"
    order = sorted(groups, key=lambda one: this.asked.metric.sign * one["value"])
    shown = ("name", "group", "settings", "seed", "state", "value", "reason")
    return {
        "folder": str(this.folder),
        "stage": stage.name,
        "metric": {"name": this.asked.metric.name, "better": better},
        "groups": groups,
        "best": order[0]["group"] if order else None,
        "tasks": dict(tasks),
        "trials": [{key: run.to_json()[key] for key in shown} for run in this.asked_for.values()],
        "failed": failed,
        "ended": this.ended,
        "complete": not failed and not this.ended,
        "exit_code": 9 if failed or this.ended else 0,
    }


def _middle(values: Sequence[Any], key: str) -> Any:
    """Over a group's runs: the largest memory, the mean of what is spent, and one for what is equal."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    if key == "peak_mb":
        return max(known)
    return sum(known) / len(known) if key in ("seconds", "cpu_s", "flops") else known[0]


def search_text(result: Mapping[str, Any]) -> str:
    """The same for people: quality first, then what it costs."""
    metric = result["metric"]
    lines = []
    groups = result["groups"]
    if groups:
        tasks = result["tasks"]
        heads = ["", "settings", f"{metric['name']} ({metric['better']} is better)", *tasks]
        rows = [_quality(one, tasks) for one in groups]
        if any(BASE in of for of in tasks.values()):
            rows.append([BASE, "", "", *(_interval(of[BASE]) for of in tasks.values())])
        lines += [table(rows, heads), ""]
        costs_of = (
            "",
            "trainable",
            "share",
            "peak MB",
            "time",
            "CPU s",
            "TFLOP",
            "optimizer MB",
            "weights MB",
            "disk MB",
        )
        lines += [table([_cost(one) for one in groups], costs_of), ""]
        for task, of in tasks.items():
            first = next(group for group in of if group != BASE)
            for group, score in of.items():
                if score["against"] is not None and len(of) > 1:
                    lines.append(f"{task}: {group} against {first or 'the trained model'} {_signed(score['against'])}")
    else:
        lines.append("no group has a finished run")
    failed = [one for one in result["trials"] if one["name"] in result["failed"]]
    lines += [f"failed: {one['name']}: {one['reason']}" for one in failed]
    pruned = sum(one["state"] == "pruned" for one in result["trials"])
    done = sum(one["state"] == "done" for one in result["trials"])
    lines.append(f"{done} trials done, {pruned} ended early, {len(failed)} failed; in {result['folder']}")
    lines += [result["ended"]] if result["ended"] else []
    return "\n".join(line for line in lines if line is not None)


def _quality(one: Mapping[str, Any], tasks: Mapping[str, Any]) -> list[str]:
    said = " ".join(f"{key}={json.dumps(value)}" for key, value in one["settings"].items())
    return [one["group"] or "best", said, _interval(one), *(_interval(of[one["group"]]) for of in tasks.values())]


def _interval(score: Mapping[str, Any]) -> str:
    value = f"{score['value']:.4g}"
    return value if score["low"] is None else f"{value} [{score['low']:.4g}, {score['high']:.4g}]"


def _signed(difference: Mapping[str, Any]) -> str:
    better = "better" if difference["low"] > 0 else "worse" if difference["high"] < 0 else "no difference shown"
    return f"{difference['value']:+.4g} [{difference['low']:+.4g}, {difference['high']:+.4g}]: {better}"


def _cost(one: Mapping[str, Any]) -> list[Any]:
    def mega(value: int | None) -> str:
        return "" if value is None else f"{value / 1e6:.3g}"

    share = "" if one["share"] is None else f"{one['share']:.2%}"
    sizes = (mega(one[key]) for key in ("optimizer_bytes", "weight_bytes", "disk_bytes"))
    spent = (clock(one["seconds"]), f"{one['cpu_s']:.1f}", f"{one['flops'] / 1e12:.3g}")
    return [one["group"] or "best", one["trainable"], share, f"{one['peak_mb']:.0f}", *spent, *sizes]
