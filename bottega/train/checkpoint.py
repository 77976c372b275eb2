"""Checkpoints: a model folder anyone can load, the training state beside it, and a manifest of sha256 over both.

Left out: sharded states. A checkpoint appears whole (written aside, synced, renamed) or not at all; there is no pickle in it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bottega.core.errors import Unsafe
from bottega.core.rundir import disk_errors, publish, read_json, verify_manifest, write_json, write_manifest
from bottega.train.optim import Optimizer

PREFIX = "step-"


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies."""
    return folder / f"{PREFIX}{step:07d}"


def step_of(path: Path) -> int:
    """The step that a checkpoint's folder is named after."""
    return int(path.name.removeprefix(PREFIX))


def steps_in(folder: Path) -> list[int]:
    """Steps that have a checkpoint, oldest first."""
    return sorted(step_of(p) for p in folder.glob(f"{PREFIX}*") if p.is_dir())


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that learn, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def save(
    folder: Path,
    step: int,
    *,
    scorer: nn.Module,
    optimizer: Optimizer,
    save_model: Callable[[str], None],
    loop: Mapping[str, Any],
) -> Path:
    """Write the checkpoint of `step`.

    Args:
        save_model: writes the model folder (weights, adapter, tokenizer). loop: the loop's state, JSON.

    Raises:
        DiskFull: no space; nothing of the new checkpoint is left.
    """
    final = path_of(folder, step)
    draft = folder / f".{final.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with disk_errors(folder):
            (draft / "state").mkdir(parents=True)
            with optimizer.averaged():
                save_model(str(draft / "model"))
            names = trainable(scorer)
            rest = {n: p.detach().contiguous() for n, p in names.items() if not _held(draft / "model", n, p)}
            if rest:
                save_file(rest, draft / "state" / "weights.safetensors")
            save_file(_optimizer_tensors(optimizer, names), draft / "state" / "optimizer.safetensors")
            save_file(random_state(), draft / "state" / "random.safetensors")
            write_json(draft / "state" / "loop.json", dict(loop))
            write_manifest(draft)
            publish(draft, final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return final


def restore(path: Path, *, scorer: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Put weights, optimizer and random state back as `path` has them; returns the loop's state.

    Parameters that do not learn now but are in the model folder come back too: they may have learned before (LISA).
    """
    names = trainable(scorer)
    stored: dict[str, Tensor] = {}
    extra = path / "state" / "weights.safetensors"
    if extra.exists():
        stored = load_file(extra)
    with torch.no_grad():
        for name, parameter in scorer.named_parameters():
            value = stored[name] if name in stored else _read(path / "model", name)
            if value is not None:
                parameter.copy_(value)
            elif name in names:
                raise Unsafe(f"{path} does not hold the weight {name!r}: the checkpoint is not of this model")
    states = load_file(path / "state" / "optimizer.safetensors")
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, tensor in states.items():
        name, _, kind = key.rpartition("|")
        by_name.setdefault(name, {})[kind] = tensor
    optimizer.state.clear()
    for name, state in by_name.items():
        optimizer.load(names[name], state)
    set_random_state(load_file(path / "state" / "random.safetensors"))
    return read_json(path / "state" / "loop.json")


def newest_good(folder: Path, note: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose every byte is as its manifest says; damaged ones are named and passed over.

    Raises:
        Unsafe: there are checkpoints, and all are damaged.
    """
    for draft in folder.glob(f".{PREFIX}*"):
        shutil.rmtree(draft, ignore_errors=True)
    steps = steps_in(folder)
    for step in reversed(steps):
        problems = verify_manifest(path_of(folder, step))
        if not problems:
            if step != steps[-1]:
                note(f"continuing from step {step}: {steps[-1] - step} steps are lost and will be done again")
            return path_of(folder, step)
        note(f"checkpoint of step {step} is damaged: {problems[0]}")
    if steps:
        raise Unsafe(
            f"all {len(steps)} checkpoints in {folder} are damaged: remove the folder to start again, or restore a backup"
        )
    return None


def prune(folder: Path, *, keep: int, spare: Iterable[int]) -> None:
    """Remove all but the newest `keep` checkpoints; steps in `spare` (the best, pinned ones) stay."""
    steps = steps_in(folder)
    for step in steps[: max(0, len(steps) - keep)]:
        if step not in set(spare):
            shutil.rmtree(path_of(folder, step))


def random_state() -> dict[str, Tensor]:
    """torch's random state, of the CPU and of each CUDA device."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state |= {f"cuda{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Put a state of `random_state` back."""
    torch.set_rng_state(state["cpu"])
    for name, value in state.items():
        if name.startswith("cuda"):
            torch.cuda.set_rng_state(value, int(name.removeprefix("cuda")))


def _optimizer_tensors(optimizer: Optimizer, names: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    by_parameter = {id(p): name for name, p in names.items()}
    return {
        f"{by_parameter[id(p)]}|{kind}": value.detach().contiguous()
        for p, state in optimizer.state.items()
        for kind, value in state.items()
        if isinstance(value, Tensor) and id(p) in by_parameter
    }


def _stem(name: str) -> str:
    """The Scorer's name of a parameter without the Scorer's own prefix: what the model folder calls it."""
    return name.removeprefix("model.")


def _held(model_folder: Path, name: str, parameter: nn.Parameter) -> bool:
    """Does the model folder hold this very tensor under the model's own name?"""
    for file in model_folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            if _stem(name) in tensors.keys():  # noqa: SIM118
                return torch.equal(tensors.get_tensor(_stem(name)), parameter.detach().cpu())
    return False


def _read(model_folder: Path, name: str) -> Tensor | None:
    for file in model_folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            if _stem(name) in tensors.keys():  # noqa: SIM118
                return tensors.get_tensor(_stem(name))
    return None
