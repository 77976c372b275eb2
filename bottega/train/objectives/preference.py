"""Preference objectives that learn from pairs without sampling: direct preference optimisation and its variants.

Left out: the reward-free relatives (ORPO, SimPO, CPO) and unpaired preferences (KTO).

Shapes: S supervised positions, Q sequences (chosen and rejected of a pair are neighbours), P pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bottega.core.errors import UserError
from bottega.core.types import Scores, Sums, Targets, Term

LOSSES = ("sigmoid", "hinge", "ipo", "robust")


def per_sequence(values_S: Tensor, targets: Targets) -> Tensor:
    """Weighted sums over each sequence's supervised tokens, (Q,)."""
    zeros = torch.zeros(len(targets.row_Q), dtype=values_S.dtype, device=values_S.device)
    return zeros.index_add(0, targets.sequence_S, values_S * targets.weights_S)


def dpo(
    scores: Scores,
    targets: Targets,
    *,
    beta: float = 0.1,
    loss: str = "sigmoid",
    label_smoothing: float = 0.0,
    length_normalised: bool = False,
    sft_weight: float = 0.0,
) -> tuple[dict[str, Term], Sums]:
    """Make the preferred answer likelier, relative to the reference, than the other.

    With d = (log pi/pi_ref)(chosen) - (log pi/pi_ref)(rejected) and h = beta * d:
    sigmoid: -(1-e) log s(h) - e log s(-h), Rafailov et al. 2023 (arXiv 2305.18290) eq. 7, with label smoothing e (cDPO);
    robust: (-(1-e) log s(h) + e log s(-h)) / (1 - 2e), Chowdhury et al. 2024 (arXiv 2403.00409) eq. 12;
    hinge: max(0, 1 - h), Liu et al. 2023 (arXiv 2309.06657); ipo: (d - 1/(2 beta))^2, Azar et al. 2023 (arXiv 2310.12036)
    eq. 17, on log-probabilities averaged over the answer's tokens.

    Args:
        scores: `logp`, `ref.logp` (S,) natural logs.
        beta: how strongly the policy is held to the reference; 0.01 to 0.5.
        loss: sigmoid, hinge, ipo or robust. label_smoothing: share of pairs believed to be labelled wrongly, [0, 0.5).
        length_normalised: divide each answer's log-ratio by its number of tokens. sft_weight: adds that much of the chosen
            answer's mean negative log-likelihood.

    Returns:
        One term in pairs; metrics per pair: loss, accuracy (d > 0), margin (h), the two implied rewards.

    >>> import math; import torch
    >>> t = Targets(labels_S=torch.zeros(2), weights_S=torch.ones(2), sequence_S=torch.tensor([0, 1]), row_Q=torch.tensor([0, 0]))
    >>> terms, _ = dpo({"logp": torch.tensor([-1.0, -3.0]), "ref.logp": torch.tensor([-2.0, -2.0])}, t, beta=0.5)
    >>> math.isclose(terms["dpo"].total, math.log(1 + math.exp(-1.0)), rel_tol=1e-6)  # h = 0.5 * (1 - (-1)) = 1
    True
    """
    _check_options(loss, label_smoothing)
    ratio_Q = per_sequence(scores["logp"] - scores["ref.logp"], targets)
    length_Q = per_sequence(torch.ones_like(targets.weights_S), targets).clamp(min=1)
    if length_normalised or loss == "ipo":
        ratio_Q = ratio_Q / length_Q
    chosen_P, rejected_P = ratio_Q[0::2], ratio_Q[1::2]
    h_P = beta * (chosen_P - rejected_P)
    losses_P = _losses(h_P, beta, loss, label_smoothing)
    terms = {"dpo": Term(losses_P.sum(), "pairs")}
    if sft_weight:
        chosen_nll_P = -(per_sequence(scores["logp"], targets) / length_Q)[0::2]
        terms["sft"] = Term(chosen_nll_P.sum(), "pairs", sft_weight)
    sums = {
        "loss/pairs": losses_P.detach().sum(),
        "accuracy/pairs": (h_P > 0).float().sum(),
        "margin/pairs": h_P.detach().sum(),
        "chosen_reward/pairs": beta * chosen_P.detach().sum(),
        "rejected_reward/pairs": beta * rejected_P.detach().sum(),
    }
    return terms, sums


def _check_options(loss: str, label_smoothing: float) -> None:
    if loss not in LOSSES:
        raise UserError(f"dpo loss {loss!r} is not known: use one of {', '.join(LOSSES)}")
    if not 0.0 <= label_smoothing < 0.5:
        raise UserError(
            f"dpo label_smoothing {label_smoothing} is outside [0, 0.5): half would mean that labels say nothing"
        )


def _losses(h_P: Tensor, beta: float, loss: str, label_smoothing: float) -> Tensor:
    """Each pair's loss, (P,), from h = beta * d."""
    if loss == "hinge":
        return F.relu(1 - h_P)
    if loss == "ipo":
        return (h_P / beta - 1 / (2 * beta)) ** 2
    wrong = -label_smoothing if loss == "robust" else label_smoothing
    losses_P = -(1 - label_smoothing) * F.logsigmoid(h_P) - wrong * F.logsigmoid(-h_P)
    return losses_P / (1 - 2 * label_smoothing) if loss == "robust" else losses_P
