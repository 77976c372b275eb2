"""What the demo writes before it trains: the data of the four stages, the recipes that read it, the tasks that measure.

Left out: running (journey.py) and judging (checks.py). Files that are there already are kept, so that a person may
change them and run the demo's recipes again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bottega.core import rundir
from bottega.core.config import dump_yaml
from bottega.demo.world import journey

STAGES = ("adapt", "task", "instruct", "align")
ROWS = {"adapt": 700, "replay": 2000, "task": 2400, "requests": 2000, "instruct": 7000, "align": 1500}
PROBES = {
    "company_documents": 60,
    "old_world_text": 500,
    "tickets": 200,
    "requests": 300,
    "company_questions": 1000,
    "old_world_questions": 700,
    "old_world_reading": 500,
    "polite_endings": 300,
}
"""Rows of the training files and of the tasks, at full budget; company_questions has one row a fact and wording."""

SETTINGS: dict[str, dict[str, Any]] = {
    "adapt": {
        "objective": "pretrain",
        "method": "full",
        "blocks": True,
        "max_tokens": 256,
        "steps": 60,
        "batch": 8,
        "lr": 2.5e-4,
        "warmup": 0.05,
    },
    "task": {
        "objective": "sft",
        "method": {"name": "lora", "rank": 32},
        "then": "merge",
        "steps": 180,
        "batch": 16,
        "lr": 1.3e-3,
        "warmup": 0.05,
    },
    "instruct": {
        "objective": "sft",
        "method": "full",
        "steps": 340,
        "batch": 32,
        "lr": 6e-4,
        "warmup": 0.05,
    },
    "align": {
        "objective": {"name": "dpo", "beta": 0.1, "sft_weight": 0.3},
        "method": {"name": "lora", "rank": 32},
        "then": "merge",
        "steps": 34,
        "batch": 16,
        "lr": 2e-4,
        "warmup": 0.1,
    },
}
"""Each stage as its recipe says it; steps at full budget."""
SOURCES: dict[str, dict[str, float]] = {
    "adapt": {"adapt": 0.5, "replay": 0.5},
    "task": {"task": 0.6, "requests": 0.15, "replay": 0.25},
    "instruct": {"instruct": 0.78, "task": 0.06, "replay": 0.16},
    "align": {"align": 1.0},
}
"""Training files of each stage and their weights: what was known before is rehearsed beside what is new."""


def write(folder: Path, *, seed: int, model: str, split: str, budget: float) -> None:
    """Write data/, tasks/ and recipes/ into the demo's folder.

    Args:
        split: whose probes measure, "test" or "dev". budget: share of steps, rows and probes; 1 is the demo.
    """
    rows = {name: max(16, round(count * budget)) for name, count in ROWS.items()}
    makers: dict[str, Any] = {
        "adapt": lambda: journey.adapt_rows(seed, rows["adapt"]),
        "replay": lambda: journey.replay_rows(seed, rows["replay"]),
        "task": lambda: journey.task_rows(seed, rows["task"]),
        "requests": lambda: journey.instruct_rows(seed + 1, rows["requests"], facts=False, politeness=0),
        "instruct": lambda: journey.instruct_rows(seed, rows["instruct"]),
        "align": lambda: journey.align_rows(seed, rows["align"]),
    }
    for name, make in makers.items():
        path = folder / "data" / f"{name}.jsonl"
        if not path.exists():
            _write_rows(path, make())
    write_tasks(folder / "tasks", seed=seed, split=split, budget=budget)
    for name, recipe in recipes(folder, seed=seed, model=model, budget=budget).items():
        path = folder / "recipes" / f"{name}.yaml"
        if not path.exists():
            rundir.atomic_write(path, f"# Run it again, changed or not: bottega run {path}\n" + dump_yaml(recipe))


def recipes(folder: Path, *, seed: int, model: str, budget: float = 1.0) -> dict[str, dict[str, Any]]:
    """The recipe of the whole journey, and one for each stage on the result of the stage before."""
    stages: dict[str, dict[str, Any]] = {}
    for name, settings in SETTINGS.items():
        weights = SOURCES[name]
        files = {source: f"../data/{source}.jsonl" for source in weights}
        data: Any = [{"path": files[source], "weight": weight} for source, weight in weights.items()]
        steps = max(2, round(settings["steps"] * budget))
        stages[name] = {**settings, "data": data if len(data) > 1 else files[name], "steps": steps}
    top = {"schema": 1, "model": model, "seed": seed}
    found = {"journey": {**top, "name": "journey", "stages": [{name: stage} for name, stage in stages.items()]}}
    start = model
    for number, (name, stage) in enumerate(stages.items()):
        found[name] = {**top, "name": name, "model": start, "stages": [{name: stage}]}
        start = f"../stages/{number + 1:02d}-{name}/result"
    return found


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    rundir.atomic_write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


# ---- tasks: what `bottega eval` reads, too


def write_tasks(
    folder: Path, *, seed: int, split: str = "test", budget: float = 1.0, names: Iterable[str] = tuple(PROBES)
) -> None:
    """Write a YAML and its rows for each task of `PROBES`, or those in `names`: held-out probes of one split."""
    count = {name: max(8, round(number * min(1.0, budget))) for name, number in PROBES.items()}
    makers: dict[str, Any] = {
        "company_documents": lambda n: [{"text": text} for text in journey.adapt_held_out(split, seed, n)],
        "old_world_text": lambda n: [{"text": text} for text in journey.old_world_text(seed, n, split)],
        "tickets": lambda n: _accepted(journey.task_probes(split, seed, n)),
        "requests": lambda n: _accepted(journey.instruct_probes(split, seed, n)),
        "company_questions": lambda n: _accepted(journey.new_fact_probes(split, seed)[:n]),
        "old_world_questions": lambda n: _accepted(journey.retention_probes(seed, n)),
        "old_world_reading": lambda n: _accepted(journey.retention_reading_probes(split, seed, n)),
        "polite_endings": lambda n: [
            {"request": row["request"], "answer": journey.POLITE_ENDING} for row in journey.align_probes(split, seed, n)
        ],
    }
    for name in names:
        if not (folder / f"{name}.yaml").exists():
            _write_rows(folder / f"{name}.jsonl", makers[name](count[name]))
            rundir.atomic_write(folder / f"{name}.yaml", dump_yaml(_task(name)))


def _task(name: str) -> dict[str, Any]:
    task: dict[str, Any] = {"name": name.replace("_", " "), "data": f"{name}.jsonl"}
    if name in ("company_documents", "old_world_text"):
        return {**task, "kind": "perplexity", "prompt": "", "answer": "text", "metric": "perplexity"}
    task |= {"kind": "generation", "answer": "answer", "max_tokens": 48}
    if name.startswith("old_world"):  # half are plain lines, half are chat: both as text
        task |= {"prompt": "{{ prompt }}", "stop": ["\n"]}
    else:
        task |= {"prompt": "{{ request }}", "chat": True}
    if name == "polite_endings":
        return {**task, "metric": "regex"}
    return {**task, "metric": {"name": "exact", "normal": False}, "aliases": "accepted", "random": 0.0}


def _accepted(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The probes, with the forms of each answer that count: with a full stop, with a polite ending, or several.

    (A plain line has no end of turn to stop at, so that an aligned model repeats itself there.)
    """
    said: list[tuple[str, ...]] = [(one,) for one in journey.POLITE]
    said += [(one, two) for one in journey.POLITE for two in journey.POLITE]
    said += [(one,) * times for one in journey.POLITE for times in range(3, 9)]
    endings = ["", *(" ".join(forms) for forms in said)]
    kept = []
    for row in rows:
        forms = [f"{row['answer']}. {ending}".strip() for ending in endings]
        fields = {key: row[key] for key in ("prompt", "request", "answer", "kind", "form") if key in row}
        kept.append({**fields, "accepted": forms})
    return kept
