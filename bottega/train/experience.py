"""The policy's own experience as a source: collect a round of sampled answers once, then minibatch epochs over it.

Left out: how a round is sampled, rewarded and scored (rollout.py), and replay of older rounds, which are no longer the policy's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bottega.core.errors import Mismatch
from bottega.core.rundir import write_json
from bottega.core.types import Row, Tokens
from bottega.data.order import order
from bottega.train import checkpoint
from bottega.train.bounds import Memory


class Rounds:
    """Rounds on disk, so that a run that was killed in the middle of one goes on with the same answers: one JSON file each, kept
    while a checkpoint needs it.

    Numbers are written as shortest decimals, which give the same float32 back.
    """

    def __init__(self, folder: Path, checkpoints: Path) -> None:
        self.folder, self.checkpoints = folder, checkpoints

    def path(self, number: int) -> Path:
        """Where a round lies."""
        return self.folder / f"round-{number:06d}.json"

    def save(self, number: int, rows: Sequence[Row]) -> None:
        """Write a round, and remove those that no checkpoint goes on from."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.path(number), {"round": number, "rows": [_to_json(row) for row in rows]})
        needed = {number}
        for step in checkpoint.steps_in(self.checkpoints):
            state = checkpoint.path_of(self.checkpoints, step) / "state" / "loop.json"
            if state.is_file():
                needed.add(int(json.loads(state.read_text(encoding="utf-8"))["cursor"].get("round", number)))
        for path in self.folder.glob("round-*.json"):
            if int(path.stem.removeprefix("round-")) not in needed:
                path.unlink()

    def load(self, number: int) -> list[Row]:
        """A round as it was saved.

        Raises:
            Mismatch: it is not there any more.
        """
        path = self.path(number)
        if not path.is_file():
            raise Mismatch(
                f"{path} is missing, and the run stopped in the middle of that round: put it back, or begin anew"
            )
        return [_from_json(row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]


def _to_json(row: Row) -> dict[str, Any]:
    return {
        "index": row.index,
        "prefix": [int(i) for i in row.prefix.ids],
        "branches": [[[int(i) for i in b.ids], [float(w) for w in b.trains]] for b in row.branches],
        "extras": {name: [float(v) for v in values] for name, values in row.extras.items()},
        "tokens": {name: [float(v) for v in np.asarray(values, np.float32)] for name, values in row.tokens.items()},
    }


def _from_json(data: Mapping[str, Any]) -> Row:
    return Row(
        index=data["index"],
        prefix=Tokens(data["prefix"], [0.0] * len(data["prefix"])),
        branches=tuple(Tokens(ids, trains) for ids, trains in data["branches"]),
        extras=data["extras"],
        tokens={name: np.asarray(values, dtype=np.float32) for name, values in data["tokens"].items()},
    )


class Experience:
    """Collect a round of sampled answers once, then `epochs` passes of minibatches over it.

    `collect(round)` samples, scores and rewards prompts, and returns rows with the tokens that the objective needs. A round ends
    early when `tell` hears an `approx_kl` above `max_kl` (Spinning Up's early stop).

    State: {"round", "epoch", "at", "rows", "stopped", "memory"}: with `rounds` a run goes on in the middle of a round, without them
    with the next one. resumed: told which round comes next, when a run goes on. memory: what is remembered from step to step (guards,
    the adaptive penalty).
    """

    listens = False

    def __init__(
        self,
        collect: Callable[[int], list[Row]],
        *,
        minibatch: int,
        epochs: int,
        seed: int,
        max_kl: float = 0.1,
        rounds: Rounds | None = None,
        memory: Memory | None = None,
        resumed: Callable[[int], None] = lambda following: None,
    ) -> None:
        self.collect, self.minibatch, self.epochs, self.seed, self.max_kl = collect, minibatch, epochs, seed, max_kl
        self.rounds, self.memory, self.resumed = rounds, memory or Memory(), resumed
        self.round = -1
        self.stopped = False
        self._rows: list[Row] = []
        self._state: dict[str, Any] = {}
        self._batches: Iterator[tuple[list[Row], dict[str, Any]]] = iter(())

    def _minibatches(self, epoch: int = 0, at: int = 0) -> Iterator[tuple[list[Row], dict[str, Any]]]:
        for now in range(epoch, self.epochs):
            chosen = order(len(self._rows), self.seed, self.round * self.epochs + now)
            for start in range(at if now == epoch else 0, len(chosen), self.minibatch):
                if self.stopped:
                    return
                state = {"round": self.round, "epoch": now, "at": start + self.minibatch, "rows": len(self._rows)}
                yield [self._rows[int(i)] for i in chosen[start : start + self.minibatch]], state

    def next(self) -> tuple[list[Row], dict[str, Any]]:
        """The next minibatch of this round, or the first of a new one."""
        batch = next(self._batches, None)
        if batch is None:
            self.round += 1
            self.stopped = False
            self._rows = self.collect(self.round)
            if self.rounds is not None:
                self.rounds.save(self.round, self._rows)
            self._batches = self._minibatches()
            batch = next(self._batches)
        rows, place = batch
        self._state = place | {"stopped": False, "memory": self.memory.to_json()}
        return rows, self._state

    def ahead(self, steps: int) -> Iterator[list[Row]]:
        """What the policy has not said yet is not known."""
        return iter(())

    def tell(self, ids: Sequence[int], losses: Sequence[float], metrics: Mapping[str, float]) -> None:
        """End the round when the policy has moved too far from the one that sampled; let the memory hear the step.

        Raises:
            Diverged: a guard of the memory says stop.
        """
        moved = metrics.get("approx_kl", 0.0)
        self.stopped = moved > self.max_kl
        try:
            if (
                self._state["epoch"] == 0 and self._state["at"] == self.minibatch
            ):  # the policy that sampled is still at work
                self.memory.drifted(max(moved, metrics.get("drift", 0.0)))
            self.memory.hear(metrics)
        finally:
            self._state |= {"stopped": self.stopped, "memory": self.memory.to_json()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue after `state`: in the middle of its round if that was kept, else with the next."""
        self.round, self.stopped = int(state["round"]), bool(state["stopped"])
        self.memory.restore(state["memory"])
        self._rows, self._batches = [], iter(())
        self.resumed(self.round + 1)
        ended = self.stopped or (state["epoch"] == self.epochs - 1 and state["at"] >= state["rows"])
        if self.rounds is not None and not ended:
            self._rows = self.rounds.load(self.round)
            self._batches = self._minibatches(int(state["epoch"]), int(state["at"]))
