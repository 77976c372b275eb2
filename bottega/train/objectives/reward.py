"""Objectives of reward models: which of two replies is better (Bradley-Terry), and whether each step of one is right.

Left out: reading rewards out again (train/reward_scores.py).

Shapes: Q replies (chosen and rejected of a pair are neighbours), P pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bottega.core.errors import UserError
from bottega.core.types import Scores, Sums, Targets, Term


def bradley_terry(
    scores: Scores, targets: Targets, *, margin_weight: float = 0.0, centring: float = 0.0
) -> tuple[dict[str, Term], Sums]:
    """Give the preferred reply the higher reward: its lead over the other is the log-odds that it is preferred.

    -q log s(d) - (1 - q) log s(-d) + c (r_chosen + r_rejected)^2 with d = r_chosen - r_rejected - a m, and q = 1 where no share is
    said: Bradley and Terry 1952; Ouyang et al. 2022 (arXiv 2203.02155) eq. 1 for one pair a prompt; the margin m of Touvron et al.
    2023 (arXiv 2307.09288) eq. 2; the centring of Eisenstein et al. 2023 (arXiv 2312.09244) section 4, which keeps rewards around
    zero, where only their differences are learned.

    Args:
        scores: `reward` (Q,). targets: the extra `margin` (Q,) where the data has one; pairs without one count as 0; the extra
            `share` (Q,): the part q of the people who prefer the chosen one, where several were asked.
        margin_weight: a, on the data's own unit; 0 leaves margins unread, 1 is usual where the unit is a rating's step.
        centring: c; 0 or about 0.01.

    Returns:
        One term in pairs; metrics per pair: loss (without centring), accuracy (r_chosen > r_rejected; a tie counts half), lead
        (r_chosen - r_rejected), reward (the mean of both), square (the mean of their squares).

    >>> import math, torch
    >>> none = torch.zeros(0)
    >>> t = Targets(labels_S=none, weights_S=none, sequence_S=none, row_Q=torch.tensor([0, 0]))
    >>> terms, _ = bradley_terry({"reward": torch.tensor([2.0, 1.0])}, t, centring=0.1)
    >>> math.isclose(terms["reward"].total, math.log(1 + math.exp(-1.0)) + 0.1 * 9.0, rel_tol=1e-6)
    True

    Of four people three prefer the chosen: 3/4 log(1 + e^-1) + 1/4 log(1 + e) = 0.2349 + 0.3283 = 0.5633.

    >>> t = Targets(labels_S=none, weights_S=none, sequence_S=none, row_Q=none, extras_Q={"share": torch.tensor([0.75, 0.75])})
    >>> round(float(bradley_terry({"reward": torch.tensor([2.0, 1.0])}, t)[0]["reward"].total), 4)
    0.5633
    """
    if margin_weight < 0 or centring < 0:
        raise UserError(f"margin_weight {margin_weight} and centring {centring} must be 0 or more")
    chosen_P, rejected_P = scores["reward"][0::2], scores["reward"][1::2]
    lead_P = chosen_P - rejected_P
    wanted_P = torch.zeros_like(lead_P)
    if margin_weight and "margin" in targets.extras_Q:
        wanted_P = margin_weight * torch.nan_to_num(targets.extras_Q["margin"][0::2], nan=0.0).to(lead_P)
    losses_P = -F.logsigmoid(lead_P - wanted_P)
    if "share" in targets.extras_Q:
        share_P = torch.nan_to_num(targets.extras_Q["share"][0::2], nan=1.0).to(lead_P)
        losses_P = share_P * losses_P - (1 - share_P) * F.logsigmoid(wanted_P - lead_P)
    total = losses_P.sum() + centring * ((chosen_P + rejected_P) ** 2).sum()
    with torch.no_grad():
        sums = {
            "loss/pairs": losses_P.sum(),
            "accuracy/pairs": ((lead_P > 0).float() + 0.5 * (lead_P == 0)).sum(),
            "lead/pairs": lead_P.sum(),
            "reward/pairs": 0.5 * (chosen_P + rejected_P).sum(),
            "square/pairs": 0.5 * (chosen_P**2 + rejected_P**2).sum(),
        }
    return {"reward": Term(total, "pairs")}, sums


def process_reward(scores: Scores, targets: Targets) -> tuple[dict[str, Term], Sums]:
    """Say of every step whether it is right: the reward at a step's last token is the log-odds that it is.

    -sum_k [y_k log s(r_k) + (1 - y_k) log s(-r_k)]; Uesato et al. 2022 (arXiv 2211.14275) section 2.3, Lightman et al. 2023 (arXiv
    2305.20050) section 2.6.

    Args:
        scores: `step_reward` (S,), one a step. targets: tokens `label` (S,): 1 right, 0 wrong.

    Returns:
        One term in tokens (steps); metrics per step: loss, accuracy, right (the share that is right).

    >>> import math, torch
    >>> none = torch.zeros(0)
    >>> t = Targets(labels_S=none, weights_S=torch.ones(2), sequence_S=none, row_Q=none, tokens={"label": torch.tensor([1.0, 0.0])})
    >>> terms, sums = process_reward({"step_reward": torch.tensor([1.0, 2.0])}, t)
    >>> math.isclose(terms["steps"].total, math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(2.0)), rel_tol=1e-6)
    True
    """
    reward_S, right_S = scores["step_reward"], targets.tokens["label"]
    losses_S = F.binary_cross_entropy_with_logits(reward_S, right_S.to(reward_S), reduction="none")
    total = (targets.weights_S * losses_S).sum()
    with torch.no_grad():
        sums = {
            "loss/tokens": total.detach(),
            "accuracy/tokens": (targets.weights_S * ((reward_S > 0) == (right_S > 0.5))).sum(),
            "right/tokens": (targets.weights_S * right_S).sum(),
        }
    return {"steps": Term(total, "tokens")}, sums
