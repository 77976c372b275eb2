"""Commands that audit a model: `bottega audit ...`.

Left out: their functions (workshop/auditing.py).
"""

from __future__ import annotations

from typing import Any

import click

from bottega.cli.parts import audit, call, json_flag, offline_flag, quiet_flag, template_option, verb
from bottega.cli.verbs_use import device_option


def audit_options(function: Any) -> Any:
    """The options of every audit."""
    for add in (
        click.option("--base", metavar="MODEL", help="What it was made from; default: what the run or adapter says."),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--out", metavar="FILE", help="Also write the audit here."),
        template_option,
        device_option,
        json_flag,
        quiet_flag,
        offline_flag,
    ):
        function = add(function)
    return function


@verb(
    audit,
    "forgetting",
    "bottega audit forgetting runs/support-bot --tasks my_tasks.yaml --tasks bits_per_byte=held-out.txt",
    "bottega audit forgetting runs/support-bot   # a run that was evaluated before and after",
)
@click.argument("model")
@click.option("--tasks", "tasks", multiple=True, metavar="T", help="A task's name or file; repeat it.")
@click.option(
    "--max-drop", type=click.FloatRange(0), default=0.02, show_default=True, help="Of a task's score, at most."
)
@click.option(
    "--max-rise", type=click.FloatRange(0), default=0.05, show_default=True, help="Of bits a byte, as a share."
)
@click.option("--limit", type=click.IntRange(1), help="At most so many items a task.")
@audit_options
def forgetting_command(model: str, as_json: bool, **options: Any) -> int:
    """What a model lost against its base; exit 1 unless every bound was shown to be kept."""
    return call("audit forgetting", as_json=as_json, model=model, **options)


@verb(
    audit,
    "privacy",
    "bottega audit privacy runs/support-bot chats.jsonl --held-out unseen.jsonl",
)
@click.argument("model")
@click.argument("data", nargs=-1, required=True)
@click.option("--held-out", multiple=True, metavar="FILE", help="Rows of the same kind that it was not trained on.")
@click.option("--prefix", type=click.IntRange(1), default=32, show_default=True, help="Tokens of a row that are given.")
@click.option("--length", type=click.IntRange(1), default=32, show_default=True, help="Tokens that are compared.")
@click.option(
    "--max-extracted", type=click.FloatRange(0, 1), default=0.01, show_default=True, help="Share of rows, at most."
)
@click.option("--max-auc", type=click.FloatRange(0, 1), default=0.6, show_default=True, help="Of membership, at most.")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="Rows of each, at most.")
@audit_options
def privacy_command(model: str, data: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """What a model gives away of its rows: word for word, and by membership; exit 1 unless every bound was kept."""
    return call("audit privacy", as_json=as_json, model=model, data=list(data), **options)
