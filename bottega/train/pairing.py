"""Which of a prompt's answers are learned from: all, the best few, or a pair of a better and a worse one.

Left out: sampling and rewards (rollout.py), what is learned from them (objectives/).
"""

from __future__ import annotations

import numpy as np

RULES = ("best_worst", "best_random", "random_worst", "random")
"""How a better and a worse answer are chosen: the extremes, one extreme and a draw among the others, or a draw of two."""


def best(rewards_G: np.ndarray, count: int) -> tuple[int, ...]:
    """The places of the `count` best answers, best first; of equal ones the earlier.

    >>> best(np.array([1.0, 3.0, 2.0, 3.0]), 2)
    (1, 3)
    """
    return tuple(int(i) for i in np.argsort(-rewards_G, kind="stable")[:count])


def pair(rewards_G: np.ndarray, rule: str, draw: np.random.Generator) -> tuple[int, int] | None:
    """The places of a better and a worse answer; None where all are equally good.

    Args:
        rule: best_worst (as in online DPO, Guo et al. 2024, arXiv 2402.04792, with its two answers; and in iterative DPO, Xu et al.
            2023, arXiv 2312.16682), best_random, random_worst, random.

    >>> pair(np.array([1.0, 3.0, 2.0]), "best_worst", np.random.default_rng(0))
    (1, 0)
    >>> pair(np.array([1.0, 1.0]), "best_worst", np.random.default_rng(0)) is None
    True
    """
    assert rule in RULES, rule
    top, low = int(np.argmax(rewards_G)), int(np.argmin(rewards_G))
    if rewards_G[top] == rewards_G[low]:
        return None
    if rule == "best_worst":
        return top, low
    if rule == "best_random":
        return top, _one_of(np.flatnonzero(rewards_G < rewards_G[top]), draw)
    if rule == "random_worst":
        return _one_of(np.flatnonzero(rewards_G > rewards_G[low]), draw), low
    pairs = np.argwhere(rewards_G[:, None] > rewards_G[None, :])
    chosen = pairs[int(draw.integers(len(pairs)))]
    return int(chosen[0]), int(chosen[1])


def _one_of(places: np.ndarray, draw: np.random.Generator) -> int:
    return int(places[int(draw.integers(len(places)))])
