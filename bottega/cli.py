"""The door: a static table of verbs, exit codes, and nothing heavy at import.

Left out: what the verbs do; each is a function of the library, named here as "module:function" and imported when it is
used. A function `f` that reports has a twin `f_text` in its module that says the same for people.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

from bottega import __version__
from bottega.core.errors import UserError
from bottega.workshop.interrupt import Terminated

VERBS = {
    "demo": "bottega.demo.journey:demo",
    "doctor": "bottega.workshop.doctor:doctor",
    "init": "bottega.workshop.init:init",
    "run": "bottega.workshop.stages:run",
    "eval": "bottega.workshop.use:evaluate",
    "chat": "bottega.workshop.use:chat",
    "generate": "bottega.workshop.use:generate",
    "data inspect": "bottega.workshop.data_verbs:inspect",
    "data check": "bottega.workshop.data_verbs:check",
    "data convert": "bottega.workshop.data_verbs:convert",
    "data split": "bottega.workshop.data_verbs:split",
    "data stats": "bottega.workshop.data_verbs:stats",
    "runs list": "bottega.workshop.runs:runs_list",
    "runs show": "bottega.workshop.runs:runs_show",
    "runs resume": "bottega.workshop.runs:runs_resume",
    "runs verify": "bottega.workshop.runs:runs_verify",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the code that says what happened."""
    sys.exit(door(arguments))


def door(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (requirements: 0 done, 1 check, 2 mend, 3 ... 70 our bug)."""
    signal.signal(signal.SIGTERM, _terminated)
    warnings.filterwarnings("ignore", category=FutureWarning)  # other libraries', about their own next version
    try:
        code = cli.main(args=arguments, prog_name="bottega", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.Abort as abort:  # what click makes of an interrupt
        return _stopped(abort.__cause__)
    except click.ClickException as error:
        error.show()
        return 2
    except UserError as error:
        click.echo(f"bottega: {error}", err=True)
        return error.exit_code
    except MemoryError:
        click.echo("bottega: out of memory; lower micro_tokens or max_tokens, or set checkpointing: true", err=True)
        return 6
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read us has left
        return 141
    except Exception as error:  # noqa: BLE001  the outermost door: everything left is our bug
        return _bug(error)


def _stopped(cause: BaseException | None) -> int:
    """Ctrl-C is 130, SIGTERM 143; what was saved is sound, and the same command goes on from it."""
    terminated = isinstance(cause, Terminated)
    what = "stopped by SIGTERM" if terminated else "interrupted"
    click.echo(f"bottega: {what}; the same command goes on from the last checkpoint", err=True)
    return 143 if terminated else 130


def _bug(error: Exception) -> int:
    """A disk that refuses is exit 7 wherever it surfaced; anything else is ours: traceback and where to report."""
    import traceback

    from bottega.core.errors import DiskFull
    from bottega.core.rundir import disk_errors

    if isinstance(error, OSError):
        try:
            with disk_errors():
                raise error
        except DiskFull as full:
            click.echo(f"bottega: {full}", err=True)
            return full.exit_code
        except OSError:
            pass
    traceback.print_exception(error)
    click.echo(
        f"bottega {__version__}: this is a bug in bottega, not in what you did. Please report it as an issue of the "
        "project, with the lines above and what `bottega doctor --json` prints.",
        err=True,
    )
    return 70


def _terminated(number: int, frame: object) -> None:
    raise Terminated


def call(verb: str, *, as_json: bool, **options: Any) -> Any:
    """Call a verb's function; print its result as JSON, or as text with the function's `_text` twin."""
    from bottega.core.table import resolve
    from bottega.core.textio import print_json

    result = resolve(VERBS[verb])(**options)
    if as_json:
        print_json(result.to_json() if hasattr(result, "to_json") else result)
    elif result is not None:
        click.echo(resolve(VERBS[verb] + "_text")(result))
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
def data() -> None:
    """Look at data the way the model will see it."""


@cli.group()
def runs() -> None:
    """The run folders."""


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


@verb(cli, "doctor", "bottega doctor", "bottega doctor --json")
@json_flag
def doctor_command(as_json: bool) -> int:
    """What this machine has, what works on it, what is missing and the command that mends it."""
    return call("doctor", as_json=as_json)


@verb(cli, "init", "bottega init chats.jsonl --out recipe.yaml", "bottega run recipe.yaml")
@click.argument("path", metavar="DATA")
@click.option("--out", default="recipe.yaml", show_default=True, help="The recipe's file.")
@click.option("--model", default="garzone", show_default=True, help="The model to tune.")
@format_option
@template_option
@click.option("--force", is_flag=True, help="Overwrite the recipe's file.")
@json_flag
@offline_flag
def init_command(path: str, as_json: bool, **options: Any) -> int:
    """Write a commented recipe after a look at DATA."""
    return call("init", as_json=as_json, path=path, **options)


@verb(cli, "run", "bottega run recipe.yaml --dry-run", "bottega run recipe.yaml instruct.lr=1e-4 --out runs/try-2")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE ...]")
@click.option("--out", help="The run folder; default: runs/NAME.")
@click.option("--dry-run", is_flag=True, help="Check everything and print the plan.")
@click.option("--allow-change", multiple=True, metavar="KEY", help="Go on though this recorded input changed.")
@loss_option
@click.option("--trust-code", metavar="REVISION", help="Run the model's own code at this 40-hex revision.")
@json_flag
@quiet_flag
@offline_flag
def run_command(recipe: str, as_json: bool, **options: Any) -> int:
    """Run a recipe, one stage or many; continue where it stopped."""
    return call("run", as_json=as_json, recipe=recipe, **options)


@verb(cli, "eval", "bottega eval runs/support-bot --tasks my_tasks.yaml --json")
@click.argument("model")
@click.option("--tasks", "tasks", multiple=True, required=True, metavar="T", help="A task's name or file; repeat it.")
@click.option("--limit", type=click.IntRange(1), help="At most so many items a task.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", help="Also write the scorecard to this file.")
@template_option
@json_flag
@quiet_flag
@offline_flag
def eval_command(model: str, as_json: bool, **options: Any) -> int:
    """Score a model on tasks; every score has its number of items and a 95 percent interval."""
    return call("eval", as_json=as_json, model=model, **options)


def sampling_options(function: Any) -> Any:
    """The options of `chat` and `generate`."""
    for add in (
        click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True),
        click.option("--temperature", type=click.FloatRange(0), default=0.0, show_default=True),
        click.option("--top-p", type=click.FloatRange(0, 1), default=1.0, show_default=True),
        click.option("--seed", type=int, default=0, show_default=True),
        template_option,
        offline_flag,
    ):
        function = add(function)
    return function


@verb(cli, "chat", "bottega chat runs/support-bot")
@click.argument("model")
@click.option("--system", help="A system message.")
@sampling_options
def chat_command(model: str, **options: Any) -> int:
    """Talk to a model; /reset starts over, /exit leaves."""
    return call("chat", as_json=False, model=model, **options)


@verb(cli, "generate", "bottega generate runs/support-bot --prompts prompts.jsonl --json")
@click.argument("model")
@click.option("--prompts", required=True, help="A file: jsonl (prompt or messages), or txt, one prompt a line.")
@click.option("--out", help="Write JSON lines here instead of printing.")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True)
@click.option("--raw", is_flag=True, help="Continue the text as it is, without a chat template.")
@sampling_options
@json_flag
@quiet_flag
def generate_command(model: str, as_json: bool, **options: Any) -> int:
    """Answer every prompt of a file."""
    return call("generate", as_json=as_json, model=model, **options)


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


@verb(data, "convert", "bottega data convert alpaca.json --to messages --out chats.jsonl")
@click.argument("paths", nargs=-1, required=True)
@click.option("--to", default="messages", show_default=True, help="The format to write.")
@click.option("--out", required=True, help="The file to write: .jsonl, .json or .csv.")
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


if __name__ == "__main__":
    main()
