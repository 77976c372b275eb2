"""What a user writes for several models: `a+b:0.6` into names and weights, and the mixture of adapters that it stands for.

Left out: how adapters are combined (blend_adapters.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bottega.core.errors import Mismatch, UserError
from bottega.models import locate


class Part(NamedTuple):
    """A model and its weight, None where none was written."""

    name: str
    weight: float | None

    def weight_or(self, default: float) -> float:
        """The weight, or `default`."""
        return default if self.weight is None else self.weight


def parse(text: str) -> Part:
    """`NAME` or `NAME:WEIGHT`; a path that exists is taken as it is.

    Raises:
        UserError: what follows the colon is no finite number.
    """
    name, colon, number = text.rpartition(":")
    if not colon or Path(text).expanduser().exists():
        return Part(text, None)
    try:
        weight = float(number)
    except ValueError:
        raise UserError(f"{text!r}: {number!r} is no weight; write NAME:0.6") from None
    if not math.isfinite(weight):
        raise UserError(f"{text!r}: the weight must be a finite number; write NAME:0.6")
    return Part(name, weight)


def is_mixture(text: str) -> bool:
    """Whether a model's name is a mixture, `a+b:0.6`; an existing path with a plus in it is not."""
    return "+" in text and not Path(text).expanduser().exists()


def mix(text: str, folder: Path, *, offline: bool | None = None) -> locate.Place:
    """Write the adapter that `a+b:0.6` stands for into `folder`: Delta = 1 Delta_a + 0.6 Delta_b, exactly.

    Returns:
        Where it lies, as if it had been named.

    Raises:
        UserError: a part is no LoRA adapter. Mismatch: the parts have different bases.
    """
    from bottega.models.blend_adapters import combine

    parts = [parse(one) for one in text.split("+") if one]
    if len(parts) < 2:
        raise UserError(f"{text!r} names no two adapters; write a+b:0.6")
    places = [locate.locate(part.name, offline=offline) for part in parts]
    below, name = shared_base(places)
    combine([place.folder for place in places], folder, weights=[part.weight_or(1.0) for part in parts], base=name)
    notes = tuple(note for place in places for note in place.notes)
    first = places[0]
    return locate.Place(name=text, base=first.base, base_id=first.base_id, adapters=(*below, folder), notes=notes)


def shared_base(places: Sequence[locate.Place]) -> tuple[tuple[Path, ...], str]:
    """What adapters lie on, if it is the same for all: adapter folders below them, and the name of what is under them.

    Raises:
        UserError: one is a whole model. Mismatch: they lie on different models.
    """
    first = places[0]
    for place in places:
        if not place.adapters:
            raise UserError(f"{place.name} is a whole model, not an adapter; only adapters of one base can be combined")
        if (place.base.resolve(), place.adapters[:-1]) != (first.base.resolve(), first.adapters[:-1]):
            raise Mismatch(
                f"{first.name} lies on {(*first.adapters[:-1], first.base)[0]} and {place.name} on "
                f"{(*place.adapters[:-1], place.base)[0]}: combine adapters of one base"
            )
    below = first.adapters[:-1]
    return below, str(below[-1].resolve()) if below else first.base_id
