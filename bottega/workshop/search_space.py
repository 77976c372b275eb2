"""What a search tries: ranges and lists written as `KEY=VALUES`, methods, and the settings drawn from them.

Left out: samplers that learn from earlier trials (they save little below some dozens of trials; random draws need no store).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bottega.core.config import load_yaml
from bottega.core.errors import UserError

RANGE = re.compile(r"(?P<times>x?)(?P<low>[^.x/][^/]*?)\.\.x?(?P<high>[^/]+)(?:/(?P<points>\d+))?")
LOG_FROM = 8.0
"""A range of positive numbers whose ends differ by this factor is drawn evenly in its logarithm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One key and what it may be: a list of values, or low to high. times: the values multiply what is usual (lr)."""

    key: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    points: int = 0
    whole: bool = False
    times: bool = False

    def at(self, share: float) -> Any:
        """The value at `share` (0 to 1) of the range, or of the list."""
        if self.values:
            return self.values[min(int(share * len(self.values)), len(self.values) - 1)]
        if self.low > 0 and self.high / self.low >= LOG_FROM:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        return round(value) if self.whole else float(f"{value:.4g}")

    def grid(self) -> list[Any]:
        """Every value that a grid visits.

        Raises:
            UserError: a range that does not say in how many points it is cut.
        """
        if self.values:
            return list(self.values)
        if self.points < 2:
            raise UserError(
                f"{self.key} is a range, and a grid needs its points: write {self.key}={self.low:g}..{self.high:g}/4, "
                "or draw from it with --trials N"
            )
        return list(dict.fromkeys(self.at(i / (self.points - 1)) for i in range(self.points)))


def axis(text: str) -> Axis:
    """`lr=1e-5..1e-3` (a range), `lr=x0.3..x3` (times what is usual), `epochs=1,2,4` or a YAML list.

    Raises:
        UserError: it is none of them.
    """
    key, equals, said = text.partition("=")
    key, said = key.strip(), said.strip()
    if not equals or not key or not said:
        raise UserError(f"--over {text!r} is not KEY=VALUES, such as lr=1e-5..1e-3 or method.rank=4,8,16")
    found = RANGE.fullmatch(said)
    if found is not None:
        return _range(text, key, found)
    if said.startswith("["):
        values, _ = load_yaml(said, file=f"--over {text}")
    else:
        values = [load_yaml(part, file=f"--over {text}")[0] for part in said.split(",")]
    times = [isinstance(v, str) and re.fullmatch(r"x[\d.eE+-]+", v) is not None for v in values]
    if not any(times):
        return Axis(key=key, values=tuple(values))
    _check_times(key, text, all(times))
    return Axis(key=key, values=tuple(_number(v[1:], text) for v in values), times=True)


def _range(text: str, key: str, found: re.Match[str]) -> Axis:
    low, high = _number(found["low"], text), _number(found["high"], text)
    if not low < high:
        raise UserError(f"--over {text!r}: {low:g} is not below {high:g}; write the smaller end first")
    if found["times"]:
        _check_times(key, text, low > 0)
    whole = not found["times"] and all(re.fullmatch(r"-?\d+", found[end]) for end in ("low", "high"))
    points = int(found["points"] or 0)
    return Axis(key=key, low=low, high=high, points=points, whole=whole, times=bool(found["times"]))


def _check_times(key: str, text: str, sound: bool) -> None:
    if not sound or key.rpartition(".")[2] != "lr":
        raise UserError(f"--over {text!r}: factors (x0.5) are positive, all of them factors, and for lr only")


def _number(text: str, whole: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"--over {whole!r}: {text!r} is no number")
    return value


def draws(axes: Sequence[Axis], *, trials: int | None, seed: int) -> list[dict[str, Any]]:
    """The settings to try: `trials` random ones, or every combination. Draw k is the same however many follow it.

    Raises:
        UserError: a key twice, or a range without points in a grid.
    """
    keys = [one.key for one in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"--over names {key} twice; give all its values in one")
    if trials is None:
        return [dict(zip(keys, values)) for values in itertools.product(*(one.grid() for one in axes))]
    made: list[dict[str, Any]] = []
    for number in range(trials):
        stream = random.Random(f"{seed}:{number}")
        settings = {one.key: one.at(stream.random()) for one in axes}
        if settings not in made:
            made.append(settings)
    return made


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One of the methods that are compared: its name, the options given for it (None: those of the recipe)."""

    label: str
    name: str = ""
    options: dict[str, Any] | None = dataclasses.field(default=None)


def ways(text: str | None, recipe_method: str) -> list[Way]:
    """`lora,full` or `lora, {name: adapter, kind: parallel}`; one nameless way where nothing is compared.

    Raises:
        UserError: not a list of methods, or one of them twice.
    """
    if text is None:
        return [Way(label="")]
    said, _ = load_yaml(f"[{text}]", file="--methods")
    found = []
    for one in said:
        given = {"name": one} if isinstance(one, str) else one
        if not isinstance(given, dict) or not isinstance(given.get("name"), str):
            raise UserError(f"--methods: {one!r} is no method; write a name, or {{name: lora, rank: 8}}")
        options = {key: value for key, value in given.items() if key != "name"}
        more = ",".join(f"{key}={value}" for key, value in options.items())
        own = given["name"] == recipe_method and not options
        label = given["name"] + (f"({more})" if more else "")
        found.append(Way(label=label, name=given["name"], options=None if own else options))
    labels = [way.label for way in found]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"--methods names {label} twice")
    if not labels:
        raise UserError("--methods names no method; write --methods lora,full")
    return found
