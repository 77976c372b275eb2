"""Another tool's configuration as dotted keys that remember what was asked for, so that no key is lost in silence.

Left out: what the keys mean (one file a tool).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bottega.core.errors import UserError

UNKNOWN = "nothing here does this"
_VARIABLE = re.compile(r"\$\{([\w.]+)\}")


class Lost(NamedTuple):
    """A key that was not carried over: its value, and why."""

    key: str
    value: Any
    why: str


class Keys:
    """`data` flattened ({"a": {"b": 1}} -> {"a.b": 1}); keys that are not set (null, empty) do not count.

    `${a.b}` in a text stands for the value of the key a.b, as OmegaConf has it.
    """

    def __init__(self, data: Mapping[str, Any], file: str) -> None:
        self.file = file
        flat = dict(_flat(data))
        self.values = {key: _resolved(value, flat) for key, value in flat.items()}
        self.values = {key: value for key, value in self.values.items() if value not in (None, "", [], {})}
        self.used_by: dict[str, list[str]] = {}
        for key, value in flat.items():
            for name in _VARIABLE.findall(str(value)):
                self.used_by.setdefault(name, []).append(key)
        self.asked: set[str] = set()
        self.losses: list[Lost] = []
        self.notes: list[str] = []
        self.missing: list[str] = []
        """Data sets that the file names and that are not here."""

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def take(self, key: str, default: Any = None) -> Any:
        """The value of `key`; it counts as carried over."""
        self.asked.add(key)
        return self.values.get(key, default)

    def number(self, key: str, default: Any = None) -> Any:
        """The value of `key`, which has to be a finite number.

        Raises:
            UserError: it is something else.
        """
        value = self.take(key, default)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)
        ):
            raise UserError(f"{self.file}: {key} is {value!r}, but needs a number")
        return value

    def pick(self, key: str, names: Mapping[Any, Any], default: Any = None, *, why: str = "") -> Any:
        """What `names` makes of the value of `key`; a value that it does not know is lost, with the values it does."""
        if key not in self.values:
            return default
        value = self.values[key]
        if not isinstance(value, str | int | float | bool) or value not in names:
            self.lose(key, why or f"{value!r} has no counterpart; there are: {', '.join(str(name) for name in names)}")
            return default
        return names[self.take(key)]

    def lose(self, key: str, why: str) -> None:
        """`key`, if it is set, is not carried over because `why`."""
        if key in self.values and key not in self.asked:
            self.losses.append(Lost(key, self.values[key], why))
            self.asked.add(key)

    def drop(self, reasons: Mapping[str, str]) -> None:
        """`lose` for many keys; a name that ends in `.*` stands for all below it."""
        for name, why in reasons.items():
            found = [k for k in self.values if k.startswith(name[:-1])] if name.endswith(".*") else [name]
            for key in found:
                self.lose(key, why)

    def left(self) -> list[Lost]:
        """Everything that was not carried over, in the order of the file."""
        gone = {lost.key for lost in self.losses}
        carried = self.asked - gone
        rest = [
            Lost(key, value, UNKNOWN)
            for key, value in self.values.items()
            if key not in self.asked and not carried & set(self.used_by.get(key, ()))
        ]
        order = {key: place for place, key in enumerate(self.values)}
        return sorted([*self.losses, *rest], key=lambda lost: order[lost.key])


def _flat(data: Mapping[str, Any], prefix: str = "") -> Any:
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _resolved(value: Any, flat: Mapping[str, Any], depth: int = 0) -> Any:
    if isinstance(value, list):
        return [_resolved(item, flat, depth) for item in value]
    if not isinstance(value, str) or depth > 8:
        return value
    whole = _VARIABLE.fullmatch(value)
    if whole and whole[1] in flat:
        return _resolved(flat[whole[1]], flat, depth + 1)
    return _VARIABLE.sub(lambda m: str(_resolved(flat.get(m[1], m[0]), flat, depth + 1)), value)


def without_none(data: Any) -> Any:
    """A mapping without the keys that hold null, or that became empty by it."""
    if isinstance(data, dict):
        kept = {key: without_none(value) for key, value in data.items()}
        return {key: value for key, value in kept.items() if value is not None and value != {}}
    return data


def hub(name: str, split: str | None = None, **more: Any) -> dict[str, Any]:
    """A data set of the Hub as a source of a recipe."""
    return {"path": f"hub://{name}?split={split or 'train'}", **more}


OPTIMIZERS = {
    **dict.fromkeys(("adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf", "decoupled_adamw", "adam"), "adamw"),
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"), "adamw8bit"),
    **dict.fromkeys(("lion", "lion_32bit", "lion_pytorch", "decoupled_lionw"), "lion"),
    **dict.fromkeys(("schedule_free_adamw", "adamw_schedulefree"), "schedule_free"),
    "adafactor": "adafactor",
    "muon": "muon",
    "sgd": "sgd",
}
SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
    "inverse_sqrt": "inverse_root",
    "warmup_stable_decay": "wsd",
}


def optimizer(keys: Keys, *, name: str, betas: Sequence[str], eps: str, decay: str, clip: str) -> dict[str, Any]:
    """The optimizer's settings by the names that the tool gives them."""
    return {
        "optimizer": keys.pick(name, OPTIMIZERS, "adamw"),
        "beta1": keys.number(betas[0]),
        "beta2": keys.number(betas[1]),
        "eps": keys.number(eps),
        "weight_decay": keys.number(decay),
        "clip": keys.number(clip),
    }


def lora(keys: Keys, *, prefix: str = "lora_", targets: Any = None, name: str = "lora", **more: Any) -> dict[str, Any]:
    """A LoRA whose keys are called rank (or r), alpha and dropout behind `prefix`."""
    rank = f"{prefix}rank" if f"{prefix}rank" in keys else f"{prefix}r"
    return {
        "name": name,
        "rank": keys.number(rank, 8),
        "alpha": keys.number(f"{prefix}alpha"),
        "dropout": keys.number(f"{prefix}dropout"),
        "targets": targets,
        **more,
    }
