"""The plan where it is asked in passing: `run --dry-run` says what the run will need, `init` chooses the method that fits.

Left out: the verb itself (plan.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from bottega.core.errors import UserError
from bottega.core.textio import clock
from bottega.workshop.recipe import Recipe, load

SAME_WEIGHTS = ("lora", "qlora", "streaming", "streaming, 4 bits")
"""Ways that `init` chooses among, in the order of their speed: all of them train LoRA."""


def brief(recipe: Recipe) -> dict[str, Any]:
    """The plan of a recipe on this machine, without other ways; or `unplanned`, with the reason, where its model is not here."""
    from bottega.workshop.plan import plan_recipe
    from bottega.workshop.plan_target import target

    try:
        return plan_recipe(recipe, target(None, None), ways=False)
    except UserError as error:
        return {"unplanned": str(error), "exit_code": 0}


def brief_text(found: Mapping[str, Any]) -> list[str]:
    """Memory and time in two lines."""
    from bottega.workshop.plan import gigabytes

    if "unplanned" in found:
        return [f"memory and time are not known: {found['unplanned']}"]
    low, high = gigabytes(found["peak_low"]), gigabytes(found["peak_high"])
    return [
        f"memory   {gigabytes(found['peak_bytes'])} ({low} to {high}); {found['sentence']}",
        f"time     {clock(found['wall_seconds'])} ({clock(found['wall_low'])} to {clock(found['wall_high'])}), "
        f"{found['device']['note']}; more: bottega plan",
    ]


def choose(recipe: str | os.PathLike[str] | Mapping[str, Any], device: str | None = None) -> tuple[str, str]:
    """The changes to a one-stage LoRA recipe that make it fit a device (`key: value, ...`, or nothing), and why, in a sentence."""
    from bottega.workshop import plan
    from bottega.workshop.plan_target import target

    try:
        here = target(device, None)
        wanted = load(recipe)
        found = plan.plan_recipe(wanted, here, ways=False)
        if found["fits"] == "fits":
            return "", found["sentence"]
        found = plan.plan_recipe(wanted, here, ways=True)
    except UserError as error:
        return "", f"not planned ({str(error).splitlines()[0]})"
    memory = plan.gigabytes(here.memory or 0.0)
    where = f"of {here.name}" if device else "that are free here"
    for name in SAME_WEIGHTS:
        one = next((way for way in found["ways"] if way["name"] == name and way["fits"] == "fits"), None)
        if one is not None:
            need = f"{name} needs about {plan.gigabytes(one['peak'])} of the {memory} {where}"
            return ("" if name == "lora" else one["change"]), need
    return "", f"nothing fits in the {memory} {where}: see `bottega plan`"
