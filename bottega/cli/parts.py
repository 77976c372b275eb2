"""What the verbs' commands share: the groups, the options, and the call of a verb's function.

Left out: the commands (verbs_*.py).
"""

from __future__ import annotations

import os
from typing import Any

import click

from bottega import __version__
from bottega.cli.table import VERBS
from bottega.core.devices import rank


def call(verb: str, *, as_json: bool, **options: Any) -> Any:
    """Call a verb's function; print its result as JSON, or as text with the function's `_text` twin."""
    from bottega.core.table import resolve
    from bottega.core.textio import print_json

    result = resolve(VERBS[verb])(**options)
    if rank() > 0:
        pass  # the first of several processes speaks for all
    elif as_json:
        print_json(result.to_json() if hasattr(result, "to_json") else result)
    elif result is not None:
        click.echo(resolve(VERBS[verb] + "_text")(result))
    return _code(result)


def _code(result: Any) -> int:
    """The exit code that a result names; of rows, 9 where some say that they failed."""
    if isinstance(result, list):
        return 9 if any(isinstance(row, dict) and "error" in row for row in result) else 0
    return int(result.get("exit_code", 0)) if isinstance(result, dict) else int(getattr(result, "exit_code", 0))


def example(*lines: str) -> str:
    """A worked example for the foot of a help page."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def verb(group: click.Group, name: str, *examples: str, **settings: Any) -> Any:
    """A command with a worked example and `--help`."""
    return group.command(name, epilog=example(*examples), **settings)


json_flag = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, nothing else.")
quiet_flag = click.option("--quiet", is_flag=True, help="No progress on stderr.")
format_option = click.option("--format", "format", metavar="NAME", help="The data's format; default: found by looking.")
columns_option = click.option("--column", "columns", multiple=True, metavar="PART=COLUMN", help="For plain tables.")
tokens_option = click.option("--model", help="Count in the tokens of this model, rendered by its template.")
length_option = click.option("--max-tokens", type=click.IntRange(2), help="A limit on length to compare with.")
mask_option = click.option("--mask", default="assistant", show_default=True, help="Which tokens are trained.")
loss_option = click.option("--allow-loss", type=click.IntRange(0), metavar="N", help="Bad rows that may be left out.")
template_option = click.option("--template", metavar="T", help="Chat template: a name or a file.")


def _offline(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        os.environ["HF_HUB_OFFLINE"] = "1"


offline_flag = click.option(
    "--offline", is_flag=True, expose_value=False, callback=_offline, help="Open no network connection."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="bottega")
@offline_flag
def cli() -> None:
    """A workshop for foundation models: adapt, tune, align, measure and use them on the hardware at hand."""


@cli.group()
def audit() -> None:
    """The risks of a model, each with a verdict."""


@cli.group()
def data() -> None:
    """Look at data the way the model will see it."""


@cli.group()
def feedback() -> None:
    """What people say of answers: pages to ask them, rows to train on."""


@cli.group()
def lab() -> None:
    """From a taxonomy's rows to a model that knows them."""


@cli.group()
def runs() -> None:
    """The run folders."""


@cli.group()
def taxonomy() -> None:
    """Leaves that people write, from which a teacher makes data."""
