"""Commands that give a model away: merge.

Left out: their functions (workshop/merging.py).
"""

from __future__ import annotations

from typing import Any

import click

from bottega.cli.parts import call, cli, json_flag, offline_flag, quiet_flag, verb


@verb(
    cli,
    "merge",
    "bottega merge runs/support-bot --out merged",
    "bottega merge runs/a runs/b:0.6 --out both --tasks my_tasks.yaml",
    "bottega merge tuned-1 tuned-2 --base start --method ties --out one",
)
@click.argument("models", nargs=-1, required=True, metavar="MODEL[:WEIGHT]...")
@click.option("--out", required=True, help="The folder to make.")
@click.option(
    "--method",
    type=click.Choice(["linear", "slerp", "task_arithmetic", "ties", "dare"]),
    help="For several; default: linear. One adapter is folded into its base.",
)
@click.option("--base", metavar="MODEL", help="The common start of whole models, for methods on differences.")
@click.option("--density", type=click.FloatRange(0, 1, min_open=True), help="Share kept: ties 0.2, dare 0.5.")
@click.option("--rank", type=click.IntRange(1), help="Rank of a combined adapter; default: the sum of the ranks.")
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True,
    help="Of a folded model.",
)  # fmt: skip
@click.option("--tasks", "tasks", multiple=True, metavar="T", help="Score every model and the result; exit 1 if worse.")
@click.option("--against", metavar="MODEL", help="What the result may not be worse than; default: the base.")
@click.option("--limit", type=click.IntRange(1), help="At most so many items a task.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of DARE's masks, items and intervals.")
@json_flag
@quiet_flag
@offline_flag
def merge_command(models: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Fold an adapter into its base, or merge several adapters or models into one."""
    return call("merge", as_json=as_json, models=models, **options)
