"""Checkpoints: a model folder anyone can load, the training state beside it, and a manifest of sha256 over both.

Left out: a format of its own for sharded states: shards are put together one tensor after the other, so that what N ranks saved
any number can load. A checkpoint appears whole (written aside, synced, renamed) or not at all; there is no pickle in it.
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

from bottega.core import devices
from bottega.core.errors import Unsafe
from bottega.core.rundir import disk_errors, publish, read_json, verify_manifest, write_json, write_manifest
from bottega.train import sharded
from bottega.train.optim import Optimizer
from bottega.train.pins import pinned

PREFIX, METHOD = "step-", "method.safetensors"
PART_BYTES = 4 << 30
"""Optimizer states are held back and written in files of about this size: what rank 0 holds of them at once."""


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
    writes: bool = True,
    method: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write the checkpoint of `step`.

    Args:
        save_model: writes the model folder (weights, adapter, tokenizer). loop: the loop's state, JSON.
        method: tensors that the method goes on from (Adapting.remember).
        writes: False on the ranks that only bring their shards (all call it where weights are sharded, else rank 0 alone).

    Raises:
        DiskFull: no space; nothing of the new checkpoint is left.
    """
    final = path_of(folder, step)
    draft = folder / f".{final.name}.draft"
    names = trainable(scorer)
    if not writes:
        _save_weights(None, scorer=scorer, optimizer=optimizer, save_model=save_model)
        for _ in sharded.states(optimizer, names):
            pass
        return final
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with disk_errors(folder):
            (draft / "state").mkdir(parents=True)
            _save_weights(draft, scorer=scorer, optimizer=optimizer, save_model=save_model)
            _save_states(sharded.states(optimizer, names), draft / "state")
            save_file(devices.random_state(), draft / "state" / "random.safetensors")
            if method:
                save_file(dict(method), draft / "state" / METHOD)
            write_json(draft / "state" / "loop.json", dict(loop))
            write_manifest(draft)
            publish(draft, final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return final


def _save_weights(
    draft: Path | None, *, scorer: nn.Module, optimizer: Optimizer, save_model: Callable[[str], None]
) -> None:
    """The model folder and what of the weights it does not hold; without a draft this rank only brings its shards."""
    here = draft is not None
    averages = any(hasattr(group["rule"], "average") for group in optimizer.param_groups)
    with optimizer.averaged(), sharded.whole(scorer, here=here):
        if draft is not None:
            save_model(str(draft / "model"))
            if not averages:
                _save_rest(draft, scorer)
    if averages:  # the weights that are trained are others than those in the model folder
        with sharded.whole(scorer, here=here):
            if draft is not None:
                _save_rest(draft, scorer)


def _save_rest(draft: Path, scorer: nn.Module) -> None:
    rest = {n: p.detach().contiguous() for n, p in trainable(scorer).items() if not _held(draft / "model", n, p)}
    if rest:
        save_file(rest, draft / "state" / "weights.safetensors")


def _save_states(states: Iterable[tuple[str, Tensor]], folder: Path) -> None:
    """optimizer.safetensors, and optimizer-2.safetensors ... where there is more than `PART_BYTES`."""
    held: dict[str, Tensor] = {}
    number = size = 0
    for name, tensor in states:
        held[name] = tensor.cpu()
        size += tensor.numel() * tensor.element_size()
        if size >= PART_BYTES:
            number += 1
            save_file(held, _states_file(folder, number))
            held, size = {}, 0
    if held or not number:
        save_file(held, _states_file(folder, number + 1))


def _states_file(folder: Path, number: int) -> Path:
    return folder / ("optimizer.safetensors" if number == 1 else f"optimizer-{number}.safetensors")


def restore(path: Path, *, scorer: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Put weights, optimizer and random state back as `path` has them; returns the loop's state.

    Parameters that do not learn now but are in the model folder come back too: they may have learned before (LISA). Where
    weights are sharded, each rank reads the whole of one tensor after the other and keeps its part.
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
                parameter.copy_(sharded.cut_like(parameter, value.to(parameter.dtype)))
            elif name in names:
                raise Unsafe(f"{path} does not hold the weight {name!r}: the checkpoint is not of this model")
    optimizer.state.clear()
    by_name: dict[str, dict[str, Tensor]] = {}
    for file in sorted((path / "state").glob("optimizer*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                name, _, kind = key.rpartition("|")
                value = tensors.get_tensor(key)
                cut = value.shape == names[name].shape
                by_name.setdefault(name, {})[kind] = sharded.cut_like(names[name], value) if cut else value
    for name, state in by_name.items():
        optimizer.load(names[name], state)
    devices.set_random_state(load_file(path / "state" / "random.safetensors"))
    return read_json(path / "state" / "loop.json")


def method_state(path: Path) -> dict[str, Tensor]:
    """What the method wrote into a checkpoint; nothing where it had nothing to say."""
    file = path / "state" / METHOD
    return load_file(file) if file.is_file() else {}


def newest_good(folder: Path, note: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose every byte is as its manifest says; damaged ones are named and passed over.

    Raises:
        Unsafe: there are checkpoints, and all are damaged.
    """
    for draft in folder.glob(f".{PREFIX}*"):
        shutil.rmtree(draft, ignore_errors=True)
    steps = steps_in(folder)
    for step in reversed(steps):
        problems = _problems(path_of(folder, step))
        if not problems:
            if step != steps[-1]:
                note(f"continuing from step {step}: {steps[-1] - step} steps are lost and will be done again")
            return path_of(folder, step)
        note(f"checkpoint of step {step} is damaged: {'; '.join(problems)}")
    if steps:
        raise Unsafe(
            f"all {len(steps)} checkpoints in {folder} are damaged: remove the folder to start again, or restore a backup"
        )
    return None


def _problems(path: Path) -> list[str]:
    """What is wrong with a checkpoint: files that are not as its manifest says, or another step's under its name."""
    problems = verify_manifest(path)
    if not problems and (step := read_json(path / "state" / "loop.json")["step"]) != step_of(path):
        problems = [f"{path} holds step {step}"]
    return problems


def prune(folder: Path, *, keep: int, spare: Iterable[int], note: Callable[[str], None]) -> None:
    """Remove all but the newest `keep` checkpoints; steps in `spare` (the best, the recipe's pins) and in PINS.json stay.

    Nothing is removed before the newest has been read back and found sound. A folder leaves its name first, so that a
    removal cut short leaves no half checkpoint.
    """
    steps, spared = steps_in(folder), set(spare) | pinned(folder)
    going = [step for step in steps[: max(0, len(steps) - keep)] if step not in spared]
    if not going:
        return
    problems = _problems(path_of(folder, steps[-1]))
    if problems:
        note(f"older checkpoints are kept, for that of step {steps[-1]} did not reach the disk whole: {problems[0]}")
        return
    for step in going:
        aside = folder / f".{path_of(folder, step).name}.gone"
        path_of(folder, step).rename(aside)
        shutil.rmtree(aside)


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
