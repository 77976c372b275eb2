"""A recipe: what `bottega run` reads; every mistake is found before torch is imported.

Left out: its dataclasses (recipe_parts.py), reading the file, `base:` and overrides (recipe_file.py), the checks
(recipe_checks.py).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bottega.core import table
from bottega.core.config import build, closest, convert, plain
from bottega.core.errors import UserError
from bottega.core.strictyaml import Path as Keys
from bottega.data.clean.steps import STEPS
from bottega.models.methods import METHODS
from bottega.train.objectives import OBJECTIVES
from bottega.train.settings import LR_OF_OPTIMIZER, OF_OPTIMIZER, most_tokens, usual_precision
from bottega.workshop import recipe_checks, recipe_file, recipe_online, recipe_order
from bottega.workshop.recipe_checks import LOOP
from bottega.workshop.recipe_choice import Choice
from bottega.workshop.recipe_parts import ADAPTERS, EarlyStop, Evaluate, Part, Recipe, Stage

__all__ = ["LOOP", "STAGE_KEYS", "TOP_KEYS", "Evaluate", "Part", "Recipe", "Stage", "load", "to_plain", "without_none"]
LR = {
    **{"full": 2e-5, "lisa": 2e-5, "freeze": 5e-5, "bitfit": 5e-4},
    **{"lora": 2e-4, "adalora": 2e-3, "qlora": 2e-4, "oft": 4e-4, "vera": 4e-3, "ia3": 3e-3},
    **{"adapter": 2e-4, "prefix": 1e-2, "prompt": 1e-2, "p_tuning": 1e-3, "gate": 1e-2},
}
PREFERENCE_LR = 0.1
BY_THE_JUDGE = EarlyStop(metric="judge", mode="max", patience=1_000_000)
"""Usual peak learning rates by method, and the factor on them for objectives that are held to a reference."""

STAGE_KEYS = frozenset(f.name for f in dataclasses.fields(Stage)) - {"loop", "name"} | frozenset(LOOP)
TOP_KEYS = frozenset(f.name for f in dataclasses.fields(Recipe))


def load(source: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe (a file, or the same as a mapping), apply `key=value` overrides, check everything.

    Raises:
        UserError: all mistakes, one a line, each with its file:line:column.
    """
    data, marks = recipe_file.read(source, overrides, top_keys=TOP_KEYS, stage_keys=STAGE_KEYS)
    mistakes = []
    for i, stage in enumerate(data["stages"]):
        unknown = [key for key in stage if key not in STAGE_KEYS | {"name"}]
        place: Keys = ("stages", i)
        mistakes += [f"{marks.at_key((*place, k))}: unknown key {k!r}{closest(str(k), STAGE_KEYS)}" for k in unknown]
        own = {key: value for key, value in stage.items() if key not in LOOP and key not in unknown}
        own["loop"] = {key: stage[key] for key in LOOP if key in stage}
        if "data" in own and not isinstance(own["data"], list):
            own["data"] = [own["data"]]
        mistakes += recipe_checks.check_loop(own["loop"], marks, place)
        mistakes += recipe_checks.check_choices(own, marks, place)
        data["stages"][i] = own
    try:
        recipe = build(Recipe, data, marks=marks)
    except UserError as error:
        raise UserError("\n".join([line.removeprefix(": ") for line in mistakes] + [str(error)])) from None
    mistakes += recipe_checks.check(recipe, marks)
    if mistakes:
        raise UserError("\n".join(line.removeprefix(": ") for line in mistakes))
    return _complete(recipe)


def to_plain(recipe: Recipe, folder: Path | None = None) -> dict[str, Any]:
    """The recipe as data that `load` reads to the same recipe; with `folder`, paths are written relative to it."""
    data = plain(recipe)
    stages = []
    for stage in data.pop("stages"):
        stage |= stage.pop("loop")
        for key in ("objective", "method"):
            stage[key] = _flat(stage[key])
        recipe_online.flat(stage)
        validation = stage["validation"] or {}
        for holder in (stage, *stage["data"], *validation.get("data", ())):
            holder["clean"] = [_flat(step) for step in holder["clean"]] if holder["clean"] is not None else None
        stages.append({stage.pop("name"): without_none(stage)})
    data = without_none({**data, "stages": stages})
    if recipe.init is not None:
        data.pop("model")  # made in the run's own folder (scratch.py)
    return recipe_file.relative(data, folder) if folder else data


def _flat(choice: dict[str, Any]) -> dict[str, Any]:
    return {"name": choice["name"], **choice["options"]}


def allow_loss(recipe: Recipe, rows: int) -> Recipe:
    """The recipe with so many bad rows allowed in every source of every stage."""
    stages = tuple(dataclasses.replace(stage, allow_loss=rows) for stage in recipe.stages)
    return dataclasses.replace(recipe, stages=stages)


def on_device(stage: Stage, kind: str, *, half: bool = True) -> Stage:
    """The stage with `micro_tokens` and `precision` of `usual` as what suits a device of this kind (cpu or cuda).

    Args:
        half: whether the device computes in bfloat16.
    """
    loop = dict(stage.loop)
    if loop["micro_tokens"] == "usual":
        loop["micro_tokens"] = most_tokens("usual", kind)
    if loop["precision"] == "usual":
        frozen = stage.method.name in ADAPTERS
        loop["precision"] = usual_precision(kind, half=half, frozen=frozen, in_backward=loop["step_in_backward"])
    return dataclasses.replace(stage, loop=loop)


def without_none(data: Any) -> Any:
    """Mappings without the keys that hold null, all the way down."""
    if isinstance(data, dict):
        return {key: without_none(value) for key, value in data.items() if value is not None}
    return [without_none(item) for item in data] if isinstance(data, list) else data


def _complete(recipe: Recipe) -> Recipe:
    """Defaults that depend on other fields, written out, so that the resolved recipe says everything."""
    stages = []
    for i, stage in enumerate(recipe.stages):
        entry = OBJECTIVES[stage.objective.name]
        factor = PREFERENCE_LR if "ref.logp" in entry.needs or entry.data == "prompt" else 1.0
        optimizer = stage.loop.get("optimizer", "")
        last = not recipe_order.followers(recipe, i)
        adapter = stage.method.name in ADAPTERS
        stages.append(
            dataclasses.replace(
                stage,
                over_length=stage.over_length or ("split" if stage.objective.name == "pretrain" else "error"),
                lr=stage.lr or LR[stage.method.name] * factor * LR_OF_OPTIMIZER.get(optimizer, 1.0),
                epochs=1.0 if stage.steps is None and stage.epochs is None else stage.epochs,
                then=stage.then or ("continue" if last and adapter else "merge"),
                objective=_with_defaults(stage.objective, OBJECTIVES[stage.objective.name].function),
                method=_with_defaults(stage.method, METHODS[stage.method.name]),
                loop={**LOOP, **OF_OPTIMIZER.get(optimizer, {}), **_signed(stage), **stage.loop},
                early_stop=stage.early_stop or (BY_THE_JUDGE if stage.judge else None),
                **recipe_online.complete(stage),
            )
        )
    return dataclasses.replace(recipe, stages=tuple(stages))


def _signed(stage: Stage) -> dict[str, Any]:
    """A loss that may be 0 or below has no spikes, and a policy gradient keeps its learning rate."""
    return {"spikes": "off", "schedule": "constant"} if stage.objective.name in recipe_online.ONLINE else {}


def _with_step_defaults(steps: tuple[Choice, ...] | None) -> tuple[Choice, ...] | None:
    return tuple(_with_defaults(choice, STEPS[choice.name]) for choice in steps) if steps is not None else None


def _with_defaults(choice: Choice, target: str) -> Choice:
    known = table.options(target)
    defaults = {o.name: plain(o.default) for o in known.values() if o.default is not table.REQUIRED}
    given = {name: convert(known[name].kind, value)[0] for name, value in choice.options.items()}
    return Choice(name=choice.name, options={**defaults, **plain(given)})
