"""What the report reads: the JSON files of a run folder, each of which may be missing while a run is under way.

Left out: what is made of them (report.py).
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.evals.audit import Audit
from bottega.evals.runner import Scorecard
from bottega.workshop.markup import plain_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """What a stage left in its folder."""

    name: str
    metrics: list[dict[str, Any]]
    timing: list[dict[str, Any]]
    intake: dict[str, Any]
    rounds: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The JSON files of a run folder; what is not there is empty."""

    folder: Path
    run: dict[str, Any]
    host: dict[str, Any]
    environment: dict[str, Any]
    recipe: str
    checks: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    stages: list[Stage]
    cards: dict[str, Scorecard]
    audits: tuple[Audit, ...] = ()


def read(run_folder: str | Path) -> Run:
    """The JSON files of a run folder.

    Raises:
        UserError: there is neither a run.json nor a stage. Unsafe: a file is damaged.
    """
    folder = Path(run_folder)
    stages = [_stage(path) for path in sorted((folder / "stages").glob("*")) if path.is_dir()]
    if not stages and not (folder / "run.json").is_file():
        raise UserError(f"{folder} is no run folder (no run.json and no stages): give the folder of a run")
    cards = {}
    for path in sorted((folder / "scorecards").glob("*.json"), key=_place):
        cards[plain_name(path.stem)] = Scorecard.from_json(rundir.read_json(path))
    recipe = folder / "recipe.yaml"
    return Run(
        folder=folder,
        run=_json(folder / "run.json", {}),
        host=_json(folder / "host.json", {}),
        environment=_json(folder / "environment.json", {}),
        recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        checks=_json(folder / "checks.json", []),
        samples=_json(folder / "samples.json", []) or _read_along(folder),
        stages=stages,
        cards=cards,
        audits=tuple(Audit.from_json(rundir.read_json(path)) for path in sorted((folder / "audits").glob("*.json"))),
    )


def _json(path: Path, default: Any) -> Any:
    found = rundir.read_json(path) if path.is_file() else default
    return found if isinstance(found, type(default)) else default


def _stage(folder: Path) -> Stage:
    lines = {
        name: rundir.read_jsonl(path) if (path := folder / name).is_file() else []
        for name in ("metrics.jsonl", "timing.jsonl", "rounds.jsonl")
    }
    return Stage(
        name=plain_name(folder.name),
        metrics=lines["metrics.jsonl"],
        timing=lines["timing.jsonl"],
        intake=_json(folder / "intake.json", {}),
        rounds=lines["rounds.jsonl"],
    )


def _place(path: Path) -> tuple[int, str]:
    """Scorecards in order: `before`, then by name (a number in front orders them), `after` last."""
    return {"before": 0, "after": 2}.get(path.stem, 1), path.name


def _read_along(folder: Path) -> list[dict[str, Any]]:
    """The replies written during training, first and last of every stage, as samples.json has them."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted((folder / "stages").glob("*/samples.jsonl")):
        lines = rundir.read_jsonl(path)
        steps = sorted({line.get("step", 0) for line in lines})
        for line in lines:
            if line.get("step", 0) in (steps[0], steps[-1]):
                name = f"{plain_name(path.parent.name)}, step {line.get('step', 0)}"
                found.setdefault(str(line.get("prompt", "")), {})[name] = str(line.get("reply", ""))
    return [{"prompt": prompt, "stages": replies} for prompt, replies in found.items()]


def use_of(folder: str | Path) -> str:
    """The command that uses a run's newest result: what a head for labels, vectors or rewards says is no chat."""
    from bottega.models import purpose, reward

    found = sorted(Path(folder).glob("stages/*/result"))
    saved = purpose.read(found[-1]) if found else None
    named = shlex.quote(str(folder))
    if saved is not None:
        return f"bottega {'embed' if saved.kind == 'contrastive' else 'predict'} {named} FILE"
    is_reward = bool(found) and (found[-1] / reward.FILE).is_file()
    return f"bottega score {named} FILE" if is_reward else f"bottega chat {named}"
