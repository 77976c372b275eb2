"""Killed and continued equals never killed, bit for bit; a flipped bit costs one checkpoint, not the run (rows T8, T9, X2)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bottega.core.errors import Unsafe
from bottega.core.rundir import verify_manifest
from bottega.train import checkpoint
from tests.models.tiny import tiny_model
from tests.train import killed
from tests.train.clients import VOCABULARY

ROOT = Path(__file__).parents[2]
KILLS = [("accumulate", 5), ("step", 8), ("save", 2), ("evaluate", 8)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_model("llama", tmp_path_factory.mktemp("llama"), vocab=VOCABULARY, attention_dropout=0.1)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(model: Path, folder: Path, objective: str, tune: str) -> None:
    killed.train(str(model), str(folder), objective, tune)


def train_until_killed(model: Path, folder: Path, objective: str, tune: str, what: str, at: int) -> None:
    command = [sys.executable, "-m", "tests.train.killed", str(model), str(folder), objective, tune, what, str(at)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]


def contents(folder: Path) -> dict[str, bytes]:
    """Everything deterministic that a training leaves: metrics and the last checkpoint, byte for byte."""
    last = checkpoint.path_of(folder / "checkpoints", 10)
    files = [folder / "metrics.jsonl", *(p for p in sorted(last.rglob("*")) if p.is_file())]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def references(llama, tmp_path_factory):
    """Uninterrupted runs, made when first asked for."""
    made = {}

    def get(objective: str, tune: str) -> dict[str, bytes]:
        if (objective, tune) not in made:
            folder = tmp_path_factory.mktemp(f"{objective}-{tune}")
            train(llama, folder, objective, tune)
            made[objective, tune] = contents(folder)
        return made[objective, tune]

    return get


def check_resume(llama, tmp_path, references, objective, tune, what, at):
    train_until_killed(llama, tmp_path, objective, tune, what, at)
    train(llama, tmp_path, objective, tune)
    found, wanted = contents(tmp_path), references(objective, tune)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []
    assert not list((tmp_path / "checkpoints").glob(".*")), "no drafts are left behind"


@pytest.mark.parametrize(
    ("objective", "tune", "what", "at"),
    [
        ("sft", "full", "accumulate", 5),
        ("dpo", "lora", "save", 2),
        ("sft:loss", "full", "save", 2),
        ("sft", "p_tuning", "save", 2),
        ("sft", "adapter", "accumulate", 5),
    ],
)
def test_killed_and_continued_equals_never_killed(llama, tmp_path, references, objective, tune, what, at):
    check_resume(llama, tmp_path, references, objective, tune, what, at)


def test_a_streamed_run_that_was_killed_ends_as_a_resident_one_that_was_not(llama, tmp_path, references):
    """The checkpoint of the streamed run (adapter, optimizer, random state) and its log are the resident run's, byte for byte."""
    train_until_killed(llama, tmp_path, "sft", "lora+stream", "accumulate", 5)
    train(llama, tmp_path, "sft", "lora+stream")
    assert contents(tmp_path) == references("sft", "lora")


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "tune"), [("dpo", "lora+stream"), ("sft", "qlora"), ("sft", "qlora+stream")])
@pytest.mark.parametrize(("what", "at"), KILLS)
def test_killed_anywhere_with_a_lean_base_equals_resident_never_killed(
    llama, tmp_path, references, objective, tune, what, at
):
    train_until_killed(llama, tmp_path, objective, tune, what, at)
    train(llama, tmp_path, objective, tune)
    assert contents(tmp_path) == references(objective, tune.removesuffix("+stream"))


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["prompt", "p_tuning", "adalora", "adapter", "ia3", "oft", "vera", "freeze"])
@pytest.mark.parametrize(("objective", "what", "at"), [("sft", "save", 2), ("dpo", "step", 8)])
def test_every_other_method_goes_on_where_it_was_killed(llama, tmp_path, references, objective, tune, what, at):
    check_resume(llama, tmp_path, references, objective, tune, what, at)


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["full", "lora"])
@pytest.mark.parametrize("objective", ["pretrain", "sft", "dpo"])
@pytest.mark.parametrize(("what", "at"), KILLS)
def test_killed_anywhere_and_continued_equals_never_killed(llama, tmp_path, references, objective, tune, what, at):
    check_resume(llama, tmp_path, references, objective, tune, what, at)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["shards", "mixture", "schedule", "length", "loss"])
@pytest.mark.parametrize(("what", "at"), KILLS)
def test_every_source_goes_on_where_it_was_killed(llama, tmp_path, references, source, what, at):
    check_resume(llama, tmp_path, references, f"sft:{source}", "full", what, at)


class Died(Exception):
    """Instead of SIGKILL: what is on the disk is all that the next process has, and this costs no process."""


def die() -> None:
    raise Died


IN_FILES = {"optimizer_states": "file", "saved_activations": "file"}
INSIDE = {"step_in_backward": True, "clip": 0.0, "spikes": "warn", "micro_tokens": 10_000}
OPTIMIZERS = {
    "adamw8bit": {"optimizer": "adamw8bit"},
    "lion": {"optimizer": "lion", "lr": 1e-3, "beta2": 0.99},
    "muon": {"optimizer": "muon"},
    "adafactor": {"optimizer": "adafactor"},
    "schedule_free": {"optimizer": "schedule_free", "schedule": "constant"},
    "sgd": {"optimizer": "sgd", "schedule": "inverse_root"},
}
PRECISIONS = {name: {"precision": name} for name in ("bf16", "bf16-true", "fp16")}
"""fp16 starts at a scale at which the first steps overflow, so that what is put back is not what a new run has."""
PRECISIONS["fp16"]["loss_scale"] = 2.0**19
OTHERS = {"in files": IN_FILES, "step in backward": INSIDE, "recompute": {"checkpointing": True, "recompute_every": 2}}


def check_stopped(llama, folder, tune, at, objective="sft", **settings):
    """Stopped before the optimizer's step `at` (the newest checkpoint may be steps back), then continued."""
    killed.train(str(llama), str(folder / "whole"), objective, tune, **settings)
    wanted = contents(folder / "whole")
    with pytest.raises(Died):
        killed.train(str(llama), str(folder / "cut"), objective, tune, "step", at, die, **settings)
    killed.train(str(llama), str(folder / "cut"), objective, tune, **settings)
    found = contents(folder / "cut")
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []


@pytest.mark.parametrize("at", [5, 9])
def test_adaloras_ranks_go_on_in_the_middle_and_after_the_last_cut(llama, tmp_path, at):
    """Of ten steps the seventh is the last cut: importances are remembered before, what is kept after."""
    check_stopped(llama, tmp_path, "adalora", at)


@pytest.mark.parametrize("name", [*OPTIMIZERS, *PRECISIONS, *OTHERS])
def test_every_optimizer_and_precision_continues_bit_for_bit(llama, tmp_path, name):
    if name == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    check_stopped(llama, tmp_path, "full", 7, **(OPTIMIZERS | PRECISIONS | OTHERS)[name])


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("tune", ["full", "lora"])
def test_every_optimizer_in_every_precision_continues_bit_for_bit(llama, tmp_path, tune, optimizer, precision):
    pytest.importorskip("bitsandbytes")
    check_stopped(llama, tmp_path, tune, 7, **OPTIMIZERS[optimizer], **PRECISIONS[precision], **IN_FILES)


@pytest.mark.parametrize(
    ("objective", "tune"),
    [
        ("reward", "lora"),
        ("kto", "lora"),
        ("orpo", "full"),
        ("simpo", "lora"),
        ("cpo", "lora"),
        ("distil", "lora"),
    ],
)
def test_every_objective_from_preferences_continues_bit_for_bit(llama, tmp_path, objective, tune):
    check_stopped(llama, tmp_path, tune, 7, objective)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_is_named_and_the_previous_checkpoint_is_used(llama, tmp_path, references):
    """Checkpoints of steps 9 and 10 are kept; one bit of step 10's weights changes; the run goes on from 9 to the same end."""
    train(llama, tmp_path, "sft", "full")
    folder = tmp_path / "checkpoints"
    assert checkpoint.steps_in(folder) == [9, 10]
    flip(checkpoint.path_of(folder, 10) / "model" / "model.safetensors")
    (problem,) = verify_manifest(checkpoint.path_of(folder, 10))
    assert "model.safetensors" in problem and problem.count("sha256") == 1 and "expected" in problem
    notes: list[str] = []
    assert checkpoint.newest_good(folder, notes.append) == checkpoint.path_of(folder, 9)
    assert "step 10 is damaged" in notes[0] and "1 steps are lost" in notes[1]
    train(llama, tmp_path, "sft", "full")
    assert contents(tmp_path) == references("sft", "full")


def test_when_all_checkpoints_are_damaged_the_run_stops_instead_of_starting_again(llama, tmp_path):
    train(llama, tmp_path, "sft", "full")
    for step in (9, 10):
        flip(checkpoint.path_of(tmp_path / "checkpoints", step) / "state" / "optimizer.safetensors")
    with pytest.raises(Unsafe, match="all 2 checkpoints"):
        checkpoint.newest_good(tmp_path / "checkpoints", lambda line: None)


def test_a_checkpoint_is_a_folder_that_plain_transformers_loads_and_holds_no_pickle(llama, tmp_path):
    from transformers import AutoModelForCausalLM

    train(llama, tmp_path, "sft", "full")
    path = checkpoint.path_of(tmp_path / "checkpoints", 10)
    AutoModelForCausalLM.from_pretrained(path / "model")
    kinds = {p.suffix for p in path.rglob("*") if p.is_file()}
    assert kinds <= {".safetensors", ".json", ".jinja"}
