"""A small training that kills itself with SIGKILL where it is told: `python -m tests.train.killed MODEL FOLDER OBJECTIVE TUNE
WHAT AT`. TUNE is a method, or `METHOD+stream` for one whose base stays on disk.

OBJECTIVE may name a source behind a colon: `sft:mixture` (see `source_of`).
WHAT: never | step (before the optimizer's step AT) | accumulate (between two micro-batches of step AT) | save (inside the AT-th
checkpoint) | evaluate (inside an evaluation at step AT).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bottega.core.textio import progress
from bottega.core.types import Row, Source
from bottega.data import shards
from bottega.data.order import Banded
from bottega.models.load import load
from bottega.models.methods import method
from bottega.models.reward import new_head
from bottega.models.teacher import Teacher
from bottega.train.assemble import assemble
from bottega.train.curriculum import ByLoss
from bottega.train.loop import Loop
from bottega.train.mixture import Mixture, Phase
from bottega.train.objectives import spec
from bottega.train.scoring import validation, with_reference
from bottega.train.settings import LoopSettings
from bottega.train.source import Dataset
from tests.train.clients import VOCABULARY, rows


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(loop: Loop, what: str, at: int, die: Callable[[], None]) -> None:
    """Wrap one method of this very object, so that the process dies there (or does what `die` does)."""
    parts, calls = loop.parts, {"save": 0, "forward": 0}
    step, save, validate = parts.optimizer.step, parts.save_model, parts.validate
    if what == "step":
        parts.optimizer.step = lambda: die() if loop.step + 1 == at else step()
    elif what == "save":

        def dying_save(folder: str) -> None:
            calls["save"] += 1
            save(folder)
            if calls["save"] == at:
                die()

        parts.save_model = dying_save
    elif what == "evaluate":
        parts.validate = lambda now: die() if now == at else validate(now)
    elif what == "accumulate":

        def hook(*_: object) -> None:
            calls["forward"] = calls["forward"] + 1 if loop.step + 1 == at else 0
            if calls["forward"] == 2:
                die()

        parts.wrapped.register_forward_pre_hook(hook)


def source_of(rows: list[Row], kind: str, folder: Path) -> Source:
    """The rows behind one of the sources: "", shards, mixture, schedule, length or loss."""
    if kind == "shards":
        place = folder.parent / f"{folder.name}-rows"
        if not place.exists():
            shards.write(place, rows, ids="uint16")
        return Dataset(shards.ShardRows(place), batch=6, seed=5)
    if kind == "mixture":
        return Mixture([rows[:13], rows[13:]], [Phase(0, (0.7, 0.3))], batch=6, seed=5, caps=[None, 9])
    if kind == "schedule":
        phases = [Phase(0, (1.0, 0.0)), Phase(300, (0.5, 0.5)), Phase(600, (0.1, 0.9))]
        return Mixture([rows[:13], rows[13:]], phases, batch=6, seed=5)
    if kind == "length":
        keys = np.array([row.num_tokens for row in rows])
        return Dataset(rows, batch=6, seed=5, ordered=lambda epoch: Banded(keys, 5, epoch, bands=4))
    if kind == "loss":
        return ByLoss(rows, batch=6, seed=5, bands=4)
    return Dataset(rows, batch=6, seed=5)


def noisy_teacher(model: str) -> Teacher:
    """The model with other weights than the student's, the same in every process."""
    other = load(model)
    noise = torch.Generator().manual_seed(9)
    for parameter in other.model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=noise)
    return Teacher.of(other.model, other.tokenizer, other.tokenizer, name="noisy", beta=0.5, temperature=1.0)


def train(
    model: str,
    folder: str,
    objective: str,
    tune: str,
    what: str = "never",
    at: int = 0,
    die: Callable[[], None] = die,
    **changed: Any,
) -> None:
    """One training, to its end or its death; `changed` are settings of the loop."""
    tune, _, stream = tune.partition("+")
    own = {
        "adalora": {"rank": 4, "target": 2, "every": 2},
        "oft": {"block": 8},
        "vera": {"rank": 8},
        "adapter": {"width": 4},
    }
    how = method(tune, **({"rank": 4, "dropout": 0.1} if tune in ("lora", "qlora") else own.get(tune, {})))
    dtype = "bfloat16" if changed.get("precision") == "bf16-true" else "float32"
    loaded = load(model, dtype=dtype, stream=bool(stream), cache=Path(folder) / "cache", **how.load_options())
    torch.manual_seed(0)
    attached = how.attach(loaded.model)
    usual = {"lr": 5e-3, "warmup": 2, "micro_tokens": 60, "save_every": 3, "eval_every": 4, "weight_decay": 0.1}
    settings = LoopSettings(steps=10, stream=bool(stream), **usual | changed)
    objective, _, source = objective.partition(":")
    chosen = spec(objective)
    kind = "branches" if chosen.layout == "branches" else "single"
    batch = rows(kind, count=20)
    if objective == "kto":
        batch = [replace(row, extras={"label": (float(row.index % 2),) * 2}) for row in batch]
    attached.reward = new_head(attached.model) if "reward" in chosen.needs else None
    if "divergence" in chosen.needs:
        attached.teacher = noisy_teacher(model)
    parts = assemble(
        attached,
        chosen,
        source_of(batch, source, Path(folder)),
        settings,
        vocabulary=VOCABULARY,
        pad_id=0,
        packed=loaded.packs,
        scratch=Path(folder),
    )
    if "ref.logp" in chosen.needs:
        cache = Path(folder) / "reference.safetensors"
        batch = with_reference(parts, batch, micro_tokens=60, cache=cache, key="rows", note=lambda line: None)
        parts.source = Dataset(batch, batch=6, seed=5)
    parts.validate = validation(parts, batch[:6], micro_tokens=60)
    loop = Loop(parts, settings, Path(folder), progress(10, "killed", quiet=True))
    arm(loop, what, at, die)
    loop.run()


def main() -> None:
    """The command line of this file."""
    *names, at = sys.argv[1:]
    torch.set_num_threads(1)
    train(*names, int(at))


if __name__ == "__main__":
    main()
