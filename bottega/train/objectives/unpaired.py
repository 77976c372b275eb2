"""Preferences without pairs: answers that people liked or did not like, each by itself (KTO).

Left out: pairs (preference.py, pairs.py).

Shapes: S supervised positions, Q sequences, one a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bottega.core.errors import UserError
from bottega.core.types import Row, Scores, Sums, Targets, Term
from bottega.train.objectives.preference import per_sequence


def kto(
    scores: Scores, targets: Targets, *, beta: float = 0.1, desirable: float = 1.0, undesirable: float = 1.0
) -> tuple[dict[str, Term], Sums]:
    """Make liked answers likelier than the reference does, and disliked ones less likely, with a gain that levels off both ways.

    With r = log pi/pi_ref (answer) and z0 = max(0, mean log pi/pi_ref of answers to other prompts): w (1 - s(b (r - z0))) for liked
    and w (1 - s(b (z0 - r))) for disliked answers; Ethayarajh et al. 2024 (arXiv 2402.01306) eq. 7 and 8. z0 carries no gradient.

    Args:
        scores: `logp`, `ref.logp` (S,). targets: extras `label` (1 liked, 0 not) and `kl` (z0, put there by `mismatch`).
        beta: 0.01 to 0.5. desirable, undesirable: weights of the two kinds; weight times number should be about equal for both.

    Returns:
        One term in rows; metrics per row: loss, kl (z0), liked and disliked (b r of such answers, over all rows).

    >>> import math, torch
    >>> t = Targets(labels_S=torch.zeros(1), weights_S=torch.ones(1), sequence_S=torch.tensor([0]), row_Q=torch.tensor([0]),
    ...             extras_Q={"label": torch.tensor([1.0]), "kl": torch.tensor([1.0])})
    >>> terms, _ = kto({"logp": torch.tensor([-1.0]), "ref.logp": torch.tensor([-4.0])}, t, beta=0.5)
    >>> math.isclose(terms["kto"].total, 1 - 1 / (1 + math.exp(-1.0)), rel_tol=1e-6)  # 0.5 * (3 - 1) = 1
    True
    """
    if desirable < 0 or undesirable < 0:
        raise UserError(f"kto weights are {desirable} and {undesirable}; both must be 0 or more")
    ratio_Q = per_sequence(scores["logp"] - scores["ref.logp"], targets)
    liked_Q = targets.extras_Q["label"].to(ratio_Q)
    zero_Q = targets.extras_Q["kl"].to(ratio_Q) if "kl" in targets.extras_Q else torch.zeros_like(ratio_Q)
    sign_Q = 2 * liked_Q - 1
    weight_Q = desirable * liked_Q + undesirable * (1 - liked_Q)
    losses_Q = weight_Q * (1 - torch.sigmoid(beta * sign_Q * (ratio_Q - zero_Q)))
    gain_Q = beta * ratio_Q.detach()
    return {"kto": Term(losses_Q.sum(), "rows")}, {
        "loss/rows": losses_Q.detach().sum(),
        "kl/rows": zero_Q.sum(),
        "liked/rows": (gain_Q * liked_Q).sum(),
        "disliked/rows": (gain_Q * (1 - liked_Q)).sum(),
    }


def mismatch(rows: Sequence[Row], score: Callable[..., list[dict[str, Any]]]) -> list[Row]:
    """z0 of the whole batch, from each row's second branch (an answer to another prompt), which is then left out.

    Args:
        rows: two branches each: the answer, and another row's. score(rows, needs, view): arrays of the supervised tokens.

    Returns:
        The rows with one branch, and the extra `kl` = max(0, mean over rows of log pi/pi_ref of the second branch).
    """
    others = [replace(row, branches=row.branches[1:], tokens={}, extras={}) for row in rows]
    found = [one["logp"] for one in score(others, ("logp",))]
    if "ref.logp" in rows[0].tokens:
        known = [np.asarray(row.tokens["ref.logp"]) for row in rows]
        kept = [{"ref.logp": own[: len(own) - len(other)]} for own, other in zip(known, found, strict=True)]
        reference = [own[len(own) - len(other) :] for own, other in zip(known, found, strict=True)]
    else:
        kept = [{} for _ in rows]
        reference = [one["logp"] for one in score(others, ("logp",), "reference")]
    zero = max(0.0, float(np.mean([np.sum(a - b) for a, b in zip(found, reference, strict=True)])))
    return [
        replace(
            row,
            branches=row.branches[:1],
            extras={name: values[:1] for name, values in row.extras.items()} | {"kl": (zero,)},
            tokens=own,
        )
        for row, own in zip(rows, kept, strict=True)
    ]
