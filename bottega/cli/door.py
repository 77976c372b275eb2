"""The door itself: runs the command line and turns what happened into an exit code.

Left out: the verbs and what they do.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence

import click

from bottega import __version__
from bottega.cli.parts import cli
from bottega.core.errors import Followed, UserError
from bottega.workshop.interrupt import Terminated


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the code that says what happened."""
    sys.exit(door(arguments))


def door(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (requirements: 0 done, 1 check, 2 mend, 3 ... 70 our bug)."""
    signal.signal(signal.SIGTERM, _terminated)
    warnings.filterwarnings("ignore", category=FutureWarning)  # other libraries', about their own next version
    logging.getLogger("bitsandbytes").setLevel(
        logging.ERROR
    )  # PEFT imports it where it is installed; it lacks a kernel
    try:
        _check_names(sys.argv[1:] if arguments is None else arguments)
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
        if not isinstance(error, Followed):
            click.echo(f"bottega: {error}", err=True)
        return error.exit_code
    except MemoryError:
        return _no_memory()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read us has left
        return 141
    except Exception as error:  # noqa: BLE001  the outermost door: everything left is our bug
        return _bug(error)


def _check_names(arguments: Sequence[str]) -> None:
    """Names that Python could not decode are refused here, for the libraries in Rust that get them cannot."""
    for name in (*arguments, os.getcwd()):
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            encoding = sys.getfilesystemencoding()
            raise UserError(
                f"{name.encode(errors='replace').decode()} is no name in the {encoding} that this locale gives to files; "
                "set PYTHONUTF8=1, or a locale of UTF-8 such as LC_ALL=C.UTF-8, or choose another name"
            )


def _stopped(cause: BaseException | None) -> int:
    """Ctrl-C is 130, SIGTERM 143; what was saved is sound, and the same command goes on from it."""
    terminated = isinstance(cause, Terminated)
    what = "stopped by SIGTERM" if terminated else "interrupted"
    click.echo(f"bottega: {what}; the same command goes on from the last checkpoint", err=True)
    return 143 if terminated else 130


def _no_memory() -> int:
    click.echo("bottega: out of memory; lower micro_tokens or max_tokens, or set checkpointing: true", err=True)
    return 6


def _bug(error: Exception) -> int:
    """A disk or system that refuses has its own exit code; anything else is ours: traceback and where to report."""
    import traceback

    from bottega.core.refusals import disk_errors

    if isinstance(error, OSError):
        try:
            with disk_errors():
                raise error
        except UserError as refused:
            click.echo(f"bottega: {refused}", err=True)
            return refused.exit_code
        except MemoryError:
            return _no_memory()
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
