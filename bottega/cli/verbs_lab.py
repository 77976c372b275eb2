"""Commands around a taxonomy: `bottega taxonomy ...`.

Left out: their functions (the synth room).
"""

from __future__ import annotations

from typing import Any

import click

from bottega.cli.parts import call, json_flag, offline_flag, taxonomy, verb


@verb(
    taxonomy,
    "check",
    "bottega taxonomy check recipes/examples/taxonomy",
    "bottega taxonomy check qna.yaml --strict --window 2048 --model garzone",
)
@click.argument("path")
@click.option("--strict", is_flag=True, help="What lint warns of is an error.")
@click.option("--schema-version", type=click.IntRange(1, 3), help="Hold every leaf to this version, not to its own.")
@click.option("--rules", metavar="FILE", help="Lint rules in yamllint's form; default: relaxed, lines of any length.")
@click.option(
    "--window", type=click.IntRange(1), help="Name seeds longer than this (characters, or tokens of --model)."
)
@click.option("--model", help="Whose tokenizer counts.")
@json_flag
@offline_flag
def check_command(path: str, as_json: bool, **options: Any) -> int:
    """Every error and warning of a leaf or a tree, with line, column and remedy; exit 1 if there is an error."""
    return call("taxonomy check", as_json=as_json, path=path, **options)


@verb(taxonomy, "fix", "bottega taxonomy fix recipes/examples/taxonomy --dry-run")
@click.argument("path")
@click.option("--dry-run", is_flag=True, help="Say what would change, write nothing.")
@json_flag
def fix_command(path: str, as_json: bool, **options: Any) -> int:
    """Mend white space, blank lines, the last line's end and bare booleans; no text changes."""
    return call("taxonomy fix", as_json=as_json, path=path, **options)


@verb(taxonomy, "diff", "bottega taxonomy diff my-taxonomy --base origin/main")
@click.argument("path")
@click.option(
    "--base", default="origin/main", show_default=True, metavar="REF", help="Branch, tag, commit, or `empty`."
)
@json_flag
def diff_command(path: str, as_json: bool, **options: Any) -> int:
    """Leaves changed or added since the newest commit that the base has too."""
    return call("taxonomy diff", as_json=as_json, path=path, **options)


@verb(taxonomy, "tree", "bottega taxonomy tree recipes/examples/taxonomy")
@click.argument("path")
@json_flag
def tree_command(path: str, as_json: bool, **options: Any) -> int:
    """The leaves with their kinds, counted by branch."""
    return call("taxonomy tree", as_json=as_json, path=path, **options)


@verb(
    taxonomy,
    "documents",
    "bottega taxonomy documents recipes/examples/taxonomy",
    "bottega taxonomy documents my-taxonomy --size 4000 --out chunks.jsonl",
)
@click.argument("path")
@click.option(
    "--documents", "instead", default="", metavar="SOURCE", help="Folder, git or page, in place of the leaves' own."
)
@click.option("--size", type=click.IntRange(1), default=2000, show_default=True, help="Characters a chunk may have.")
@click.option("--out", metavar="FILE", help="Write the chunks as jsonl.")
@click.option("--cache", metavar="DIR", help="Where fetched documents stay; default: the user's cache.")
@json_flag
@offline_flag
def documents_command(path: str, as_json: bool, **options: Any) -> int:
    """Fetch the documents of knowledge leaves (once; then from the cache), read them and cut them into chunks."""
    return call("taxonomy documents", as_json=as_json, path=path, **options)
