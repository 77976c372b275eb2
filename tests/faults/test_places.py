"""Odd places and surroundings of a run (row X5), and the other verbs that write, killed at each write: whole or absent (row X1).

A run in each of them is stopped by a kill in the middle and goes on; its files are those of a plain run.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bottega.workshop.runs import runs_verify
from tests.faults.forked import Forked
from tests.faults.places import contents, inputs

DAY = 86_400


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Inputs, the forking process, and a plain run with its calls."""
    folder = tmp_path_factory.mktemp("places")
    forked, recipe = Forked(folder), None
    (folder / "w").mkdir()
    recipe = inputs(folder / "w")
    plain = folder / "w" / "runs" / "plain"
    forked.run("run", recipe, "--out", plain, "--quiet", without=["matplotlib"])
    shutil.rmtree(plain)
    ended, points = forked.count("run", recipe, "--out", plain, "--quiet", under=plain, without=["matplotlib"])
    assert ended.code == 0, ended.said
    yield folder / "w", forked, contents(plain), points
    forked.close()


def go(base, out: Path, *, under: Path | None = None, first: dict | None = None, then: dict | None = None) -> None:
    """Run into `out`, killed half-way, and go on; `first` and `then`: the surroundings of the two."""
    folder, forked, wanted, points = base
    words = ["run", folder / "f.yaml", "--out", out, "--quiet"]
    plain = {"without": ["matplotlib"]}
    ended = forked.run(*words, at=len(points) // 2, kind="kill", under=under or out, **plain | (first or {}))
    assert ended.code == -9, ended.said
    assert runs_verify(str(out))["problems"] == []
    ended = forked.run(*words, **plain | (then or {}))
    assert ended.code == 0, ended.said
    assert contents(out) == wanted


@pytest.mark.parametrize(
    "name", ["a name with spaces", "työpaja-ä", "two\nlines", "quotes'\"$(x)`;", "n" * 200, "%s{}[*]?"]
)
def test_a_run_lives_in_a_folder_of_any_name(base, name):
    go(base, base[0] / "runs" / name)


def test_a_name_that_the_system_does_not_take_is_refused_in_one_sentence(base):
    folder, forked, *_ = base
    ended = forked.run("run", folder / "f.yaml", "--out", folder / "runs" / ("n" * 300), "--quiet")
    assert ended.code == 2 and "the name is too long" in ended.said and "Traceback" not in ended.said


@pytest.mark.parametrize("shift", [-DAY, DAY], ids=["back a day", "on a day"])
def test_a_clock_that_jumps_changes_nothing(base, shift):
    go(base, base[0] / "runs" / f"clock{shift}", then={"clock": shift})


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("env", [ASCII, {"LC_ALL": "tr_TR.UTF-8"}], ids=["C", "tr"])
def test_an_odd_locale_changes_nothing(base, env):
    """A fresh interpreter, for it reads these when it starts; where file names can have an ä, one has."""
    folder = base[0]
    out = folder / "runs" / ("plain-c" if env is ASCII else "työ")
    done = fresh(env, "run", folder / "f.yaml", "--out", out, "--quiet")
    assert done.returncode == 0, done.stderr
    found = {name: value for name, value in contents(out).items() if not name.endswith("curve.png")}
    assert found == base[2]


def test_a_name_that_the_locale_cannot_say_is_refused_in_one_sentence(base):
    done = fresh(ASCII, "run", base[0] / "f.yaml", "--out", base[0] / "runs" / "yö", "--quiet")
    assert done.returncode == 2 and b"in the ascii" in done.stderr and b"PYTHONUTF8" in done.stderr
    assert b"Traceback" not in done.stderr and not (base[0] / "runs" / "yö").exists()


def fresh(env: dict[str, str], *words: object) -> subprocess.CompletedProcess[bytes]:
    """The command line in an interpreter of its own."""
    command = [sys.executable, "-m", "bottega.cli", *map(str, words)]
    return subprocess.run(command, env=os.environ | env | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=False)


def test_a_run_folder_may_be_a_link_and_nobody_else_may_need_to_read_it(base, tmp_path):
    """The link and its aim are at the same depth, for the recipe that is written says how its data is reached from it."""
    folder = base[0]
    (folder / "elsewhere" / "aim").mkdir(parents=True)
    out = folder / "runs" / "link"
    out.symlink_to(folder / "elsewhere" / "aim")
    go(base, out, under=folder / "runs" / "link", first={"umask": 0o077}, then={"umask": 0o077})
    kept = [path for path in (folder / "elsewhere" / "aim").rglob("*") if path.is_file()]
    assert kept and not [path for path in kept if path.stat().st_mode & 0o077 and path.suffix != ".safetensors"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_cannot_be_written_is_exit_7(base):
    folder, forked, *_ = base
    closed = folder / "closed"
    closed.mkdir(mode=0o500)
    ended = forked.run("run", folder / "f.yaml", "--out", closed / "run", "--quiet")
    assert ended.code == 7 and "choose a folder that you can write" in ended.said


def test_a_second_run_is_told_who_holds_the_folder_and_a_dead_holder_is_replaced(base):
    from bottega.core import rundir

    folder, forked, wanted, _ = base
    out = folder / "runs" / "held"
    words = ["run", folder / "f.yaml", "--out", out, "--quiet"]
    with rundir.lock(out):
        ended = forked.run(*words)
        assert ended.code == 8 and f"process {os.getpid()} on" in ended.said and ended.said.count("\n") == 1
    (out / ".lock").write_text(json.dumps({"pid": 1, "host": "a-machine-that-died", "since": time.ctime()}))
    assert forked.run(*words, without=["matplotlib"]).code == 0
    assert contents(out) == wanted


VERBS = {
    "convert": ["data", "convert", "chats.jsonl", "--out", "out/c.jsonl"],
    "convert mds": ["data", "convert", "chats.jsonl", "--out", "out/c.mds"],
    "clean": ["data", "clean", "chats.jsonl", "--out", "out/clean"],
    "split": ["data", "split", "chats.jsonl", "--out", "out/split"],
    "init": ["init", "chats.jsonl", "--out", "out/r.yaml"],
    "gc": ["runs", "gc", "out/done", "--remove"],
    "shards": ["run", "f.yaml", "instruct.shards=true", "align.shards=true", "--out", "out/r", "--quiet"],
}


def written(folder: Path) -> dict[str, str]:
    """What a verb leaves for others, without the hidden drafts of a killed one.

    Of a new recipe all but the line that says what fits, for it tells what is free at that moment.
    """
    found = contents(folder)
    if (made := folder / "r.yaml").is_file():
        found["r.yaml"] = "\n".join(line for line in made.read_text().splitlines() if " GB " not in line)
    return {name: value for name, value in found.items() if not any(p.startswith(".") for p in Path(name).parts)}


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_that_is_killed_at_a_write_leaves_whole_files_and_ends_the_same_when_it_is_asked_again(base, name):
    """Three points of each, drawn; every file that is there is one of a whole call's, or (gc) was there before."""
    folder, forked, *_ = base
    out = folder / "out"

    def fresh() -> dict[str, str]:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        if name == "gc":
            shutil.copytree(folder / "runs" / "plain", out / "done")
        return written(out)

    surroundings = {"cwd": str(folder), "env": {"BOTTEGA_CACHE": str(out / "cache")}, "without": ["matplotlib"]}
    before = fresh()
    ended, points = forked.count(*VERBS[name], under=out, **surroundings)
    assert ended.code == 0, ended.said
    wanted = written(out)
    for at in random.Random(name).sample(range(1, len(points) + 1), min(3, len(points))):
        fresh()
        ended = forked.run(*VERBS[name], at=at, kind="torn", under=out, **surroundings)
        assert ended.code == -9, (points[at - 1], ended.said)
        if name != "shards":  # a run appends to its logs and removes old checkpoints as it goes
            there = written(out)
            assert [n for n in there if there[n] not in (wanted.get(n), before.get(n))] == [], points[at - 1]
        ended = forked.run(*VERBS[name], *(["--force"] if name == "init" else []), **surroundings)
        there_already = name == "convert mds" and "holds shards already" in ended.said  # killed when all was written
        assert ended.code == (2 if there_already else 0), (points[at - 1], ended.said)
        assert written(out) == wanted, points[at - 1]
