"""The loop's own state: what of it goes into a checkpoint and how it comes back.

Left out: weights, optimizer and random state, and how a checkpoint is written (checkpoint.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bottega.core.errors import UserError
from bottega.core.rundir import atomic_write, trim_jsonl
from bottega.train import checkpoint, parallel, sharded
from bottega.train.parts import Fit, Outcome, Parts
from bottega.train.pins import pinned, write_pins
from bottega.train.precision import LossScale
from bottega.train.settings import LoopSettings
from bottega.train.watch import Watch

LOGS = ("metrics.jsonl", "timing.jsonl")


@dataclass(kw_only=True, slots=True)
class State:
    """Where the training is: all that the next step depends on besides weights, optimizer and random state."""

    step: int = 0
    cursor: dict[str, Any] = field(default_factory=dict)
    tokens_seen: int = 0
    bad_evaluations: int = 0
    outcome: Outcome = field(default_factory=Outcome)
    watch: Watch = field(default_factory=Watch)
    fit: Fit = field(default_factory=Fit)
    owed: dict[str, Any] | None = None
    """The step's lines of the logs, where its evaluation was stopped in the middle."""

    def to_json(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        outcome = self.outcome
        return {
            "step": self.step,
            "cursor": self.cursor,
            "tokens_seen": self.tokens_seen,
            "bad_evaluations": self.bad_evaluations,
            "watch": self.watch.to_json(),
            "fit": self.fit.to_json(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "outcome": {
                "step": self.step,
                "best": outcome.best,
                "best_step": outcome.best_step,
                "reason": outcome.reason,
                "last": outcome.last,
            },
            **({"owed": self.owed} if self.owed is not None else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> State:
        """What `to_json` gave."""
        outcome = Outcome(**data["outcome"])
        if outcome.reason == "interrupted":  # a signal had asked for this checkpoint; now it goes on
            outcome.reason = "steps"
        names = ("step", "cursor", "tokens_seen", "bad_evaluations")
        return cls(
            **{name: data[name] for name in names},
            outcome=outcome,
            watch=Watch(**data["watch"]),
            fit=Fit(**data["fit"]),
            owed=data.get("owed"),
        )


def resume(parts: Parts, settings: LoopSettings, folder: Path, note: Callable[[str], None]) -> State:
    """The state to continue from: the newest good checkpoint's, with everything in `parts` put back, or a fresh one.

    Lines of the logs in `folder` that come after it are cut off: those steps are done again. Checkpoints that need not stay are
    removed, for the run may have ended between writing one and removing another.
    """
    path = _newest(parts, folder / "checkpoints", note)
    state = State() if path is None else _restore(parts, path, note)
    if parts.world.rank == 0:
        trim(folder, state)
        if path is not None:
            _prune(settings, folder / "checkpoints", state, note)
    return state


def _prune(settings: LoopSettings, checkpoints: Path, state: State, note: Callable[[str], None]) -> None:
    checkpoint.prune(checkpoints, keep=settings.keep, spare=[state.outcome.best_step, *settings.pin], note=note)


def trim(folder: Path, state: State) -> None:
    """The logs in `folder` as they are at `state`: later steps are cut off, and skipped.jsonl says what was left out."""
    for name in LOGS:
        trim_jsonl(folder / name, lambda line: line["step"] <= state.step)
    write_skipped(folder, state.watch)


def write_skipped(folder: Path, watch: Watch) -> None:
    """skipped.jsonl: a line for every batch that was not learned from; no file where there is none."""
    path = folder / "skipped.jsonl"
    if watch.skipped or path.exists():
        atomic_write(path, "".join(json.dumps(entry) + "\n" for entry in watch.skipped))


def _newest(parts: Parts, folder: Path, note: Callable[[str], None]) -> Path | None:
    """The checkpoint to continue from: rank 0 looks, all take the same."""
    path = checkpoint.newest_good(folder, note) if parts.world.rank == 0 else None
    step = parallel.most(parts.world, -1 if path is None else checkpoint.step_of(path))
    return None if step < 0 else checkpoint.path_of(folder, step)


def roll_back(parts: Parts, folder: Path, state: State, note: Callable[[str], None]) -> State:
    """Weights, optimizer and random state of the newest good checkpoint, while the data goes on where it is.

    The batches between that checkpoint and now are passed over with the one that failed (Chowdhery et al. 2022, arXiv 2204.02311,
    section 5.1): the same weights would meet the same end on the same data.
    """
    path = _newest(parts, folder / "checkpoints", note)
    if path is None:
        raise UserError("on_nonfinite: rollback has no checkpoint to go back to: set save_every lower")
    back = State.from_json(_put_back(parts, path))
    back.cursor, back.watch = state.cursor, state.watch
    back.tokens_seen, back.fit = state.tokens_seen, state.fit
    note(f"back to the weights of step {back.step}; the data goes on behind the batch")
    return back


def _put_back(parts: Parts, path: Path) -> dict[str, Any]:
    before_step = parts.attached.before_step
    if before_step is not None and before_step(checkpoint.step_of(path) + 1):
        parts.rebuild()
    data = checkpoint.restore(path, scorer=parts.scorer, optimizer=parts.optimizer)
    if parts.attached.adapting is not None:
        parts.attached.adapting.recall(checkpoint.method_state(path))
    return data


def _restore(parts: Parts, path: Path, note: Callable[[str], None]) -> State:
    data = _put_back(parts, path)
    state = State.from_json(data)
    if parts.loss_scale is not None:
        parts.loss_scale = LossScale(**data["loss_scale"])
    if state.cursor:  # none at step 0
        parts.source.restore(state.cursor)
    if data["threads"] != torch.get_num_threads():
        note(
            f"this run used {data['threads']} threads before and {torch.get_num_threads()} now: "
            "it continues, but not bit for bit"
        )
    note(f"continuing after step {state.step}")
    return state


def save(parts: Parts, settings: LoopSettings, folder: Path, state: State, note: Callable[[str], None]) -> None:
    """Write the checkpoint of `state.step` and remove those that need not stay; rank 0 does it, others bring their shards."""
    writes = parts.world.rank == 0
    if not writes and not sharded.is_sharded(parts.scorer):
        return
    checkpoints = folder / "checkpoints"
    checkpoint.save(
        checkpoints,
        state.step,
        scorer=parts.scorer,
        optimizer=parts.optimizer,
        save_model=parts.save_model,
        loop=state.to_json() | ({"loss_scale": parts.loss_scale.to_json()} if parts.loss_scale is not None else {}),
        writes=writes,
        method=parts.attached.adapting.remember() if parts.attached.adapting is not None else None,
    )
    if writes:
        if state.step in settings.pin:
            write_pins(checkpoints, pinned(checkpoints) | {state.step})
        _prune(settings, checkpoints, state, note)
