"""`bottega lab recipe`: folders of `synth` become one recipe that learns in phases, or the same rows stacked into one stage.

Phases (Sudalairaj et al. 2024, arXiv 2403.01081, section 3.3): knowledge with short answers; knowledge with long answers, documents
and what was known before; then skills, beside a rehearsal of all of it. Rates do not decay before the last phase. Left out: running
(`bottega run`) and the rows themselves (synth/mixing.py).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bottega.core import rundir
from bottega.core.config import dump_yaml
from bottega.core.errors import UserError
from bottega.core.textio import table
from bottega.data.remote import is_remote
from bottega.synth.mixing import Mix, Row, counts, mixed
from bottega.workshop import held_out
from bottega.workshop.recipe import load

SHARES: dict[str, dict[str, float]] = {
    "short": {"short": 0.6, "replay": 0.4},
    "long": {"long": 0.4, "short": 0.1, "documents": 0.15, "replay": 0.35},
    "skills": {"skills": 0.35, "short": 0.15, "long": 0.15, "replay": 0.35},
}
"""What each phase is drawn from; sources that are not there leave theirs to the others."""
STACKED = {"short": 0.25, "long": 0.2, "skills": 0.1, "documents": 0.07, "replay": 0.38}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """How the phases learn.

    method: full, lora, ... epochs: times through a phase's own rows; a stacked stage takes as many steps as the phases together.
    batch: rows a step. lr: peak rate; None is what is usual for the method. choose: a metric of the held-out seeds by which each
    phase's checkpoint is chosen; None is the last one. judge: a model that rates the answers to the held-out seeds; empty: their words
    are compared with the seeds' own. judge_key_env: the variable with its key.
    """

    method: str = "full"
    epochs: float = 10.0
    batch: int = 32
    lr: float | None = None
    choose: str | None = None
    judge: str = ""
    judge_key_env: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.epochs) or self.epochs <= 0 or self.batch < 1:
            raise UserError(f"epochs {self.epochs:g} and batch {self.batch} must both be above 0; 10 and 32 are usual")


def write_recipe(
    out: str | os.PathLike[str],
    *,
    model: str,
    short: Sequence[str] = (),
    long: Sequence[str] = (),
    skills: Sequence[str] = (),
    replay: Sequence[str] = (),
    tasks: Sequence[str] = (),
    stacked: bool = False,
    form: Sequence[str] = (),
    seed: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """Write data/*.jsonl and recipe.yaml into a folder.

    Args:
        short, long, skills: folders that `synth` wrote (or files of rows). replay: files of what the model knew before.
        tasks: what is measured before and after, beside the folders' held-out seeds. form: NAME=SHARE of closed, grounded, raft.
        more: fields of `Tuning` and of `Mix`.

    Raises:
        UserError: nothing to learn from, a folder without train.jsonl, a form or number out of its limits.
    """
    folder, names = Path(out), {one.name for one in fields(Tuning)}
    if (folder / "recipe.yaml").exists():
        raise UserError(f"{folder / 'recipe.yaml'} is there already; name another folder, or remove it")
    tuning = Tuning(**{name: value for name, value in more.items() if name in names})
    forms = _forms(form) or {"closed": 1.0}
    mix = Mix(forms=forms, seed=seed, **{name: value for name, value in more.items() if name not in names})
    places = {"short": short, "long": long, "skills": skills}
    drawn = ((name, mixed(_all_rows(own), _documents(own), mix)) for name, own in places.items())
    made = {name: rows for name, rows in drawn if rows}
    if not made:
        raise UserError("there is nothing to learn from: name folders of `synth` with --short, --long or --skills")
    texts = list(_documents([*short, *long]).values())
    files: dict[str, Sequence[Mapping[str, Any]]] = dict(made)
    if texts:
        files["documents"] = [{"text": text} for text in texts]
    recipe = _recipe(
        folder, {name: f"data/{name}.jsonl" for name in files}, made, replay, tuning, places, stacked=stacked
    )
    recipe |= {"model": model, "seed": seed}
    if held := held_out.rows([*short, *long, *skills]):
        files["held_out"] = held
    measured = [*(["data/held_out.yaml"] if held else []), *(_beside(folder, one) for one in _task_files(tasks))]
    recipe |= _evaluated(measured, tuning)
    _write(folder, files, recipe)
    drawn_from = [
        {"name": name, "steps": stage["steps"], "sources": {one["path"]: one["weight"] for one in stage["data"]}}
        for each in recipe["stages"]
        for name, stage in each.items()
    ]
    told = {name: counts(rows) for name, rows in made.items()}
    return {"recipe": str(folder / "recipe.yaml"), "rows": told, "documents": len(texts), "phases": drawn_from}


def _evaluated(tasks: Sequence[str], tuning: Tuning) -> dict[str, Any]:
    """The recipe's `evaluate`, if there is something to measure."""
    judge, key_env = tuning.judge, tuning.judge_key_env
    if judge and not tasks:
        raise UserError(
            f"judge {judge} has nothing to rate: no folder has a test.jsonl, and no task is named; leave it out"
        )
    if key_env and not judge:
        raise UserError(
            f"judge_key_env {key_env} is the key of a judge, and none is named: add --judge, or leave it out"
        )
    judged = {name: text for name, text in (("judge", judge), ("judge_key_env", key_env)) if text}
    return {"evaluate": {"tasks": list(tasks), **judged}} if tasks else {}


def _recipe(
    folder: Path,
    sources: Mapping[str, str],
    made: Mapping[str, Sequence[Row]],
    replay: Sequence[str],
    tuning: Tuning,
    places: Mapping[str, Sequence[str]],
    *,
    stacked: bool,
) -> dict[str, Any]:
    """The recipe's name and stages."""
    rehearsed = [_beside(folder, one) for one in _there(replay)]
    validated = {name: _held(own, folder) for name, own in places.items()}
    stages = _stages(sources, {name: len(rows) for name, rows in made.items()}, rehearsed, tuning, validated)
    name = "lab-stacked" if stacked else "lab"
    return {"schema": 1, "name": name, "stages": [_joined(stages, sources, rehearsed)] if stacked else stages}


def _write(folder: Path, files: Mapping[str, Sequence[Mapping[str, Any]]], recipe: Mapping[str, Any]) -> None:
    """data/NAME.jsonl for each, and recipe.yaml; nothing is left of them where a run would refuse the recipe.

    Raises:
        UserError: what a run would say.
    """
    data = folder / "data"
    task = data / "held_out.yaml"
    with rundir.disk_errors(folder):
        data.mkdir(parents=True, exist_ok=True)
        for name, rows in files.items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            rundir.atomic_write(data / f"{name}.jsonl", text)
        if "held_out" in files:
            rundir.atomic_write(task, dump_yaml(held_out.task(judged=bool(recipe.get("evaluate", {}).get("judge")))))
        rundir.atomic_write(folder / "recipe.yaml", dump_yaml(recipe))
    try:
        load(folder / "recipe.yaml")
    except UserError:
        for path in (folder / "recipe.yaml", task, *(data / f"{name}.jsonl" for name in files)):
            path.unlink(missing_ok=True)
        for empty in (data, folder):
            with contextlib.suppress(OSError):
                empty.rmdir()
        raise


def write_recipe_text(result: Mapping[str, Any]) -> str:
    """The plan: rows by leaf and form, then what each phase is drawn from."""
    rows = [
        [source, leaf, form, number]
        for source, leaves in result["rows"].items()
        for leaf, forms in leaves.items()
        for form, number in forms.items()
    ]
    phases = [
        [
            phase["name"],
            phase["steps"],
            ", ".join(f"{weight:.0%} {Path(path).name}" for path, weight in phase["sources"].items()),
        ]
        for phase in result["phases"]
    ]
    return "\n".join(
        [
            table(rows, ["rows for", "leaf", "form", "rows"]),
            "",
            table(phases, ["phase", "steps", "drawn from"]),
            "",
            f"next  bottega plan {result['recipe']}",
            f"      bottega run {result['recipe']}",
        ]
    )


def _stages(
    sources: Mapping[str, str],
    sizes: Mapping[str, int],
    replay: Sequence[str],
    tuning: Tuning,
    held: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """The phases that have rows, in their order; `held` are each one's files of held-out seeds."""
    phases = [name for name in SHARES if name in sizes]
    stages = []
    for name in phases:
        parts = _parts(SHARES[name], sources, replay)
        own = next(part["weight"] for part in parts if part["path"] == sources[name])
        steps = max(1, math.ceil(sizes[name] * tuning.epochs / (tuning.batch * own)))
        stage: dict[str, Any] = {"objective": "sft", "data": parts, "method": tuning.method, "steps": steps}
        stage |= {"batch": tuning.batch, "warmup": 0.05}
        if tuning.lr is not None:
            stage["lr"] = tuning.lr
        if name != phases[-1]:
            stage["schedule"] = "constant"
        if tuning.choose is not None:
            if not held[name]:
                raise UserError(f"choose needs held-out seeds, and no folder of {name} has a test.jsonl; leave it out")
            stage["validation"] = {"data": list(held[name])}
            mode = "min" if "loss" in tuning.choose else "max"
            # it never ends early: what early_stop does here is to keep the checkpoint with the best metric
            stage["early_stop"] = {"metric": tuning.choose, "mode": mode, "patience": stage["steps"]}
        stages.append({name: stage})
    return stages


def _joined(stages: Sequence[Mapping[str, Any]], sources: Mapping[str, str], replay: Sequence[str]) -> dict[str, Any]:
    """One stage with all sources, and as many steps as the phases have together."""
    parts = [stage for each in stages for stage in each.values()]
    last = {key: value for key, value in parts[-1].items() if key not in ("validation", "schedule")}
    held = [file for stage in parts for file in stage.get("validation", {}).get("data", ())]
    whole = {**last, "data": _parts(STACKED, sources, replay), "steps": sum(stage["steps"] for stage in parts)}
    return {"all": whole | ({"validation": {"data": held}} if held else {})}


def _parts(shares: Mapping[str, float], sources: Mapping[str, str], replay: Sequence[str]) -> list[dict[str, Any]]:
    """Sources with their weights, which sum to 1; several replay files share theirs."""
    found = [(sources[name], share) for name, share in shares.items() if name in sources]
    found += [(path, shares.get("replay", 0.0) / len(replay)) for path in replay]
    total = sum(share for _, share in found)
    return [{"path": path, "weight": round(share / total, 4)} for path, share in found]


def _forms(words: Sequence[str]) -> dict[str, float]:
    found = {}
    for word in words:
        name, given, share = word.partition("=")
        try:
            found[name] = float(share) if given else 1.0
        except ValueError:
            raise UserError(f"--form {word!r} is not NAME=SHARE, such as raft=0.3") from None
    return found


def _there(replay: Sequence[str]) -> Sequence[str]:
    """The files to rehearse; remote ones are not looked for.

    Raises:
        UserError: one is not there.
    """
    gone = [one for one in replay if not is_remote(one) and not Path(one).exists()]
    if gone:
        raise UserError(f"there is no file {gone[0]} to rehearse; check --replay")
    return replay


def _files(place: str) -> Path:
    path = Path(place)
    found = path / "train.jsonl" if path.is_dir() else path
    if not found.is_file():
        raise UserError(f"{found} is not there; name a folder that `bottega synth` wrote, or a file of its rows")
    return found


def _all_rows(places: Sequence[str]) -> Iterator[Row]:
    """Rows of every folder, the rewriting tasks beside them included.

    Raises:
        UserError: a row that cannot be read, or that is no conversation, with its place.
    """
    from bottega.data.sources import Problem, read

    for place in places:
        file = _files(place)
        beside = file.with_name("auxiliary.jsonl")
        for where, row in read([file, *([beside] if file.name == "train.jsonl" and beside.is_file() else [])]):
            if isinstance(row, Problem):
                raise UserError(f"{row}; mend it, or make the file again")
            if not isinstance(row.get("messages"), list) or not isinstance(row.get("metadata", {}), dict):
                raise UserError(
                    f"{where}: no conversation (messages); `bottega data convert FILE --to messages --out OUT` makes them"
                )
            yield row


def _documents(places: Sequence[str]) -> dict[str, str]:
    """Text of each document by its id."""
    found: dict[str, str] = {}
    for place in places:
        file = _files(place).with_name("documents.jsonl")
        if file.is_file():
            found |= {row["id"]: row["text"] for row in rundir.read_jsonl(file)}
    return found


def _held(places: Sequence[str], folder: Path) -> list[str]:
    """Files of seeds that `synth` showed to nobody, as a recipe in `folder` writes them."""
    return [_beside(folder, str(file)) for file in (Path(one, "test.jsonl") for one in places) if file.is_file()]


def _task_files(tasks: Sequence[str]) -> list[str]:
    """Tasks by file; a folder stands for all of its own."""
    found = []
    for one in tasks:
        name, _, data = one.partition("=") if not Path(one).exists() else (one, "", "")
        missing = [part for part in (name, data) if ("/" in part or part.endswith(".yaml")) and not Path(part).exists()]
        if missing:
            raise UserError(
                f"there is no task {missing[0]}; name a task's file, a folder of them, or a task that comes with bottega"
            )
        found += [str(path) for path in sorted(Path(one).glob("*.yaml"))] if Path(one).is_dir() else [one]
    return found


def _beside(folder: Path, path: str) -> str:
    """The path as a recipe in `folder` writes it; names of tasks and remote sources stay."""
    if "=" in path and not Path(path).exists():
        return "=".join(_beside(folder, part) for part in path.split("=", 1))
    return os.path.relpath(path, folder) if Path(path).exists() else path
