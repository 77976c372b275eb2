"""Commands around human feedback: `bottega feedback ...`.

Left out: their functions (workshop/feedback.py, workshop/feedback_stats.py, studio/serve.py).
"""

from __future__ import annotations

from typing import Any

import click

from bottega.cli.parts import call, feedback, json_flag, verb

store_option = click.option(
    "--store",
    default="feedback.db",
    show_default=True,
    envvar="BOTTEGA_FEEDBACK",
    metavar="PLACE",
    help="A SQLite file, or postgresql://USER@HOST/NAME; BOTTEGA_FEEDBACK too.",
)


@verb(feedback, "serve", "bottega feedback serve --invite anna --invite ben", "bottega feedback serve --renew anna")
@store_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8321, show_default=True)
@click.option("--allow-host", multiple=True, metavar="NAME", help="A name by which others call this machine.")
@click.option("--invite", multiple=True, metavar="NAME[:lead]", help="Make a token for somebody and show their link.")
@click.option("--renew", multiple=True, metavar="NAME", help="A new token in the place of a lost one.")
@click.option("--certificate", metavar="FILE", help="For TLS, with its key.")
@click.option("--certificate-key", metavar="FILE")
@click.option("--behind-proxy", is_flag=True, help="A proxy with TLS stands in front.")
def serve_command(**options: Any) -> int:
    """Pages on which people compare, rate, correct and label; keyboard first, and on a phone."""
    return call("feedback serve", as_json=False, **options)


@verb(
    feedback,
    "import",
    "bottega feedback import pairs.jsonl --project answers --kind compare --reason wrong --per-item 2",
    "bottega feedback import mails.jsonl --project mails --kind class --label spam --label ham",
)
@click.argument("files", nargs=-1, required=True)
@store_option
@click.option("--project", metavar="NAME", help="Where the rows go; made if it is new.")
@click.option("--kind", type=click.Choice(["compare", "rate", "edit", "class", "span", "write"]), help="What is asked.")
@click.option("--label", "labels", multiple=True, metavar="LABEL", help="For class and span; default: the data's.")
@click.option("--several", is_flag=True, help="An item may have several classes.")
@click.option("--scale", type=click.IntRange(2, 10), default=5, show_default=True, help="Ratings go from 1 to this.")
@click.option("--reason", "reasons", multiple=True, metavar="TEXT", help="A reason to tick.")
@click.option("--per-item", type=click.IntRange(1, 100), default=1, show_default=True, help="Answers wanted an item.")
@click.option(
    "--gold-every", type=click.IntRange(0, 1000), default=0, show_default=True, help="One question in N is gold."
)
@click.option("--instructions", default="", metavar="TEXT", help="Shown above each question.")
@json_flag
def import_command(files: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Put rows into a queue, or bring a backup back into an empty store; settings count where the project is new."""
    return call("feedback import", as_json=as_json, files=files, **options)


@verb(feedback, "export", "bottega feedback export --project answers --out pairs.jsonl --by majority")
@store_option
@click.option("--project", metavar="NAME", help="Whose answers.")
@click.option("--out", required=True, help="The file to write.")
@click.option(
    "--by",
    type=click.Choice(["each", "majority"]),
    default="each",
    show_default=True,
    help="A row an answer, or an item.",
)
@click.option(
    "--shape",
    type=click.Choice(["default", "pairs", "texts"]),
    default="default",
    show_default=True,
    help="Ratings as pairs, edits as texts.",
)
@click.option("--min-gold", type=click.FloatRange(0, 1), default=0.0, help="Leave out who is right on gold less often.")
@click.option("--backup", "whole", is_flag=True, help="Everything in the store instead, to import again.")
@json_flag
def export_command(as_json: bool, **options: Any) -> int:
    """Answers as rows that `bottega run` and `bottega data` read."""
    return call("feedback export", as_json=as_json, **options)


@verb(feedback, "stats", "bottega feedback stats --project answers")
@store_option
@click.option("--project", metavar="NAME", help="One project only.")
@json_flag
def stats_command(as_json: bool, **options: Any) -> int:
    """Progress, agreement between people, and gold questions."""
    return call("feedback stats", as_json=as_json, **options)
