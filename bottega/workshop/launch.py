"""How a recipe is started as several processes: the command lines, and how many processes can share its batches.

Left out: starting them (torchrun does it), Slurm's own words (docs/how-to/many-processes.md).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core.errors import UserError

if TYPE_CHECKING:
    from bottega.workshop.recipe import Recipe


def refuse_uneven(stage: str, batch: int, processes: int) -> None:
    """Every process needs a row of every full batch; an uneven share is exact, since losses are divided by the batch's own counts.

    Raises:
        UserError: more processes than rows a step; the numbers that share them evenly are named.
    """
    if processes > batch:
        raise UserError(
            f"{stage}: batch is {batch}, which {processes} processes cannot share; use {shares(batch)} "
            f"processes, or set batch to at least {processes}"
        )


def shares(batch: int) -> str:
    """The numbers of processes among which a batch divides evenly, as text.

    >>> shares(12)
    '1, 2, 3, 4, 6 or 12'
    """
    *most, last = [str(n) for n in range(1, batch + 1) if batch % n == 0]
    return f"{', '.join(most)} or {last}" if most else last


def launch(plan: Recipe, recipe: Any, overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """The torchrun commands that run `recipe` as several processes.

    Raises:
        UserError: the recipe is no file.
    """
    if not isinstance(recipe, str | os.PathLike):
        raise UserError("print_launch prints command lines, which need a recipe in a file")
    words = ["-m", "bottega.cli", "run", str(recipe), *overrides, "--out", str(folder)]
    run = shlex.join(words)
    many = f"--rdzv-backend c10d --rdzv-endpoint HOST:29500 --rdzv-id {shlex.quote(plan.name)}"
    return {
        "launch": {
            "one machine, a process for each GPU (or each core)": f"torchrun --standalone --nproc-per-node auto {run}",
            "one machine, 2 processes": f"torchrun --standalone --nproc-per-node 2 {run}",
            "2 machines, the same on each (HOST is one of them)": f"torchrun --nnodes 2 --nproc-per-node auto {many} {run}",
            "1 to 2 machines, started again up to 3 times when one is lost": (
                f"torchrun --nnodes 1:2 --max-restarts 3 --nproc-per-node auto {many} {run}"
            ),
        },
        "processes": {stage.name: f"batch {stage.batch}: {shares(stage.batch)}" for stage in plan.stages},
        "parallel": {stage.name: stage.parallel for stage in plan.stages},
    }


def launch_text(found: dict[str, Any]) -> str:
    """The same for people: a comment above each command."""
    lines = [line for said, command in found["launch"].items() for line in (f"# {said}", command)]
    lines += [f"# {name}: {said} processes share it evenly" for name, said in found["processes"].items()]
    return "\n".join(lines)
