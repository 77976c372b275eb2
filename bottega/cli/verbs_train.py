"""Commands that make a model: demo, doctor, init, plan, run, search.

Left out: their functions (workshop, demo).
"""

from __future__ import annotations

from typing import Any

import click

from bottega.cli.parts import (
    call,
    cli,
    format_option,
    json_flag,
    loss_option,
    offline_flag,
    quiet_flag,
    template_option,
    verb,
)


@verb(cli, "demo", "bottega demo --out demo-out")
@click.option("--out", default="demo-out", show_default=True, help="Where everything is written.")
@click.option("--stages", metavar="A,B", help="Only these stages.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything that is drawn.")
@click.option("--model", default="garzone", show_default=True, help="The base to start from.")
@json_flag
@quiet_flag
def demo_command(stages: str | None, as_json: bool, **options: Any) -> int:
    """The whole journey, offline, on the bundled model; exit 1 if a stage's own check fails."""
    chosen = tuple(stages.split(",")) if stages else None
    return call("demo", as_json=as_json, stages=chosen, **options)


@verb(cli, "doctor", "bottega doctor", "bottega doctor --json", "bottega doctor --calibrate")
@click.option("--calibrate", is_flag=True, help="Measure this device's speed (seconds) and keep it for `bottega plan`.")
@json_flag
def doctor_command(calibrate: bool, as_json: bool) -> int:
    """What this machine has, what works on it, what is missing and the command that mends it."""
    return call("doctor", as_json=as_json, calibrate=calibrate)


@verb(
    cli,
    "init",
    "bottega init chats.jsonl --out recipe.yaml",
    "bottega init chats.jsonl --device rtx-3090",
    "bottega init --from axolotl.yml --out recipe.yaml",
    "bottega run recipe.yaml",
)
@click.argument("path", metavar="[DATA]", required=False)
@click.option(
    "--from", "source", metavar="FILE", help="Carry over another tool's configuration; DATA replaces its data."
)
@click.option("--out", default="recipe.yaml", show_default=True, help="The recipe's file.")
@click.option("--model", help="The model to tune; default: what fits by `plan`, or what --from names.")
@click.option("--device", metavar="D", help="Where the recipe will run, such as rtx-3090; default: this machine.")
@format_option
@template_option
@click.option("--force", is_flag=True, help="Overwrite the recipe's file.")
@json_flag
@offline_flag
def init_command(path: str | None, as_json: bool, **options: Any) -> int:
    """Write a commented recipe after a look at DATA, or from a file of LLaMA-Factory, Axolotl, LLM Foundry or InstructLab."""
    return call("init", as_json=as_json, path=path, **options)


@verb(
    cli,
    "run",
    "bottega run recipe.yaml --dry-run",
    "bottega run recipe.yaml instruct.lr=1e-4 --out runs/try-2",
    "bottega run --update runs/try-2 data=new.jsonl replay=0.5",
)
@click.argument("recipe", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE ...]")
@click.option("--update", metavar="RUN", help="In place of RECIPE: this run's model learns data=NEW and keeps the old.")
@click.option("--out", help="The run folder; default: runs/NAME.")
@click.option("--dry-run", is_flag=True, help="Check everything and print the plan.")
@click.option("--print-launch", is_flag=True, help="Print the torchrun commands for several processes.")
@click.option("--allow-change", multiple=True, metavar="KEY", help="Go on though this recorded input changed.")
@loss_option
@click.option("--trust-code", metavar="REVISION", help="Run the model's own code at this 40-hex revision.")
@json_flag
@quiet_flag
@offline_flag
def run_command(
    recipe: str | None, overrides: tuple[str, ...], update: str | None, as_json: bool, **options: Any
) -> int:
    """Run a recipe, one stage or many; continue where it stopped."""
    if update is not None:
        given = (recipe, *overrides) if recipe is not None else overrides
        return call("run", as_json=as_json, recipe=None, overrides=given, update=update, **options)
    return call("run", as_json=as_json, recipe=recipe, overrides=overrides, **options)


@verb(
    cli,
    "plan",
    "bottega plan recipe.yaml",
    "bottega plan recipe.yaml --device rtx-3090 --price-per-hour 0.4",
    "bottega plan --suggest --device rtx-3090",
)
@click.argument("recipe", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE ...]")
@click.option("--suggest", is_flag=True, help="Open models and the ways to tune them that fit the device.")
@click.option("--device", metavar="D", help="A GPU of the table, such as rtx-3090 or a100-80gb; default: this machine.")
@click.option("--device-memory", metavar="SIZE", help="Memory to fit in instead of the device's own, such as 24GB.")
@click.option("--price-per-hour", type=click.FloatRange(0), help="What an hour of the device costs you.")
@click.option("--currency", default="EUR", show_default=True, help="Of that price.")
@click.option("--hours", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True, help="For --suggest.")
@click.option(
    "--ways/--no-ways", default=True, help="Compare methods too, and say what would make it fit (some seconds)."
)
@json_flag
@offline_flag
def plan_command(recipe: str | None, as_json: bool, suggest: bool, **options: Any) -> int:
    """Memory, time, disk and cost before anything is loaded; exit 6 if it cannot fit."""
    if recipe is None and not suggest:
        raise click.UsageError("name a recipe, or ask with --suggest which models fit")
    return call("plan", as_json=as_json, recipe=recipe, suggest=suggest, **options)


@verb(
    cli,
    "search",
    "bottega search recipe.yaml --over lr=1e-5..1e-3 --over method.rank=4,8,16 --trials 12",
    "bottega search recipe.yaml --methods lora,full,prefix --seeds 0,1,2",
    "bottega search recipe.yaml --methods lora,ia3 --over lr=x0.3..x3/3",
)
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE ...]")
@click.option("--over", multiple=True, metavar="KEY=VALUES", help="low..high, low..high/POINTS, xLOW..xHIGH, or a,b,c.")
@click.option("--methods", metavar="A,B", help="Compare these ways to tune; each gets as many trials.")
@click.option("--stage", metavar="NAME", help="Which stage is varied; default: the last.")
@click.option(
    "--metric", metavar="NAME[:max]", help="Of the evaluation; default: what the stage stops early by, or loss."
)
@click.option("--trials", type=click.IntRange(1), metavar="N", help="N random settings; default: every combination.")
@click.option("--seeds", metavar="N,N", help="Of the final runs, for their interval; default: the recipe's seed.")
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), help="Stop after so long (exit 9); repeat to go on."
)
@click.option("--prune/--no-prune", default=True, show_default=True, help="End a trial that is worse than the median.")
@click.option("--out", help="The search's folder; default: runs/NAME-search.")
@json_flag
@quiet_flag
@offline_flag
def search_command(recipe: str, overrides: tuple[str, ...], seeds: str | None, as_json: bool, **options: Any) -> int:
    """Try settings, or compare methods at an equal budget, on your own data; exit 9 if some trials failed."""
    try:
        chosen = tuple(int(seed) for seed in seeds.split(",")) if seeds else ()
    except ValueError:
        raise click.UsageError(f"--seeds {seeds}: numbers separated by commas, such as 0,1,2") from None
    return call("search", as_json=as_json, recipe=recipe, overrides=overrides, seeds=chosen, **options)
