"""Commands that give a model away: merge, export.

Left out: their functions (workshop/merging.py, workshop/exporting.py).
"""

from __future__ import annotations

from typing import Any

import click

from bottega.cli.parts import call, cli, json_flag, offline_flag, quiet_flag, template_option, verb


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
@click.option("--stream", is_flag=True, help="Fold tensor by tensor: the base need not fit into memory.")
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


@verb(
    cli,
    "export",
    "bottega export runs/support-bot --out bot",
    "bottega export runs/support-bot --format gguf --quant q8_0 --out bot-gguf",
    "bottega export runs/support-bot --format peft --base Qwen/Qwen3-4B --out bot-lora --push me/bot-lora",
)
@click.argument("model")
@click.option("--out", required=True, help="The folder to make.")
@click.option("--format", type=click.Choice(["hf", "peft", "gguf", "onnx"]), default="hf", show_default=True)
@click.option(
    "--quant", type=click.Choice(["f32", "f16", "q8_0", "q4_0"]), default="f16", show_default=True, help="Of a gguf."
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Of hf.",
)
@click.option("--base", metavar="ID", help="What a peft adapter names as its base; default: its recorded one.")
@click.option("--name", help="What the card calls the model.")
@click.option("--licence", metavar="L", help="For the card, such as apache-2.0.")
@click.option("--push", metavar="OWNER/NAME", help="Upload to this repository of the hub, private.")
@click.option("--public", is_flag=True, help="A new repository is public.")
@template_option
@json_flag
@quiet_flag
@offline_flag
def export_command(model: str, as_json: bool, **options: Any) -> int:
    """Give a model away: a Hugging Face folder, a PEFT adapter, GGUF or ONNX, each read back and compared."""
    return call("export", as_json=as_json, model=model, **options)
