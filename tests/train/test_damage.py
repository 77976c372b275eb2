"""Damage to checkpoints is named with both hashes and costs steps, never the run; the good one goes last (rows X2, T9)."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from bottega.core.errors import Unsafe
from bottega.core.rundir import sha256
from bottega.train import checkpoint
from bottega.train.pins import pinned, write_pins
from bottega.train.scoring import with_reference
from tests.models.tiny import tiny_model
from tests.train.clients import VOCABULARY, make_loop, rows, weights

WEIGHTS, STATE = "model/model.safetensors", "state/optimizer.safetensors"


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_model("llama", tmp_path_factory.mktemp("llama"), vocab=VOCABULARY)


def loop_in(llama, folder, **settings):
    defaults = {"steps": 6, "lr": 1e-3, "optimizer": "adamw", "save_every": 2}
    return make_loop(llama, folder, **defaults | settings)


@pytest.fixture(scope="module")
def finished(llama, tmp_path_factory):
    """A run of six steps with the checkpoints of 4 and 6, and its last weights."""
    folder = tmp_path_factory.mktemp("finished")
    loop = loop_in(llama, folder)
    loop.run()
    return folder, weights(loop)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(path):
    other = path.parents[1] / WEIGHTS
    aside = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(aside)


DAMAGE = {
    "flipped": (STATE, flip, 2),
    "truncated": (WEIGHTS, lambda path: path.write_bytes(path.read_bytes()[:-7]), 2),
    "deleted": (STATE, lambda path: path.unlink(), 1),
    "swapped": (STATE, swap, 4),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_is_named_with_both_hashes_and_the_checkpoint_before_goes_on_to_the_same_end(
    llama, finished, tmp_path, how
):
    """Hashes named: found and expected of one file; of a deleted one, what was expected; of two swapped ones, four."""
    name, damage, hashes = DAMAGE[how]
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    newest = checkpoint.path_of(folder / "checkpoints", 6)
    expected = json.loads((newest / "MANIFEST.json").read_text())["files"][name]["sha256"]
    damage(newest / name)
    loop, notes = loop_in(llama, folder), []
    loop.progress.note = notes.append
    loop.run()
    (said,) = [note for note in notes if "step 6 is damaged" in note]
    assert (
        expected in said
        and len([word for word in said.replace(";", " ").split() if len(word.strip(",)")) == 64]) == hashes
    )
    if how in ("flipped", "truncated"):
        assert sha256(checkpoint.path_of(folder / "checkpoints", 4) / name) != expected
    assert any("continuing from step 4: 2 steps are lost" in note for note in notes)
    assert all(torch.equal(value, finished[1][n]) for n, value in weights(loop).items())
    assert not checkpoint.verify_manifest(newest), "the damaged one was replaced"


def test_a_checkpoint_under_another_steps_name_is_damage_too(finished, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(finished[0] / "checkpoints", folder)
    checkpoint.path_of(folder, 6).rename(checkpoint.path_of(folder, 8))
    notes: list[str] = []
    assert checkpoint.newest_good(folder, notes.append) == checkpoint.path_of(folder, 4)
    assert "holds step 6" in notes[0] and "4 steps are lost" in notes[1]


@pytest.mark.parametrize("name", ["MANIFEST.json", STATE])
def test_when_all_are_damaged_it_is_exit_4_and_nothing_starts_again(llama, finished, tmp_path, name):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    for step in (4, 6):
        (checkpoint.path_of(folder / "checkpoints", step) / name).write_bytes(b"{}")
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(Unsafe, match="all 2 checkpoints") as caught:
        loop_in(llama, folder).run()
    assert caught.value.exit_code == 4 and (folder / "metrics.jsonl").read_bytes() == before


def test_pinned_steps_are_saved_and_stay(llama, tmp_path):
    """keep 1 of every second step; step 3 is pinned in the recipe, step 2 by hand while the run stands still."""
    loop_in(llama, tmp_path, steps=2, keep=1, pin=(3,)).run()
    write_pins(tmp_path / "checkpoints", [2])
    loop_in(llama, tmp_path, keep=1, pin=(3,)).run()
    assert checkpoint.steps_in(tmp_path / "checkpoints") == [2, 3, 6]
    assert pinned(tmp_path / "checkpoints") == {2, 3}, "what clears old runs reads the same file"


def test_the_good_one_stays_when_the_newest_did_not_reach_the_disk(llama, tmp_path):
    """The file is flipped between writing and pruning, as a bad disk would: steps 2 and 4 stay beside 6."""
    loop, notes = loop_in(llama, tmp_path, keep=1), []
    loop.progress.note = notes.append
    loop.run()
    assert checkpoint.steps_in(tmp_path / "checkpoints") == [6]
    shutil.copytree(checkpoint.path_of(tmp_path / "checkpoints", 6), checkpoint.path_of(tmp_path / "checkpoints", 4))
    flip(checkpoint.path_of(tmp_path / "checkpoints", 6) / WEIGHTS)
    checkpoint.prune(tmp_path / "checkpoints", keep=1, spare=[], note=notes.append)
    assert checkpoint.steps_in(tmp_path / "checkpoints") == [4, 6] and "older checkpoints are kept" in notes[-1]


def test_what_a_killed_run_had_not_yet_removed_is_removed_when_it_goes_on(llama, tmp_path):
    """As after a kill between the checkpoint of step 6 and the removal of that of step 4; one that is pinned stays."""
    loop_in(llama, tmp_path, keep=3).run()
    assert checkpoint.steps_in(tmp_path / "checkpoints") == [2, 4, 6]
    write_pins(tmp_path / "checkpoints", {2})
    loop_in(llama, tmp_path, keep=1).run()
    assert checkpoint.steps_in(tmp_path / "checkpoints") == [2, 6]


@pytest.mark.parametrize("damage", [flip, lambda path: path.write_bytes(path.read_bytes()[:-7])])
def test_a_damaged_cache_of_reference_scores_is_made_again(llama, tmp_path, damage):
    loop, cache, said = make_loop(llama, tmp_path, objective="dpo", kind="branches"), tmp_path / "ref.safetensors", []

    def scored():
        found = with_reference(
            loop.parts, rows("branches"), micro_tokens=60, cache=cache, key="rows", note=lambda line: said.append(line)
        )
        return [row.tokens["ref.logp"].tolist() for row in found]

    wanted, whole = scored(), cache.read_bytes()
    assert scored() == wanted and len(said) == 1, "kept"
    damage(cache)
    assert scored() == wanted and len(said) == 2 and cache.read_bytes() == whole, "made again, to the same bytes"
