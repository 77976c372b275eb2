"""Where rows come from: a data set read in seeded order, or the policy's own experience.

Left out: mixtures (mixture.py), curricula by loss (curriculum.py) and replay buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bottega.core.types import Row
from bottega.data.order import Order, Shuffled, order


class Dataset:
    """Global batches of `batch` rows, epoch after epoch, each in its own order; the last batch of an epoch may be smaller.

    `ordered(epoch)` gives the order of an epoch where it is not a plain shuffle (a curriculum).

    State: {"epoch": e, "at": k}: k rows of epoch e were taken. Nothing else is needed to continue, and nothing is replayed: rows may
    lie on disk (data/shards.py), and any place of an order can be had at once (data/order.py).
    """

    listens = False

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        batch: int,
        seed: int,
        shuffle: bool = True,
        ordered: Callable[[int], Order | None] = lambda epoch: None,
    ) -> None:
        assert len(rows) > 0 and batch > 0
        self.rows, self.batch, self.seed, self.shuffle, self.ordered = rows, batch, seed, shuffle, ordered
        self.epoch = self.at = 0
        self._order = self._draw()

    def _draw(self) -> Order | None:
        plain = Shuffled(len(self.rows), self.seed, self.epoch) if self.shuffle else None
        return self.ordered(self.epoch) or plain

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.rows) // self.batch)

    def next(self) -> tuple[list[Row], dict[str, Any]]:
        """The next batch and the state after it."""
        if self.at >= len(self.rows):
            self.epoch, self.at = self.epoch + 1, 0
            self._order = self._draw()
        end = min(self.at + self.batch, len(self.rows))
        chosen = self._order.take(self.at, self.batch) if self._order else range(self.at, end)
        self.at = end
        return [self.rows[i] for i in chosen], {"epoch": self.epoch, "at": self.at}

    def ahead(self, steps: int) -> Iterator[list[Row]]:
        """The batches of the next `steps` steps, none of them taken."""
        twin = Dataset(self.rows, batch=self.batch, seed=self.seed, shuffle=self.shuffle, ordered=self.ordered)
        twin.restore({"epoch": self.epoch, "at": self.at})
        for _ in range(steps):
            yield twin.next()[0]

    def tell(self, ids: Sequence[int], losses: Sequence[float], metrics: Mapping[str, float]) -> None:
        """A plain data set does not listen."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue after `state`."""
        self.epoch, self.at = int(state["epoch"]), int(state["at"])
        self._order = self._draw()


class Experience:
    """PPO's source: collect a round of sampled answers once, then K epochs of minibatches over it.

    `collect(round)` samples, scores and rewards prompts, and returns rows with the tokens that the objective needs (see
    `with_advantages`). A round ends early when `tell` hears an `approx_kl` above `max_kl`. State: {"round", "epoch", "at"}.
    """

    listens = False

    def __init__(
        self, collect: Callable[[int], list[Row]], *, minibatch: int, epochs: int, seed: int, max_kl: float = 0.1
    ) -> None:
        self.collect, self.minibatch, self.epochs, self.seed, self.max_kl = collect, minibatch, epochs, seed, max_kl
        self.round = -1
        self.stopped = False
        self._rows: list[Row] = []
        self._batches: Iterator[tuple[list[Row], dict[str, Any]]] = iter(())

    def _minibatches(self) -> Iterator[tuple[list[Row], dict[str, Any]]]:
        for epoch in range(self.epochs):
            chosen = order(len(self._rows), self.seed, self.round * self.epochs + epoch)
            for at in range(0, len(chosen), self.minibatch):
                if self.stopped:
                    return
                state = {"round": self.round, "epoch": epoch, "at": at + self.minibatch}
                yield [self._rows[int(i)] for i in chosen[at : at + self.minibatch]], state

    def next(self) -> tuple[list[Row], dict[str, Any]]:
        """The next minibatch of this round, or the first of a new one."""
        batch = next(self._batches, None)
        if batch is None:
            self.round += 1
            self.stopped = False
            self._rows = self.collect(self.round)
            self._batches = self._minibatches()
            batch = next(self._batches)
        return batch

    def ahead(self, steps: int) -> Iterator[list[Row]]:
        """What the policy has not said yet is not known."""
        return iter(())

    def tell(self, ids: Sequence[int], losses: Sequence[float], metrics: Mapping[str, float]) -> None:
        """End the round when the policy has moved too far from the one that sampled."""
        self.stopped = metrics.get("approx_kl", 0.0) > self.max_kl

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue with the round after `state`'s: what an older policy sampled is not sampled again."""
        self.round = int(state["round"])
        self._batches = iter(())


def advantages(
    rewards_T: np.ndarray, values_T: np.ndarray, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Generalised advantage estimates of one answer and the returns the value head should predict.

    delta_t = r_t + gamma v_{t+1} - v_t; A_t = sum_k (gamma lam)^k delta_{t+k}; R_t = A_t + v_t. Schulman et al. 2016
    (arXiv 1506.02438) eq. 11 and 16; the value after the last token is 0.

    Args:
        rewards_T, values_T: (T,) per token. gamma: discount. lam: 0 (one step) to 1 (whole answer).

    Returns:
        Advantages (T,) and returns (T,).

    >>> a, r = advantages(np.array([0.0, 1.0]), np.array([0.5, 0.5]), gamma=1.0, lam=0.5)
    >>> a.tolist(), r.tolist()  # deltas: 0 + 0.5 - 0.5 = 0, 1 + 0 - 0.5 = 0.5; A_0 = 0 + 0.5 * 0.5
    ([0.25, 0.5], [0.75, 1.0])
    """
    result = np.zeros(len(rewards_T))
    running, next_value = 0.0, 0.0
    for t in reversed(range(len(rewards_T))):
        delta = rewards_T[t] + gamma * next_value - values_T[t]
        running = delta + gamma * lam * running
        result[t], next_value = running, values_T[t]
    return result, result + values_T


def with_advantages(
    rows: Sequence[Row],
    rewards: Sequence[float],
    scores: Sequence[Mapping[str, np.ndarray]],
    *,
    kl: float = 0.05,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> list[Row]:
    """Rows of sampled answers with `old.logp`, `old.value`, `advantage` (whitened over the batch) and `return` per token.

    The reward of a token is -kl * (log pi - log pi_ref), plus the answer's reward at its last token (Ziegler et al. 2019,
    arXiv 1909.08593, eq. 2).

    Args:
        rewards: one number a row. scores: per row, arrays `logp`, `ref.logp`, `value` (T,) over the answer's tokens.
    """
    drafts = []
    for reward, score in zip(rewards, scores, strict=True):
        per_token = -kl * (score["logp"] - score["ref.logp"])
        per_token[-1] += reward
        drafts.append(advantages(per_token, score["value"], gamma=gamma, lam=lam))
    flat = np.concatenate([advantage for advantage, _ in drafts])
    mean, spread = flat.mean(), flat.std() + 1e-8
    return [
        replace(
            row,
            tokens={
                "old.logp": score["logp"],
                "old.value": score["value"],
                "advantage": (advantage - mean) / spread,
                "return": returns,
            },
        )
        for row, score, (advantage, returns) in zip(rows, scores, drafts, strict=True)
    ]
