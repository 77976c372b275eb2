"""The run folders: list them, show one, go on with one, check every file of one.

Left out: comparing two runs (runs_compare.py) and clearing old ones (runs_gc.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.core.textio import clock, table
from bottega.train.pins import pinned, write_pins

if TYPE_CHECKING:
    from bottega.workshop.stages import RunResult


def runs_list(root: str = "runs") -> list[dict[str, Any]]:
    """Every run folder under `root` with its state, newest last by name."""
    folder = Path(root)
    return [_brief(path.parent) for path in sorted(folder.glob("*/run.json"))] if folder.is_dir() else []


def runs_list_text(found: list[dict[str, Any]]) -> str:
    """The same as a table."""
    if not found:
        return "no runs here; `bottega run RECIPE` makes one"
    rows = [
        (f["name"], f["state"], " ".join(f"{s['name']}:{s['state']}" for s in f["stages"]), f["folder"]) for f in found
    ]
    return table(rows, ("run", "state", "stages", "folder"))


def runs_show(run: str) -> dict[str, Any]:
    """One run: its stages with their last numbers, scorecards, changes that were allowed, and cost.

    Raises:
        UserError: `run` is no run folder.
    """
    folder = run_folder(run)
    facts = _brief(folder)
    for stage in facts["stages"]:
        place = Path(stage["folder"])
        log = place / "metrics.jsonl"
        lines = rundir.read_jsonl(log) if log.is_file() else []
        stage["last"] = lines[-1] if lines else {}
        stage["facts"] = rundir.read_json(place / "stage.json") if (place / "stage.json").is_file() else {}
    cards = {}
    shown = ("task", "metric", "value", "low", "high", "n")
    for path in sorted((folder / "scorecards").glob("*.json")):
        cards[path.stem] = [{key: score.get(key) for key in shown} for score in rundir.read_json(path)["scores"]]
    record = rundir.read_json(folder / "run.json")
    host = rundir.read_json(folder / "host.json")["sessions"] if (folder / "host.json").is_file() else []
    seconds, cpu = (sum(session[key] for session in host) for key in ("seconds", "cpu_seconds"))
    cost = {"sessions": len(host), "seconds": seconds, "cpu_seconds": cpu}
    versions = rundir.read_json(folder / "lineage.json") if (folder / "lineage.json").is_file() else []
    lineage = [version["run"] for version in versions]
    return {**facts, "scorecards": cards, "changes": record["changes"], "lineage": lineage, "cost": cost}


def runs_show_text(facts: dict[str, Any]) -> str:
    """The same for people."""
    rows = []
    for stage in facts["stages"]:
        last = stage["last"]
        rows.append((stage["name"], stage["state"], last.get("step"), last.get("loss"), last.get("eval.loss")))
    lines = [f"{facts['name']} ({facts['state']}) in {facts['folder']}"]
    lines.append(table(rows, ("stage", "state", "step", "loss", "validation loss")))
    scores = [
        (label, s["task"], s["metric"], s["value"], s["low"], s["high"], s["n"])
        for label, card in facts["scorecards"].items()
        for s in card
    ]
    if scores:
        lines += ["", table(scores, ("scorecard", "task", "metric", "value", "low", "high", "n"))]
    lines += [f"changed with permission: {c['key']}: {c['from']} -> {c['to']}" for c in facts["changes"]]
    if facts["lineage"]:
        lines.append(f"versions: {' -> '.join(facts['lineage'])}")
    cost = facts["cost"]
    times = "1 session" if cost["sessions"] == 1 else f"{cost['sessions']} sessions"
    lines.append(f"{clock(cost['seconds'])} in {times}, {clock(cost['cpu_seconds'])} of CPU time")
    return "\n".join(lines)


def runs_resume(run: str, *, allow_change: Iterable[str] = (), quiet: bool = False) -> RunResult | dict[str, Any]:
    """Go on with a run from the recipe that its folder holds.

    Raises:
        UserError: `run` is no run folder. Mismatch: its inputs changed.
    """
    from bottega.workshop.stages import run as run_recipe

    folder = run_folder(run)
    return run_recipe(folder / "recipe.yaml", out=folder, allow_change=allow_change, quiet=quiet)


def runs_resume_text(result: Any) -> str:
    """As `run` says it."""
    from bottega.workshop.stages import run_text

    return run_text(result)


def runs_verify(run: str) -> dict[str, Any]:
    """Compare every result and checkpoint with its manifest.

    Returns:
        {"folder", "checked", "problems", "exit_code"}: 0 sound; 1 something is damaged, and the run mends itself from a
        sound checkpoint; 4 a stage has no sound checkpoint left.

    Raises:
        UserError: `run` is no run folder.
    """
    folder = run_folder(run)
    checked, problems, code = 0, [], 0
    for stage in sorted((folder / "stages").glob("*")):
        result = rundir.verify_manifest(stage / "result") if (stage / "result").is_dir() else []
        checked += (stage / "result").is_dir()
        kept = sorted((stage / "checkpoints").glob("step-*"))
        damage = [rundir.verify_manifest(checkpoint) for checkpoint in kept]
        checked += len(kept)
        problems += [*result, *(line for lines in damage for line in lines)]
        if (kept and all(damage)) or (result and not kept):
            code = 4
        elif result or any(damage):
            code = max(code, 1)
    return {"folder": str(folder), "checked": checked, "problems": problems, "exit_code": code}


def runs_verify_text(facts: dict[str, Any]) -> str:
    """The same for people."""
    if not facts["checked"]:
        return "nothing was saved yet: the run stopped before its first checkpoint"
    again = f"bottega runs resume {facts['folder']}"
    said = {
        0: "all sound",
        1: f"damaged, but a sound checkpoint is there: `{again}` makes the rest again",
        4: "damaged, and no sound checkpoint is left: restore a backup, or remove the stage's folder and start it again",
    }
    folders = "1 folder" if facts["checked"] == 1 else f"{facts['checked']} folders"
    return "\n".join([*facts["problems"], f"{folders} checked: {said[facts['exit_code']]}"])


def runs_pin(run: str, step: int, *, stage: str | None = None, off: bool = False) -> dict[str, Any]:
    """Pin the checkpoint of `step`, so that no later save removes it, or take the pin off.

    Returns:
        {"stage", "pinned"}: the stage and all steps that are pinned there now.

    Raises:
        UserError: there is no such checkpoint, or several stages have one.
    """
    folder = run_folder(run)
    places = {path.name.partition("-")[2]: path / "checkpoints" for path in sorted((folder / "stages").glob("*"))}
    having = {
        name: place
        for name, place in places.items()
        if stage in (None, name) and ((place / f"step-{step:07d}").is_dir() or (off and step in pinned(place)))
    }
    if not having:
        kept = [f"{name}: {int(p.name[5:])}" for name, place in places.items() for p in sorted(place.glob("step-*"))]
        raise UserError(
            f"there is no checkpoint of step {step} to pin; those that are there: {', '.join(kept) or 'none'}"
        )
    if len(having) > 1:
        raise UserError(f"the stages {', '.join(having)} have a checkpoint of step {step}: name one with --stage")
    ((name, place),) = having.items()
    steps = pinned(place) - {step} if off else pinned(place) | {step}
    write_pins(place, steps)
    return {"stage": name, "pinned": sorted(steps)}


def runs_pin_text(facts: dict[str, Any]) -> str:
    """The same for people."""
    steps = ", ".join(str(step) for step in facts["pinned"])
    return f"pinned in {facts['stage']}: {steps or 'nothing'}"


def run_folder(run: str) -> Path:
    """The folder of a run named by its path, or by its name under runs/.

    Raises:
        UserError: it is none.
    """
    folder = Path(run) if (Path(run) / "run.json").is_file() else Path("runs") / run
    if not (folder / "run.json").is_file():
        raise UserError(f"{run} is no run folder (it has no run.json); `bottega runs list` shows those that are")
    return folder


def _brief(folder: Path) -> dict[str, Any]:
    from bottega.core.strictyaml import load_yaml

    recipe, _ = load_yaml((folder / "recipe.yaml").read_bytes(), file=str(folder / "recipe.yaml"))
    stages = []
    for number, entry in enumerate(recipe["stages"]):
        name = next(iter(entry))
        place = folder / "stages" / f"{number + 1:02d}-{name}"
        done = (place / "stage.json").is_file() and (place / "result" / rundir.MANIFEST).is_file()
        state = "done" if done else "begun" if place.is_dir() else "new"
        stages.append({"name": name, "state": state, "folder": str(place)})
    state = "done" if (folder / "result.json").is_file() and all(s["state"] == "done" for s in stages) else "open"
    return {"name": recipe["name"], "model": recipe["model"], "folder": str(folder), "state": state, "stages": stages}
