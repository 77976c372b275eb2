"""Which stage starts from which, and which reads another's reward model: a recipe's stages as a tree.

Left out: the checks of one stage alone (recipe_checks.py), running them (stage.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core.config import Marks, closest
from bottega.core.strictyaml import Path as Keys

if TYPE_CHECKING:
    from bottega.workshop.recipe_parts import Recipe, Stage


OBJECTIVE = {"model": "reward", "steps": "process_reward"}
"""Rewards that are trained, and the objective that makes them."""


def before(recipe: Recipe, number: int) -> int | None:
    """The place of the stage whose result this one starts from; None: the recipe's model."""
    names, start = [stage.name for stage in recipe.stages], recipe.stages[number].start
    if start is not None:
        return names.index(start)
    return number - 1 if number else None


def followers(recipe: Recipe, number: int) -> list[Stage]:
    """The stages that start from this one's result. A `start` that names no earlier stage counts as none."""
    earlier = [{stage.name for stage in recipe.stages[:i]} for i in range(len(recipe.stages))]
    return [
        stage
        for i, stage in enumerate(recipe.stages)
        if (stage.start is None or stage.start in earlier[i]) and before(recipe, i) == number
    ]


def check(recipe: Recipe, marks: Marks) -> list[str]:
    """Mistakes in `start`, and in rewards that name a stage."""
    mistakes = []
    for i, stage in enumerate(recipe.stages):
        place: Keys = ("stages", i)
        earlier = [one.name for one in recipe.stages[:i]]
        if stage.start is not None and stage.start not in earlier:
            known = (
                f"; before it come {', '.join(earlier)}" if earlier else "; it is the first and starts from the model"
            )
            said = f"{stage.name} starts from {stage.start!r}, which is no stage before it{known}"
            mistakes.append(f"{marks.at((*place, 'start'))}: {said}")
        for key in ("rewards", "judge"):
            for part in getattr(stage, key) or ():
                if part.name in OBJECTIVE:
                    mistakes += [f"{marks.at((*place, key))}: {one}" for one in _check_model(part, recipe.stages[:i])]
    return mistakes


def _check_model(part: Any, earlier: tuple[Stage, ...]) -> list[str]:
    """Mistakes in where a reward that is trained is said to lie."""
    name, path, stage = part.name, part.options.get("path"), part.options.get("stage")
    if (path is None) == (stage is None):
        return [f"the reward {name} needs a path (a run or a model folder) or a stage of this recipe, and not both"]
    if stage is None:
        return []
    found = next((one for one in earlier if one.name == stage), None)
    if found is None:
        near = closest(str(stage), [one.name for one in earlier])
        return [f"the reward {name} names the stage {stage!r}, which is none before this one{near}"]
    if found.objective.name != OBJECTIVE[name]:
        return [
            f"the stage {stage} is {found.objective.name} and makes no reward {name}; name one with objective: {OBJECTIVE[name]}"
        ]
    return []


def with_paths(recipe: Recipe, stage: Stage, folder_of: Callable[[int], Path]) -> Stage:
    """The stage with the folder of the result in place of every reward's `stage`."""
    names = [one.name for one in recipe.stages]

    def resolved(part: Any) -> Any:
        if part.name not in OBJECTIVE or part.options.get("stage") is None:
            return part
        rest = {key: value for key, value in part.options.items() if key != "stage"}
        return dataclasses.replace(
            part, options={**rest, "path": str(folder_of(names.index(part.options["stage"])) / "result")}
        )

    def all_resolved(parts: Any) -> Any:
        return None if parts is None else tuple(resolved(part) for part in parts)

    return dataclasses.replace(stage, rewards=all_resolved(stage.rewards), judge=all_resolved(stage.judge))
