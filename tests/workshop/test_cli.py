"""The door: start-up, help, exit codes, one line for a user's mistake, a traceback for ours."""

import json
import re
import subprocess
import sys

import click
import pytest

from bottega import cli
from bottega.core import errors, table


def run(*arguments, cwd=None):
    return subprocess.run([sys.executable, "-m", "bottega.cli", *arguments], capture_output=True, text=True, cwd=cwd)


LIGHT = """
import resource, sys
from bottega.cli import door
code = door(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
heavy = [m for m in ("torch", "transformers", "numpy", "pydantic", "peft", "rich", "yaml") if m in sys.modules]
print(code, used.ru_utime + used.ru_stime, heavy, file=sys.stderr)
"""


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_come_at_once_and_import_nothing_heavy(flag):
    done = subprocess.run([sys.executable, "-c", LIGHT, flag], capture_output=True, text=True)
    code, seconds, heavy = done.stderr.split(maxsplit=2)
    assert (code, heavy.strip()) == ("0", "[]") and float(seconds) < 0.3
    assert "bottega" in done.stdout


def commands(group=cli.cli, prefix=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*prefix, name))
        else:
            yield (*prefix, name), command


def test_every_verb_has_help_with_a_worked_example_and_its_options_explained():
    for path, command in commands():
        assert command.help and "bottega " + " ".join(path) in command.epilog, path


def test_every_verb_that_reports_has_json():
    for path, command in commands():
        names = {name for parameter in command.params for name in parameter.opts}
        assert "--json" in names or path in (("chat",), ("serve",), ("feedback", "serve")), path


def test_the_table_of_verbs_is_the_commands_and_each_names_a_function_with_its_options():
    assert {" ".join(path) for path, _ in commands()} == set(cli.VERBS)
    for verb, target in cli.VERBS.items():
        if verb != "demo":
            assert callable(table.resolve(target)), verb
            assert verb in ("chat", "serve", "feedback serve") or callable(table.resolve(target + "_text")), verb


def test_a_user_s_mistake_is_one_line_and_its_own_exit_code(capsys):
    for kind in (errors.CheckFailed, errors.Mismatch, errors.Unsafe, errors.FolderInUse):
        assert door_with(kind("that is so")) == kind.exit_code
        assert capsys.readouterr().err == "bottega: that is so\n"


def test_anything_else_is_our_bug_with_a_traceback_and_where_to_report(capsys):
    assert door_with(RuntimeError("boom")) == 70
    shown = capsys.readouterr().err
    assert "Traceback" in shown and "boom" in shown and "report" in shown


def test_interrupts_full_disks_and_memory_have_their_codes(capsys):
    assert door_with(KeyboardInterrupt()) == 130
    assert door_with(cli.Terminated()) == 143
    assert door_with(OSError(28, "No space left on device")) == 7
    assert door_with(MemoryError()) == 6
    capsys.readouterr()


def door_with(error):
    """The exit code of the door when a verb raises `error`."""

    @cli.cli.command("raise-for-test")
    def raising():
        raise error

    try:
        return cli.door(["raise-for-test"])
    finally:
        del cli.cli.commands["raise-for-test"]


def test_an_unknown_verb_and_an_unknown_option_are_exit_2(tmp_path):
    assert cli.door(["runn"]) == 2 and cli.door(["run", "--nope"]) == 2


def test_a_missing_recipe_is_named_and_the_near_one_offered(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("a: 1")
    assert cli.door(["run", str(tmp_path / "recpe.yaml")]) == 2
    assert re.search(r"no recipe .*recpe\.yaml; did you mean recipe\.yaml\?", capsys.readouterr().err)


def test_offline_is_said_to_every_library(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    cli.door(["--offline", "runs", "list", "--root", str(tmp_path)])
    import os

    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_json_is_one_document_and_nothing_else(tmp_path, capsys):
    assert cli.door(["runs", "list", "--root", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_mistake_in_a_recipe_is_told_before_torch_is_imported(tmp_path):
    (tmp_path / "bad.yaml").write_text("name: x\nmodel: garzone\nname: y\n")
    code = "import sys; from bottega.cli import door; c = door(['run', 'bad.yaml']); print(c, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["2", "False"]
    assert done.stderr == "bottega: bad.yaml:3:1: the key 'name' is given twice (first at bad.yaml:1:1)\n"


WAIT = """
import time
from bottega import cli

@cli.cli.command("wait")
def wait():
    print("up", flush=True)
    time.sleep(30)

cli.main(["wait"])
"""


def test_sigterm_ends_with_143(tmp_path):
    import signal
    import time

    child = subprocess.Popen([sys.executable, "-c", WAIT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "up\n"
    time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    assert child.wait(10) == 143 and "SIGTERM" in child.stderr.read()
