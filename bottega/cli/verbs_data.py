"""Commands that look at data: `bottega data ...`.

Left out: their functions (workshop/data_verbs.py, workshop/cleaning.py).
"""

from __future__ import annotations

from typing import Any

import click

from bottega.cli.parts import (
    call,
    columns_option,
    data,
    format_option,
    json_flag,
    length_option,
    loss_option,
    mask_option,
    offline_flag,
    template_option,
    tokens_option,
    verb,
)


@verb(data, "inspect", "bottega data inspect chats.jsonl --row 2")
@click.argument("path")
@click.option("--row", type=click.IntRange(1), default=1, show_default=True, help="Which row to show.")
@click.option("--thinking", type=click.Choice(["keep", "mask", "drop"]), default="keep", show_default=True)
@click.option("--model", default="garzone", show_default=True, help="Whose tokenizer and template.")
@length_option
@mask_option
@format_option
@template_option
@json_flag
@offline_flag
def inspect_command(path: str, as_json: bool, **options: Any) -> int:
    """Tokens coloured by what is trained, after the template."""
    return call("data inspect", as_json=as_json, path=path, **options)


@verb(
    data, "check", "bottega data check chats.jsonl", "bottega data check chats.jsonl --model garzone --max-tokens 512"
)
@click.argument("paths", nargs=-1, required=True)
@length_option
@mask_option
@tokens_option
@format_option
@columns_option
@template_option
@json_flag
@offline_flag
def check_command(paths: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Name every bad row with its file, row, column and reason; exit 1 if a run would stop at one."""
    return call("data check", as_json=as_json, paths=paths, **options)


@verb(
    data,
    "clean",
    "bottega data clean chats.jsonl --step exact --step near --step personal --out clean",
    "bottega data clean docs --step near --set near.threshold=0.7 --out clean",
    "bottega data clean chats.jsonl --erase anna@example.org --runs runs --out clean",
)
@click.argument("paths", nargs=-1, required=True)
@click.option("--step", "steps", multiple=True, metavar="STEP", help="A step, in order; default: exact, near.")
@click.option("--set", "settings", multiple=True, metavar="STEP.OPTION=VALUE", help="An option of a step.")
@click.option("--out", required=True, help="The folder for cleaned.jsonl, rejects.jsonl and clean.json.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of MinHash and pseudonyms.")
@click.option(
    "--erase", multiple=True, metavar="ROW", help="Leave out rows: a text in them, a file of rows, or a hash."
)
@click.option("--runs", default="runs", show_default=True, help="Where runs that hold an erased row are looked for.")
@loss_option
@format_option
@columns_option
@json_flag
def clean_command(paths: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Leave out duplicates, poor text and evaluation items; mask personal data.

    Steps: exact, near, length, language, repetition, quality, c4, decontaminate, personal.
    """
    return call("data clean", as_json=as_json, paths=paths, **options)


@verb(data, "convert", "bottega data convert alpaca.json --to messages --out chats.jsonl")
@click.argument("paths", nargs=-1, required=True)
@click.option("--to", default="messages", show_default=True, help="The format to write.")
@click.option(
    "--out", required=True, help="The file to write: .jsonl, .json or .csv; NAME.mds: a folder of MDS shards."
)
@loss_option
@format_option
@columns_option
@json_flag
def convert_command(paths: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Rewrite data in another format."""
    return call("data convert", as_json=as_json, paths=paths, **options)


@verb(data, "split", "bottega data split chats.jsonl --share validation=0.1 --share test=0.1 --out parts")
@click.argument("path")
@click.option("--out", required=True, help="The folder to write the parts to.")
@click.option("--share", "shares", multiple=True, metavar="NAME=SHARE", default=("validation=0.1",), show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--group", metavar="COLUMN", help="Rows with the same value stay together.")
@click.option("--stratify", metavar="COLUMN", help="Keep the shares of this column's values.")
@click.option("--time", metavar="COLUMN", help="The newest rows go to the last part.")
@json_flag
def split_command(path: str, as_json: bool, **options: Any) -> int:
    """Train, validation and test parts without near duplicates across them."""
    return call("data split", as_json=as_json, path=path, **options)


@verb(data, "stats", "bottega data stats chats.jsonl --model garzone")
@click.argument("paths", nargs=-1, required=True)
@tokens_option
@format_option
@columns_option
@template_option
@json_flag
@offline_flag
def stats_command(paths: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """What the rows are like: kinds, turns, lengths, duplicates."""
    return call("data stats", as_json=as_json, paths=paths, **options)
