"""The loop's own state: what of it goes into a checkpoint and how it comes back.

Left out: weights, optimizer and random state, and how a checkpoint is written (checkpoint.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bottega.core.rundir import trim_jsonl
from bottega.train import checkpoint
from bottega.train.parts import Outcome, Parts
from bottega.train.settings import LoopSettings

LOGS = ("metrics.jsonl", "timing.jsonl")


@dataclass(kw_only=True, slots=True)
class State:
    """Where the training is: all that the next step depends on besides weights, optimizer and random state."""

    step: int = 0
    cursor: dict[str, Any] = field(default_factory=dict)
    tokens_seen: int = 0
    bad_evaluations: int = 0
    outcome: Outcome = field(default_factory=Outcome)

    def to_json(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        outcome = self.outcome
        return {
            "step": self.step,
            "cursor": self.cursor,
            "tokens_seen": self.tokens_seen,
            "bad_evaluations": self.bad_evaluations,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "outcome": {
                "step": self.step,
                "best": outcome.best,
                "best_step": outcome.best_step,
                "reason": outcome.reason,
                "last": outcome.last,
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> State:
        """What `to_json` gave."""
        outcome = Outcome(**data["outcome"])
        if outcome.reason == "interrupted":  # a signal had asked for this checkpoint; now it goes on
            outcome.reason = "steps"
        names = ("step", "cursor", "tokens_seen", "bad_evaluations")
        return cls(**{name: data[name] for name in names}, outcome=outcome)


def resume(parts: Parts, folder: Path, note: Callable[[str], None]) -> State:
    """The state to continue from: the newest good checkpoint's, with everything in `parts` put back, or a fresh one.

    Lines of the logs in `folder` that come after it are cut off: those steps are done again.
    """
    path = checkpoint.newest_good(folder / "checkpoints", note)
    state = State() if path is None else _restore(parts, path, note)
    for name in LOGS:
        trim_jsonl(folder / name, lambda line: line["step"] <= state.step)
    return state


def _restore(parts: Parts, path: Path, note: Callable[[str], None]) -> State:
    before_step = parts.attached.before_step
    if before_step is not None and before_step(checkpoint.step_of(path) + 1):
        parts.rebuild()
    data = checkpoint.restore(path, scorer=parts.scorer, optimizer=parts.optimizer)
    state = State.from_json(data)
    parts.source.restore(state.cursor)
    if data["threads"] != torch.get_num_threads():
        note(
            f"this run used {data['threads']} threads before and {torch.get_num_threads()} now: "
            "it continues, but not bit for bit"
        )
    note(f"continuing after step {state.step}")
    return state


def save(parts: Parts, settings: LoopSettings, folder: Path, state: State) -> None:
    """Write the checkpoint of `state.step` and remove those that need not stay; rank 0 alone does it."""
    if parts.world.rank != 0:
        return
    checkpoints = folder / "checkpoints"
    checkpoint.save(
        checkpoints,
        state.step,
        scorer=parts.scorer,
        optimizer=parts.optimizer,
        save_model=parts.save_model,
        loop=state.to_json(),
    )
    checkpoint.prune(checkpoints, keep=settings.keep, spare=[state.outcome.best_step])
