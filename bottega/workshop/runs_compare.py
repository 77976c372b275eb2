"""`bottega runs compare A B`: what two runs were made of, how their stages ended, and their scorecards item by item.

Left out: comparing models that no run made (`bottega compare`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bottega.core import rundir
from bottega.core.errors import Mismatch
from bottega.core.strictyaml import load_yaml
from bottega.core.textio import clock, table
from bottega.workshop.record import differences
from bottega.workshop.runs import run_folder, runs_show

NUMBERS = ("steps", "loss", "eval.loss")
COSTS = ("seconds", "cpu_s", "peak_mb")
CARD = "1-after"


def runs_compare(a: str, b: str) -> dict[str, Any]:
    """Two runs side by side.

    Returns:
        {"a", "b": folders, "recipe": [{"key", "a", "b"}] that differ, "made_of": the same of data, base, tokenizer and template as
        recorded, "stages": [{"name", "a": numbers and cost, "b": ...}], "scores": evals.compare's tasks or None,
        "scores_missing": why there are none}.

    Raises:
        UserError: one is no run folder.
    """
    folders = [run_folder(name) for name in (a, b)]
    shown = [runs_show(str(folder)) for folder in folders]
    plain = [load_yaml((f / "recipe.yaml").read_bytes(), file=str(f / "recipe.yaml"))[0] for f in folders]
    made = [rundir.read_json(folder / "run.json")["stages"] for folder in folders]
    sides = [_by_stage(plan) for plan in plain]
    scores, missing = _scores(folders)
    return {
        "a": str(folders[0]),
        "b": str(folders[1]),
        "recipe": [
            {"key": key, "a": old, "b": new}
            for key, old, new in differences(sides[0], sides[1])
            if not key.endswith((".data", ".path"))
        ],
        "made_of": [
            {"key": key, "a": old, "b": new} for key, old, new in differences(_inputs(made[0]), _inputs(made[1]))
        ],
        "stages": _stages(folders, shown),
        "scores": scores,
        "scores_missing": missing,
    }


def runs_compare_text(facts: dict[str, Any]) -> str:
    """The same for people."""
    lines = [f"a  {facts['a']}", f"b  {facts['b']}", ""]
    for title, rows in (("recipe", facts["recipe"]), ("made of", facts["made_of"])):
        if rows:
            lines += [table([(r["key"], _short(r["a"]), _short(r["b"])) for r in rows], (title, "a", "b")), ""]
    if not facts["recipe"] and not facts["made_of"]:
        lines += ["the same recipe over the same inputs", ""]
    numbers = []
    for stage in facts["stages"]:
        for key in (*NUMBERS, *COSTS):
            values = [stage[side].get(key) for side in "ab"]
            if any(value is not None for value in values):
                as_shown = [clock(v) if key in ("seconds", "cpu_s") and v is not None else v for v in values]
                numbers.append((stage["name"], key, *as_shown))
    lines.append(table(numbers, ("stage", "number", "a", "b")))
    if facts["scores"]:
        rows = []
        for one in facts["scores"]:
            d = one["difference"]
            span = f"{d['value']:+.3f} [{_limit(d['low'])}, {_limit(d['high'])}]"
            rows.append((one["task"], one["metric"], one["before"], one["after"], span, one["verdict"]))
        lines += ["", table(rows, ("task", "metric", "a", "b", "b - a", "verdict"))]
    elif facts["scores_missing"]:
        lines += ["", f"scorecards are not compared: {facts['scores_missing']}"]
    return "\n".join(lines)


def _limit(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _by_stage(plan: dict[str, Any]) -> dict[str, Any]:
    """`stages: [{adapt: {...}}]` -> `adapt: {...}`, so that stages of one name are compared."""
    stages = {str(next(iter(entry))): next(iter(entry.values())) for entry in plan["stages"]}
    return {**{key: value for key, value in plan.items() if key not in ("stages", "name")}, **stages}


def _inputs(stages: dict[str, Any]) -> dict[str, Any]:
    """What each stage was made of, by content: hashes of its data, base, tokenizer and template."""
    keys = ("base", "tokenizer", "template")
    return {
        name: {
            **{key: stage[key] for key in keys if key in stage},
            "data": [part["sha256"] for part in stage.get("data", []) if "sha256" in part],
        }
        for name, stage in stages.items()
    }


def _stages(folders: list[Path], shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
    costs = []
    for folder in folders:
        host = folder / "host.json"
        costs.append(rundir.read_json(host).get("stages", {}) if host.is_file() else {})
    by_name = [{stage["name"]: stage for stage in one["stages"]} for one in shown]
    names = [*by_name[0], *(name for name in by_name[1] if name not in by_name[0])]
    rows = []
    for name in names:
        row: dict[str, Any] = {"name": name}
        for side, stages, cost in zip("ab", by_name, costs, strict=True):
            facts = {**stages.get(name, {}).get("last", {}), **stages.get(name, {}).get("facts", {})}
            spent = cost.get(name, {})
            row[side] = {key: {**facts, **spent}[key] for key in (*NUMBERS, *COSTS) if key in {**facts, **spent}}
        rows.append(row)
    return rows


def _scores(folders: list[Path]) -> tuple[list[dict[str, Any]] | None, str]:
    paths = [folder / "scorecards" / f"{CARD}.json" for folder in folders]
    absent = [str(path) for path in paths if not path.is_file()]
    if absent:
        return None, f"there is no {absent[0]}; `evaluate` in a recipe makes one"
    from bottega.evals.compare import compare
    from bottega.evals.runner import Scorecard

    cards = [Scorecard.from_json(rundir.read_json(path)) for path in paths]
    try:
        report = compare(*cards)
    except Mismatch as error:
        return None, str(error)
    return report.to_json()["tasks"], ""
