"""Which model `init` takes where none was named: for a named device one of the table that fits it, else one that is here.

Left out: quality, which is measured (`bottega eval`) and in no table. Unless a device was named nothing is chosen that a run
would have to fetch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from bottega.workshop import plan_devices

OPEN_LICENCES = ("Apache-2.0", "MIT")
WAYS = ("lora", "qlora")
"""Ways at whose speed a model is worth choosing, the quicker one first."""
TRIED = 4
"""Models that are planned with the data, at most."""


class Choice(NamedTuple):
    """model: its name. change, why: see plan_brief.choose. said: a line on how it was chosen."""

    model: str
    change: str
    why: str
    said: str


def candidates(device: str | None) -> list[str]:
    """Models to try, the best first: the largest that fit a device by LoRA (then QLoRA), or that lie in this machine's cache.

    Raises:
        UserError: there is no such device in the table.
    """
    from bottega.workshop import plan_models, suggest

    free = [entry for entry in plan_models.OPEN_MODELS if entry.licence in OPEN_LICENCES]
    if device is None:
        free = [entry for entry in free if _is_here(entry.name)]
        if not free:
            return []
    ways = {one["name"]: one["ways"] for one in suggest.suggestions(device, None, hours=1.0)["models"]}
    order = sorted(free, key=lambda entry: -entry.billions)
    return [entry.name for way in WAYS for entry in order if ways[entry.name].get(way, {}).get("fits") == "fits"]


def choose(trial: Any, device: str | None) -> Choice:
    """The first candidate whose plan with the data fits, else garzone.

    Args:
        trial: model -> the recipe as a mapping, to plan with.
    """
    from bottega.workshop import plan_brief

    named = device or "this machine"
    for model in list(dict.fromkeys(candidates(device)))[:TRIED]:
        change, why = plan_brief.choose(trial(model), device)
        if "needs about" in why and "nothing fits" not in why and "does not fit" not in why:
            where = "of the open models in bottega's table" if device else "of those in its cache"
            return Choice(
                model, change, why, f"the largest {where} that fits {named}; `bottega plan --suggest` lists more"
            )
    change, why = plan_brief.choose(trial("garzone"), device)
    if device is not None:
        return Choice("garzone", change, why, f"no open model of the table fits {named}, and the bundled one does")
    return Choice("garzone", change, why, "the bundled one, for no larger one that fits is in this machine's cache")


def _is_here(name: str) -> bool:
    """Whether a model's weights are in the local cache of the Hub; nothing is asked of a network."""
    from huggingface_hub import try_to_load_from_cache

    wanted = ("model.safetensors", "model.safetensors.index.json")
    return any(isinstance(try_to_load_from_cache(name, file), str) for file in wanted)


def check_name(device: str | None) -> None:
    """Raises UserError where `device` is not in the table."""
    if device is not None and device.lower() not in ("cpu", "this", "here"):
        plan_devices.device(device)
