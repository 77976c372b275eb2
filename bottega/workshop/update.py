"""`bottega run --update RUN data=NEW`: a finished run's model learns new data, keeps the old, and is measured on both.

Left out: deciding when (a drift alarm does that); taking data out again (train a run without it).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core import rundir
from bottega.core.config import dump_yaml, load_yaml
from bottega.core.errors import Mismatch, UserError
from bottega.core.types import Conversation, Document, Labelled, Preference
from bottega.workshop import recipe as recipes
from bottega.workshop.recipe import Part, Recipe, Stage
from bottega.workshop.record import fingerprint
from bottega.workshop.runs import run_folder

if TYPE_CHECKING:
    from bottega.workshop.stages import RunResult

REPLAY, FORGETTING, SHARE, MAX_PROBES = 0.5, 0.02, 0.1, 200
"""Share of the rows that are old ones, bits a byte that either probe may lose, share of the new data kept out for its probe,
and rows of a probe."""
LEAST_GAIN = 0.01
"""Bits a byte by which the new probe has to get better, at the low end of the paired interval."""
LINEAGE = "lineage.json"
OWN = ("data", "replay", "forgetting")
KINDS: dict[str, tuple[type, str]] = {
    "text": (Document, "text"),
    "chat": (Conversation, "messages"),
    "preference": (Preference, "preference"),
    "unpaired": (Labelled, "unpaired"),
}
"""What an objective learns from -> the rows' type, and the format that they are written in."""


def update(
    run: str, overrides: Sequence[str] = (), *, out: str | os.PathLike[str] | None = None, **options: Any
) -> RunResult | dict[str, Any]:
    """Train RUN's model on new data mixed with the data of its last stage, and measure both before and after.

    The recipe of the update (update.yaml in the new folder) has one stage, with the settings of RUN's last one; tasks `old` and
    `new` are the perplexity (bits a byte) of rows that were kept out of each; the gate is passed if neither gets worse by more
    than `forgetting` and `new` gets better by LEAST_GAIN.

    Args:
        overrides: `data=NEW` (required), `replay=0.5` (the share of old rows), `forgetting=0.02` (bits a byte), and any field of the
            stage, such as `lr=1e-5`. out: the new run's folder; default: RUN-v2, RUN-v3 ... options: as of `stages.run`.

    Raises:
        UserError: RUN has not ended, no data is named, or it is of another kind. Mismatch: the folder holds another update.
    """
    from bottega.workshop.stages import run as run_recipe

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("run --update works in one process; start it without torchrun")
    folder = run_folder(run)
    if not (folder / "result.json").is_file():
        raise UserError(f"{folder} has not ended; finish it first: bottega runs resume {folder}")
    own = _own(overrides)
    old = recipes.load(folder / "recipe.yaml")
    lineage = _lineage(folder)
    new_folder = Path(out) if out is not None else _next_folder(folder, len(lineage))
    plan = _plan(folder, old, own, new_folder, len(lineage))
    rest = [text for text in overrides if text.partition("=")[0] not in OWN]
    result = run_recipe(plan, rest, out=new_folder, **options)
    if isinstance(result, dict):
        return result
    failed = _settle(new_folder, result)
    rundir.write_json(new_folder / LINEAGE, [*lineage, _version(new_folder)])
    return dataclasses.replace(result, gates=(*result.gates, *failed))


def _own(overrides: Sequence[str]) -> dict[str, Any]:
    """The overrides that speak to the update itself."""
    found: dict[str, Any] = {"replay": REPLAY, "forgetting": FORGETTING}
    for text in overrides:
        key, _, value = text.partition("=")
        if key in OWN:
            found[key] = load_yaml(value, file=f"command line ({text})")[0]
    if "data" not in found:
        raise UserError("an update needs new data: bottega run --update RUN data=NEW")
    if not isinstance(found["data"], str) or not Path(found["data"]).exists():
        raise UserError(f"data={found['data']}: there is no such file or folder")
    for key, low, high in (("replay", 0.0, 0.95), ("forgetting", 0.0, 100.0)):
        value = found[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise UserError(f"{key} is {value!r}, but needs a number from {low:g} to {high:g}")
    return found


def _lineage(folder: Path) -> list[dict[str, Any]]:
    """The versions up to this run, oldest first."""
    path = folder / LINEAGE
    return list(rundir.read_json(path)) if path.is_file() else [_version(folder)]


def _version(folder: Path) -> dict[str, Any]:
    """What names a version: the run, its recipe and its last result by content, and the data it learned from."""
    record = rundir.read_json(folder / "run.json")
    stages = sorted((folder / "stages").glob("*"))
    manifest = stages[-1] / "result" / rundir.MANIFEST
    return {
        "run": folder.name,
        "recipe": rundir.sha256(folder / "recipe.yaml"),
        "result": rundir.sha256(manifest),
        "data": {name: [p["sha256"] for p in stage["data"]] for name, stage in record["stages"].items()},
    }


def _next_folder(folder: Path, versions: int) -> Path:
    name = folder.name.removesuffix(f"-v{versions}") if versions > 1 else folder.name
    return folder.with_name(f"{name}-v{versions + 1}")


def _plan(folder: Path, old: Recipe, own: Mapping[str, Any], out: Path, versions: int) -> dict[str, Any]:
    """The update's recipe, made once in `out`/update and read from there afterwards."""
    place = out / "update"
    stage = old.stages[-1]
    made_of = {
        "run": rundir.sha256(folder / "result.json"),
        "new": fingerprint(Part(path=own["data"]))["sha256"],
        **{key: own[key] for key in ("replay", "forgetting")},
    }
    made = place / "made_of.json"
    if made.is_file():
        known = rundir.read_json(made)
        if known != made_of:
            changed = ", ".join(key for key in made_of if known.get(key) != made_of[key])
            raise Mismatch(f"{out} holds another update ({changed} differ); choose another --out")
        return dict(load_yaml((out / "update.yaml").read_bytes(), file=str(out / "update.yaml"))[0])
    new, probes = _apart(stage, own["data"], old.seed)
    old_probes = _old_probes(stage, old.seed)
    with rundir.disk_errors(out):
        place.mkdir(parents=True, exist_ok=True)
        _write_rows(place / "new.jsonl", new, stage)
        for name, rows in (("old", old_probes), ("new", probes)):
            _write_task(place, name, rows, chat=not isinstance(rows[0], Document))
        plan = _recipe(folder, old, own, place, versions)
        rundir.atomic_write(out / "update.yaml", dump_yaml(plan))
        rundir.write_json(made, made_of)
    return plan


def _recipe(folder: Path, old: Recipe, own: Mapping[str, Any], place: Path, versions: int) -> dict[str, Any]:
    stage = old.stages[-1]
    last = recipes.to_plain(dataclasses.replace(old, stages=(stage,)))["stages"][0][stage.name]
    parts: list[dict[str, Any]] = [{"path": str((place / "new.jsonl").absolute()), "weight": 1 - own["replay"]}]
    if own["replay"]:
        total = sum(part.weight or 1.0 for part in stage.data)
        for part, data in zip(stage.data, last["data"], strict=True):
            parts.append({**data, "weight": own["replay"] * (part.weight or 1.0) / total})
    dropped = ("validation", "eval_every", "early_stop", "curriculum", "then", "start")
    kept = {key: value for key, value in last.items() if key not in dropped}
    tasks = [str((place / f"{name}.yaml").absolute()) for name in ("old", "new")]
    return {
        "name": f"{old.name.removesuffix(f'-v{versions}')}-v{versions + 1}",
        "model": str(folder.absolute()),
        "seed": old.seed,
        "stages": [{"update": {**kept, "data": parts}}],
        "evaluate": {"tasks": tasks, "gate": {"forgetting": own["forgetting"]}},
    }


def _apart(stage: Stage, data: str, seed: int) -> tuple[list[Any], list[Any]]:
    """The new rows to learn from, and those kept out for the probe."""
    from bottega.data.formats import samples
    from bottega.data.holdout import hold_out
    from bottega.data.sources import Problem
    from bottega.train.objectives import OBJECTIVES

    found = [row for row in samples([data]) if not isinstance(row, Problem)]
    kind = OBJECTIVES[stage.objective.name].data
    if kind not in KINDS:
        raise UserError(
            f"the run's last stage ({stage.name}) learned {stage.objective.name}, and an update knows stages that learn from "
            "texts, chats, preferences or liked answers: run its recipe again with both data sets"
        )
    wanted = KINDS[kind][0]
    other = next((row for row in found if not isinstance(row, wanted)), None)
    if not found or other is not None:
        held = "no usable row" if not found else f"a {type(other).__name__.lower()}"
        raise UserError(
            f"{data} holds {held}, and the run's last stage ({stage.name}) learns from {wanted.__name__.lower()}s"
        )
    apart = hold_out([found], share=SHARE, seed=seed, passages=wanted is Document)
    probes = [row for row in apart.held_out if _is_wanted(row)]
    if not probes:
        raise UserError(
            f"{data} has no row to spare for the probe; an update needs some more rows, liked ones among them"
        )
    return apart.train[0], probes[:MAX_PROBES]


def _is_wanted(row: Any) -> bool:
    """Whether a model should say this: not where people disliked it."""
    return not isinstance(row, Labelled) or bool(row.label)


def _old_probes(stage: Stage, seed: int) -> list[Any]:
    """Rows that the old run kept out; where it kept none out, rows that it learned from."""
    from bottega.data.clean.held import Keys
    from bottega.data.holdout import hold_out
    from bottega.data.sources import Problem
    from bottega.train.objectives import OBJECTIVES
    from bottega.workshop.cleaning import read_sources

    def read(parts: Sequence[Part]) -> list[list[Any]]:
        return read_sources(parts, stage.clean, seed=seed, held=Keys()).found

    kept = stage.validation
    if kept is not None and kept.share is not None:
        passages = OBJECTIVES[stage.objective.name].data == "text"
        rows = hold_out(read(stage.data), share=kept.share, seed=seed, passages=passages).held_out
    else:
        rows = [row for part in read(kept.data if kept is not None else stage.data) for row in part]
    return [row for row in rows if not isinstance(row, Problem) and _is_wanted(row)][:MAX_PROBES]


def _write_rows(path: Path, rows: Sequence[Any], stage: Stage) -> None:
    from bottega.data.convert import WRITERS
    from bottega.data.formats import to_json
    from bottega.train.objectives import OBJECTIVES

    write: Callable[[Any], dict[str, Any]] = WRITERS[KINDS[OBJECTIVES[stage.objective.name].data][1]]
    rundir.atomic_write(path, "".join(to_json(write(row)) + "\n" for row in rows))


def _write_task(place: Path, name: str, rows: Sequence[Any], *, chat: bool) -> None:
    """A perplexity task over what the rows say."""
    from bottega.data.formats import to_json

    rundir.atomic_write(place / f"{name}-probe.jsonl", "".join(to_json(_item(row)) + "\n" for row in rows))
    task = {
        "name": name,
        "kind": "perplexity",
        "metric": "bits_per_byte",
        "data": f"{name}-probe.jsonl",
        "prompt": "{{ prompt }}",
        "answer": "answer",
        "chat": chat,
    }
    rundir.atomic_write(place / f"{name}.yaml", dump_yaml(task))


def _item(row: Any) -> dict[str, str]:
    """What was asked and what was answered: the first exchange of a chat, the chosen answer of a preference, a whole text."""
    if isinstance(row, Document):
        return {"prompt": "", "answer": row.text}
    if isinstance(row, Labelled):
        asked = next((turn.content for turn in reversed(row.prompt) if turn.role == "user"), "")
        return {"prompt": asked, "answer": row.text}
    turns = row.turns if isinstance(row, Conversation) else (*row.prompt, *row.chosen)
    asked = next((turn.content for turn in turns if turn.role == "user"), "")
    return {"prompt": asked, "answer": next((turn.content for turn in turns if turn.role == "assistant"), "")}


def _settle(folder: Path, result: RunResult) -> list[str]:
    """The check that the new data was learned, beside the gates in checks.json; what failed, in words."""
    from bottega.evals.compare import compare
    from bottega.evals.runner import Scorecard
    from bottega.workshop import report

    cards = [Scorecard.from_json(rundir.read_json(result.scorecards[label])) for label in ("0-before", "1-after")]
    tasks = {task.task: task for task in compare(*cards).tasks}
    gain = tasks["new"]
    d = gain.difference
    passed = d.low > LEAST_GAIN
    said = (
        f"new: bits a byte {gain.before:.3f} -> {gain.after:.3f}, better by at least {d.low:.3f}, and an update has to "
        f"gain {LEAST_GAIN:g}"
    )
    row = {
        "stage": "update",
        "check": "new data is learned",
        "value": d.value,
        "low": d.low,
        "high": d.high,
        "n": d.n,
        "bound": f"above {LEAST_GAIN:g}",
        "passed": passed,
        "said": said,
    }
    checks = [check for check in rundir.read_json(folder / "checks.json") if check.get("stage") != "update"]
    rundir.write_json(folder / "checks.json", [*checks, row])
    report.write(folder, note=lambda _: None)
    return [] if passed else [said]
