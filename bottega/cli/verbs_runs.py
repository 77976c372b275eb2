"""Commands over run folders: `bottega runs ...`.

Left out: their functions (workshop/runs.py).
"""

from __future__ import annotations

from typing import Any

import click

from bottega.cli.parts import call, json_flag, offline_flag, quiet_flag, runs, verb


@verb(runs, "list", "bottega runs list")
@click.option("--root", default="runs", show_default=True, help="The folder of run folders.")
@json_flag
def list_command(root: str, as_json: bool) -> int:
    """All runs with their state."""
    return call("runs list", as_json=as_json, root=root)


@verb(runs, "show", "bottega runs show runs/support-bot")
@click.argument("run")
@json_flag
def show_command(run: str, as_json: bool) -> int:
    """One run: stages, numbers, scorecards."""
    return call("runs show", as_json=as_json, run=run)


@verb(runs, "resume", "bottega runs resume runs/support-bot")
@click.argument("run")
@click.option("--allow-change", multiple=True, metavar="KEY", help="Go on though this recorded input changed.")
@json_flag
@quiet_flag
@offline_flag
def resume_command(run: str, as_json: bool, **options: Any) -> int:
    """Continue a run from its own recorded recipe."""
    return call("runs resume", as_json=as_json, run=run, **options)


@verb(runs, "verify", "bottega runs verify runs/support-bot")
@click.argument("run")
@json_flag
def verify_command(run: str, as_json: bool) -> int:
    """Compare every file with its manifest; exit 4 if a result, or every checkpoint of a stage, is damaged."""
    return call("runs verify", as_json=as_json, run=run)


@verb(runs, "compare", "bottega runs compare runs/try-1 runs/try-2")
@click.argument("a")
@click.argument("b")
@json_flag
def compare_command(a: str, b: str, as_json: bool) -> int:
    """Two runs: recipes, inputs, how the stages ended, and their scorecards item by item."""
    return call("runs compare", as_json=as_json, a=a, b=b)


@verb(runs, "gc", "bottega runs gc", "bottega runs gc runs/try-1 --remove")
@click.argument("runs_", metavar="[RUN ...]", nargs=-1)
@click.option("--root", default="runs", show_default=True, help="The folder of run folders, where none is named.")
@click.option("--remove", is_flag=True, help="Remove what was found; without it nothing is.")
@json_flag
def gc_command(runs_: tuple[str, ...], root: str, remove: bool, as_json: bool) -> int:
    """What ended stages do not need any more: checkpoints (not pinned ones) and caches."""
    return call("runs gc", as_json=as_json, runs=runs_, root=root, remove=remove)


@verb(runs, "pin", "bottega runs pin runs/support-bot 400", "bottega runs pin runs/support-bot 400 --off")
@click.argument("run")
@click.argument("step", type=click.IntRange(0))
@click.option("--stage", help="Which stage's; needed where several have a checkpoint of this step.")
@click.option("--off", is_flag=True, help="It may be removed again.")
@json_flag
def pin_command(run: str, step: int, as_json: bool, **options: Any) -> int:
    """Keep the checkpoint of a step, whatever `keep` says."""
    return call("runs pin", as_json=as_json, run=run, step=step, **options)
