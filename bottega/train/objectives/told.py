"""What the objectives on sampled answers log alike: distances between policies, and what is known of each answer.

Left out: losses.

Shapes: S sampled tokens, Q answers of the micro-batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bottega.core.types import Sums, Targets

KNOWN = ("max_tokens",)
"""Extras that are no news."""


@torch.no_grad()
def told(logp_S: Tensor, targets: Targets) -> Sums:
    """Sums for the log.

    approx_kl: between the policy that sampled and the policy now, (r - 1) - log r a token, r = exp(logp - old.logp) (Schulman 2020,
    k3); at the first step of a round it is the distance between the sampler's numbers and the trainer's. kl: the policy now from the
    reference, the same estimate. The rest: the extras of the answers, averaged over a row's answers, then over rows.
    """
    weights = targets.weights_S
    shift_S = logp_S - targets.tokens["old.logp"]
    sums: Sums = {"approx_kl/tokens": (weights * (shift_S.exp() - 1 - shift_S)).sum()}
    if "ref.logp" in targets.tokens:
        away_S = targets.tokens["ref.logp"] - logp_S
        sums["kl/tokens"] = (weights * (away_S.exp() - 1 - away_S)).sum()
    share_Q = 1.0 / torch.bincount(targets.row_Q)[targets.row_Q]
    for name, values_Q in targets.extras_Q.items():
        if name not in KNOWN:
            sums[f"{name}/rows"] = (share_Q * values_Q).sum()
    return sums
