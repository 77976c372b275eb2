"""What a stage leaves: the best weights put back, and the folder `result`, written by the first process.

Left out: what lies beside the weights in a model folder (build.py).
"""

from __future__ import annotations

import dataclasses
import shutil
from itertools import islice
from pathlib import Path

import torch

from bottega.core import rundir
from bottega.core.types import Attached
from bottega.models import merge
from bottega.models.reward import save_head
from bottega.train import checkpoint, sharded
from bottega.train.loop import Outcome
from bottega.workshop.build import Bench, Setup, attach, beside
from bottega.workshop.rows import StageRows

SAMPLE_TEXTS, SAMPLE_TOKENS = 8, 128
"""Rows, and tokens of each, on which the merge into a quantised base is measured."""


def restore_best(bench: Bench, outcome: Outcome, folder: Path) -> None:
    """After an early stop the best checkpoint's weights are the result."""
    if not bench.settings.early_stop or outcome.best_step < 0 or outcome.best_step == outcome.step:
        return
    path = checkpoint.path_of(folder / "checkpoints", outcome.best_step)
    checkpoint.restore(path, scorer=bench.parts.scorer, optimizer=bench.parts.optimizer)


def write_result(setup: Setup, bench: Bench) -> dict[str, float]:
    """Publish `result` in the stage's folder: the adapter as it is, or a whole model; returns how exact a merge was.

    All processes call it, with the weights in shards or not; the first one writes.
    """
    here = bench.parts.world.rank == 0
    with bench.parts.optimizer.averaged():
        bench.measure()  # the thresholds of these very weights
        if setup.stage.merges:
            attached = _to_merge(setup, bench, here=here)
            return _publish(setup, bench, attached) if here else {}
        with sharded.whole(bench.parts.scorer, here=here):
            return _publish(setup, bench, bench.parts.attached) if here else {}


def _sample_texts(rows: StageRows) -> list[list[int]]:
    """The beginnings of a few rows, on which the merge into a quantised base is measured."""
    first = list(islice((row for one in rows.train for row in one), SAMPLE_TEXTS))
    return [[int(i) for i in [*row.prefix.ids, *row.branches[0].ids]][:SAMPLE_TOKENS] for row in first]


def _publish(setup: Setup, bench: Bench, attached: Attached) -> dict[str, float]:
    draft = setup.folder / ".result.draft"
    shutil.rmtree(draft, ignore_errors=True)
    facts: dict[str, float] = {}
    with rundir.disk_errors(setup.folder):
        draft.mkdir(parents=True)
        if setup.stage.merges:
            merged, facts = merge.merge(attached, _sample_texts(bench.rows))
            merge.save_model(merged, setup.loaded.tokenizer, draft)
            beside(draft, setup.loaded, setup.template, setup.answers)
            save_head(bench.parts.attached, draft)
        else:
            bench.save(str(draft))
        rundir.write_manifest(draft)
        rundir.publish(draft, setup.folder / "result")
    return facts


def _to_merge(setup: Setup, bench: Bench, *, here: bool) -> Attached:
    """What was trained, whole: itself, or, where it lies in shards, the start loaded once more with what has learned put in."""
    if not sharded.is_sharded(bench.parts.scorer):
        return bench.parts.attached
    learned = {
        name.removeprefix("model."): value.cpu() if here else None
        for name, parameter in checkpoint.trainable(bench.parts.scorer).items()
        for value in (sharded.full(parameter.detach()),)
    }
    if not here:
        return bench.parts.attached
    twin = attach(dataclasses.replace(setup, loaded=setup.again()))
    parameters = dict(twin.model.named_parameters())
    with torch.no_grad():
        for name, value in learned.items():
            assert value is not None
            parameters[name].copy_(value)
    return twin
