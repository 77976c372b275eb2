"""A recipe's `evaluate`: its tasks checked before anything is trained, scorecards before and after, and the gates.

Left out: scoring itself (evals/runner.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core import rundir
from bottega.core.config import plain
from bottega.core.errors import UserError

if TYPE_CHECKING:
    from bottega.evals.runner import Scorecard
    from bottega.evals.tasks import Task
    from bottega.models.load import Loaded
    from bottega.workshop.recipe import Recipe
    from bottega.workshop.recipe_parts import Evaluate


def check_tasks(plan: Recipe) -> None:
    """Find mistakes in the tasks and the gates.

    Raises:
        UserError: a task that is not there or has a mistake; a gate that names no task.
    """
    if plan.evaluate is None:
        return
    from bottega.evals.judged import need
    from bottega.workshop.endpoints import is_endpoint
    from bottega.workshop.evaluating import read_task

    tasks = [read_task(task) for task in plan.evaluate.tasks]
    names = [task.name for task in tasks]
    need(tasks, plan.evaluate.judge)
    if plan.evaluate.judge_key_env and not is_endpoint(plan.evaluate.judge):
        raise UserError(
            "evaluate.judge_key_env is for a judge behind an endpoint, and evaluate.judge names none: leave it out"
        )
    for gate in plan.evaluate.gate:
        if gate != "forgetting" and gate not in names:
            raise UserError(f"evaluate.gate names {gate!r}; gates are forgetting and the tasks: {', '.join(names)}")
    if "forgetting" in plan.evaluate.gate and not plan.evaluate.before:
        raise UserError("evaluate.gate: forgetting compares with the base: set evaluate.before to true")


def measure(
    recipe: Recipe, folder: Path, label: str, *, model: str, trust: str | None, device: str, note: Callable[[str], None]
) -> dict[str, Any]:
    """The scorecard of `model` on the recipe's tasks, as scorecards/LABEL.json; made once for a model and its tasks."""
    from bottega.workshop import build

    evaluate = recipe.evaluate
    assert evaluate is not None
    path = folder / "scorecards" / f"{label}.json"
    revision = recipe.revision if model == recipe.model else None
    loaded = build.open_model(model, revision=revision, trust=trust, device=device)
    made_of = folder / "cache" / f"scorecard-{label}.json"
    key = made_from(evaluate, recipe.seed, loaded.identity)
    if path.is_file() and made_of.is_file() and rundir.read_json(made_of) == key:
        return dict(rundir.read_json(path))
    note(f"measuring the model {label} training")
    card = scorecard(evaluate, loaded, seed=recipe.seed, name=label, folder=folder, device=device, note=note)
    rundir.write_json(path, plain(card.to_json()))
    rundir.write_json(made_of, key)
    note(card.summary())
    return dict(card.to_json())


def made_from(evaluate: Evaluate, seed: int, model: str) -> dict[str, Any]:
    """What a scorecard depends on: it is made anew when a task, a question of its data, the judge or the model is another."""
    from bottega.workshop.evaluating import read_task

    contents = [_content(read_task(task)) for task in evaluate.tasks]
    return {"tasks": contents, "limit": evaluate.limit, "seed": seed, "model": model, "judge": evaluate.judge}


def scorecard(
    evaluate: Evaluate, loaded: Loaded, *, seed: int, name: str, folder: Path, device: str, note: Callable[[str], None]
) -> Scorecard:
    """A model on a recipe's tasks; a judge's answers are kept in the folder's cache."""
    from bottega.workshop.evaluating import Judging, open_judge, read_task, score

    tasks = [read_task(task) for task in evaluate.tasks]
    judging = Judging(judge=evaluate.judge, judge_key_env=evaluate.judge_key_env)
    with open_judge(judging, None, str(folder / "cache" / "judge.sqlite"), device, note, wanted=tasks) as judge:
        return score(loaded, tasks, seed=seed, limit=evaluate.limit, name=name, judge=judge)


def _content(task: Task) -> str:
    """A hash of the task and of its files, so that a scorecard is made anew when a question has changed."""
    files = (task.data,) if isinstance(task.data, str) else task.data
    held = hashlib.sha256(json.dumps(plain(asdict(replace(task, data=()))), sort_keys=True, default=str).encode())
    for path in sorted(
        one for file in files for one in ([Path(file)] if Path(file).is_file() else Path(file).rglob("*"))
    ):
        if path.is_file():
            held.update(rundir.sha256(path).encode())
    return held.hexdigest()


def gates(plan: Recipe, cards: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each gate as a row of checks.json: what was measured, the bound, whether it was passed, and the same in words."""
    if plan.evaluate is None:
        return []
    after = {score["task"]: score for score in cards["1-after"]["scores"]}
    rows = []
    for name, limit in plan.evaluate.gate.items():
        if name == "forgetting":
            rows += [_kept(score, after[score["task"]], limit) for score in cards["0-before"]["scores"]]
            continue
        score = after[name]
        better = score.get("higher_is_better", True)
        measured = {key: score.get(key) for key in ("value", "low", "high", "n")}
        bound = f"{'at least' if better else 'at most'} {limit:g}"
        passed = _signed(score, score["value"]) >= _signed(score, limit)
        said = f"{name} is {score['value']:.3f}, and the gate asks for {bound}"
        rows.append({"stage": "evaluate", "check": name, **measured, "bound": bound, "passed": passed, "said": said})
    return rows


def _kept(old: Mapping[str, Any], new: Mapping[str, Any], limit: float) -> dict[str, Any]:
    """The forgetting gate on one task: how much worse than the base."""
    fall = _signed(old, old["value"]) - _signed(new, new["value"])
    name, bound = f"forgetting: {old['task']}", f"at most {limit:g}"
    said = f"{name} is worse by {fall:.3f}, and the gate allows {bound}"
    facts = {"value": fall, "n": new["n"], "bound": bound, "passed": fall <= limit, "said": said}
    return {"stage": "evaluate", "check": name, **facts}


def _signed(score: Mapping[str, Any], value: float) -> float:
    """Larger is better."""
    return float(value if score.get("higher_is_better", True) else -value)
