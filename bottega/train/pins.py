"""Checkpoints that somebody wants to keep: their steps, in a file beside them.

Left out: the recipe's own `pin`, which needs no file, and removing what is not kept (checkpoint.py). No torch here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bottega.core.rundir import read_json, write_json

PINS = "PINS.json"


def pinned(checkpoints: Path) -> set[int]:
    """Steps whose checkpoints in `checkpoints` stay."""
    path = checkpoints / PINS
    return set(read_json(path)["steps"]) if path.is_file() else set()


def write_pins(checkpoints: Path, steps: Iterable[int]) -> None:
    """These steps, and no others, are pinned."""
    write_json(checkpoints / PINS, {"schema": 1, "steps": sorted(steps)})
