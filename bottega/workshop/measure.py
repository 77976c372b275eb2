"""A recipe's `evaluate`: its tasks checked before anything is trained, scorecards before and after, and the gates.

Left out: scoring itself (evals/runner.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core import rundir
from bottega.core.config import plain
from bottega.core.errors import UserError

if TYPE_CHECKING:
    from bottega.workshop.recipe import Recipe


def check_tasks(plan: Recipe) -> None:
    """Find mistakes in the tasks and the gates.

    Raises:
        UserError: a task that is not there or has a mistake; a gate that names no task.
    """
    if plan.evaluate is None:
        return
    from bottega.evals.tasks import load_task

    names = [load_task(task).name for task in plan.evaluate.tasks]
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
    from bottega.workshop.use import score

    evaluate = recipe.evaluate
    assert evaluate is not None
    path = folder / "scorecards" / f"{label}.json"
    wanted = {"tasks": [Path(task).name for task in evaluate.tasks], "limit": evaluate.limit, "seed": recipe.seed}
    revision = recipe.revision if model == recipe.model else None
    loaded = build.open_model(model, revision=revision, trust=trust, device=device)
    made_of = folder / "cache" / f"scorecard-{label}.json"
    key = {**wanted, "model": loaded.identity, "task_files": [_content(task) for task in evaluate.tasks]}
    if path.is_file() and made_of.is_file() and rundir.read_json(made_of) == key:
        return dict(rundir.read_json(path))
    note(f"measuring the model {label} training")
    card = score(loaded, evaluate.tasks, seed=recipe.seed, limit=evaluate.limit, name=label)
    rundir.write_json(path, plain(card.to_json()))
    rundir.write_json(made_of, key)
    note(card.summary())
    return dict(card.to_json())


def _content(task: str) -> str:
    return rundir.sha256(task) if Path(task).is_file() else task


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
