"""How good rewards are on pairs whose better side is known: accuracy with its interval, log loss, and calibration.

Left out: where rewards come from. A lead is the reward of the better reply minus that of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bottega.grade.intervals import mean

BINS = 5
"""Of the confidence, from 0.5 to 1."""


def pairwise(leads: Sequence[float] | np.ndarray, *, seed: int = 0) -> dict[str, Any]:
    """What leads say of a reward model: the share of pairs it orders rightly, and whether it is as sure as it may be.

    A Bradley-Terry model gives the better reply s(lead); its confidence in what it says is s(|lead|). The expected calibration error is
    the mean over bins of |share right - mean confidence|, weighted by their numbers (Guo et al. 2017, arXiv 1706.04599, eq. 3). A tie
    counts half.

    Args:
        leads: one a pair, finite, in log-odds. seed: of the interval, where there are ties.

    Returns:
        pairs, accuracy, low, high (95 percent), loss (mean -log s(lead)), calibration_error, bins (pairs, confidence, accuracy each).

    Example: leads 2, 1, -1 -> accuracy 2/3, loss (0.1269 + 0.3133 + 1.3133) / 3 = 0.5845.
    """
    lead_P = np.asarray(leads, dtype=np.float64)
    assert len(lead_P) and np.isfinite(lead_P).all()
    right_P = np.where(lead_P == 0, 0.5, lead_P > 0)
    sure_P = 1 / (1 + np.exp(-np.abs(lead_P)))
    share = mean(right_P.tolist(), seed=seed)
    at_P = np.minimum(((sure_P - 0.5) * 2 * BINS).astype(int), BINS - 1)
    bins = []
    for number in range(BINS):
        inside = at_P == number
        if inside.any():
            confidence, accuracy = float(sure_P[inside].mean()), float(right_P[inside].mean())
            bins.append({"pairs": int(inside.sum()), "confidence": confidence, "accuracy": accuracy})
    gap = sum(one["pairs"] * abs(one["accuracy"] - one["confidence"]) for one in bins) / len(lead_P)
    return {
        "pairs": len(lead_P),
        "accuracy": share.value,
        "low": max(0.0, share.low),
        "high": min(1.0, share.high),
        "loss": float(np.logaddexp(0.0, -lead_P).mean()),
        "calibration_error": float(gap),
        "bins": bins,
    }


def ensemble(rewards_MN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread over M reward models of N rewards, each model shifted to mean 0, for only differences have a meaning.

    The spread (standard deviation, 0 for one model) says where the models disagree: Coste et al. 2023 (arXiv 2310.02743) section 4.
    """
    shifted = rewards_MN - rewards_MN.mean(1, keepdims=True) if len(rewards_MN) > 1 else rewards_MN
    return shifted.mean(0), shifted.std(0)
