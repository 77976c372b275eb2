"""A run is hurt at every call that changes a file, one after the other, and always ends as the run that never was (rows X1, T8).

Each point: the child does the n-th call wrongly (shim.py), `runs verify` finds nothing damaged, the same command goes on, and every
file is then, byte for byte, that of the reference: weights, optimizer, random state, data cursor, metrics, results. The slow tests take
all points of a kind, the default ones a few drawn with a seed.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from bottega.workshop.runs import runs_verify
from tests.faults.forked import Forked
from tests.faults.places import ONLINE, RECIPE, contents, inputs

WRITES = ("write", "safetensors")
CHANGES = ("open", "mkdir", "replace", "rename", "unlink", "rmdir", "ftruncate", "fsync", *WRITES)
GROWS = ("open", "mkdir", *WRITES)
WHERE = {
    "kill": CHANGES,
    "torn": WRITES,
    "EIO": CHANGES,
    "ENOSPC": GROWS,
    "EMFILE": ("open",),
    "MemoryError": CHANGES,
    "full": GROWS,
    "delay": WRITES,
}
"""The calls that a kind of fault can strike. (Killed before a call is killed after the call before it.)"""
CODES = {"kill": {-9}, "torn": {-9}, "EMFILE": {0, 2, 7}, "MemoryError": {0, 6}, "delay": {0}}
"""How the hurt process may end; the others with 7, or with 0 where it could do without (a removal, a picture)."""
SAMPLE = {"kill": 4, "torn": 2, "EIO": 2, "ENOSPC": 1, "EMFILE": 2, "MemoryError": 2, "full": 1, "delay": 1}


class Place:
    """The forking process, the recipe, the reference run and its calls."""

    def __init__(self, folder: Path, recipe: str = RECIPE) -> None:
        self.forked, self.runs = Forked(folder), folder / "w" / "runs"
        (folder / "w").mkdir()
        self.recipe = inputs(folder / "w", recipe)
        self.train("warm")
        ended, self.points = self.forked.count(*self.words("whole"), under=self.runs / "whole", without=["matplotlib"])
        assert ended.code == 0, ended.said
        self.reference = contents(self.runs / "whole")

    def words(self, name: str) -> list[str]:
        return ["run", str(self.recipe), "--out", str(self.runs / name), "--quiet"]

    def train(self, name: str, **fault) -> tuple[int, str]:
        ended = self.forked.run(*self.words(name), without=["matplotlib"], **fault)
        return ended.code, ended.said

    def numbers(self, kind: str) -> list[int]:
        """The points of a kind."""
        return [n for n, (what, _) in enumerate(self.points, 1) if what in WHERE[kind]]

    def hurt(self, at: int, kind: str) -> None:
        """One point of the loop."""
        name, what = f"{kind}-{at}", self.points[at - 1]
        out = self.runs / name
        code, said = self.train(name, at=at, kind=kind, under=out)
        assert code in CODES.get(kind, {0, 7}) and "Traceback" not in said, (what, code, said)
        if (out / "run.json").is_file():
            assert runs_verify(str(out))["problems"] == [], what
        code, said = self.train(name)
        assert code == 0, (what, said)
        found = contents(out)
        assert found.keys() == self.reference.keys(), (what, found.keys() ^ self.reference.keys())
        assert [name for name in found if found[name] != self.reference[name]] == [], what
        shutil.rmtree(out)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = Place(tmp_path_factory.mktemp("faults"))
    yield made
    made.forked.close()


@pytest.mark.parametrize("kind", SAMPLE)
def test_a_run_that_was_hurt_here_and_there_ends_as_one_that_never_was(place, kind):
    for at in random.Random(f"3 {kind}").sample(place.numbers(kind), SAMPLE[kind]):
        place.hurt(at, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WHERE)
def test_a_run_that_was_hurt_anywhere_ends_as_one_that_never_was(place, kind):
    failed = []
    for at in place.numbers(kind):
        try:
            place.hurt(at, kind)
        except AssertionError as error:
            failed.append(str(error).partition("\nassert")[0])
    assert failed == []


@pytest.mark.parametrize(
    ("objective", "points"),
    [
        ("grpo", 3),
        *(pytest.param(one, 12, marks=pytest.mark.slow) for one in ("ppo", "grpo", "online_dpo", "raft", "rloo")),
    ],
)
def test_one_that_learns_from_its_own_answers_is_killed_in_its_saves_and_ends_alike(tmp_path, objective, points):
    """Four steps in two rounds, a checkpoint each: killed before calls that write one, drawn with a seed."""
    made = Place(tmp_path, ONLINE.replace("OBJECTIVE", objective))
    try:
        saves = [n for n in made.numbers("kill") if "checkpoints" in str(made.points[n - 1][1])]
        assert len(saves) > 40
        for at in random.Random(f"5 {objective}").sample(saves, points):
            made.hurt(at, "kill")
    finally:
        made.forked.close()
