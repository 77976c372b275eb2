"""Commands that make vocabularies: `bottega tokenizer ...`.

Left out: their functions (workshop/vocabularies.py).
"""

from __future__ import annotations

from typing import Any

import click

from bottega.cli.parts import call, cli, columns_option, format_option, json_flag, offline_flag, template_option, verb


@cli.group()
def tokenizer() -> None:
    """Vocabularies."""


@verb(
    tokenizer,
    "train",
    "bottega tokenizer train docs --vocab 8192 --out my-tokenizer",
    "bottega tokenizer train texts.jsonl --kind unigram --out my-tokenizer",
)
@click.argument("paths", nargs=-1, required=True, metavar="FILES...")
@click.option("--out", required=True, help="The folder to write to; empty or not there.")
@click.option("--vocab", type=click.IntRange(1), default=8192, show_default=True, help="Tokens, special ones included.")
@click.option("--kind", type=click.Choice(["bpe", "unigram"]), default="bpe", show_default=True)
@click.option("--special", multiple=True, metavar="TOKEN", help="A further special token; repeat it.")
@click.option("--digits/--no-digits", default=True, show_default=True, help="Every digit is a token of its own.")
@format_option
@columns_option
@template_option
@json_flag
def train_command(paths: tuple[str, ...], template: str | None, as_json: bool, **options: Any) -> int:
    """Learn a byte-level vocabulary from files; the same files give the same vocabulary."""
    return call("tokenizer train", as_json=as_json, paths=paths, template=template or "chatml", **options)


@verb(tokenizer, "extend", "bottega tokenizer extend garzone docs --add 500 --keep old.jsonl --out garzone-plus")
@click.argument("model")
@click.argument("paths", nargs=-1, required=True, metavar="FILES...")
@click.option("--out", required=True, help="The folder for the model; empty or not there.")
@click.option("--add", type=click.IntRange(1), default=1000, show_default=True, help="Tokens wanted.")
@click.option("--keep", multiple=True, metavar="FILE", help="Texts that go on encoding as they do; repeat it.")
@format_option
@columns_option
@json_flag
@offline_flag
def extend_command(model: str, paths: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Learn more tokens on top of a model's own, with embeddings at the mean of their parts, padded to 128."""
    return call("tokenizer extend", as_json=as_json, model=model, paths=paths, **options)
