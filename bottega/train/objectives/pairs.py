"""Preference objectives without a reference: ORPO, SimPO and CPO, on the same pairs as DPO.

Left out: DPO and its kin (preference.py), unpaired preferences (unpaired.py).

Shapes: S supervised positions, Q sequences (chosen and rejected of a pair are neighbours), P pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bottega.core.errors import UserError
from bottega.core.types import Scores, Sums, Targets, Term
from bottega.train.objectives.preference import per_sequence


def orpo(scores: Scores, targets: Targets, *, ratio_weight: float = 0.1) -> tuple[dict[str, Term], Sums]:
    """Imitate the chosen answer, and make its odds larger than those of the rejected one.

    nll(chosen) - l log s(log odds(chosen) - log odds(rejected)) with p = exp(mean log-probability of a token) and odds = p / (1 - p):
    Hong et al. 2024 (arXiv 2403.07691) eq. 3 to 7.

    Args:
        scores: `logp` (S,). ratio_weight: l (the paper's lambda), 0.1 to 1.

    Returns:
        Two terms in pairs; metrics per pair: loss, accuracy (the chosen answer has the larger odds), margin (the log odds ratio).

    >>> import math, torch
    >>> t = Targets(labels_S=torch.zeros(2), weights_S=torch.ones(2), sequence_S=torch.tensor([0, 1]), row_Q=torch.tensor([0, 0]))
    >>> terms, _ = orpo({"logp": torch.tensor([0.5, 0.25]).log()}, t, ratio_weight=0.1)
    >>> math.isclose(terms["ratio"].total, math.log(4 / 3), rel_tol=1e-6)  # odds 1 and 1/3: s(log 3) = 3/4
    True
    """
    if ratio_weight < 0:
        raise UserError(f"orpo ratio_weight {ratio_weight} is below 0; 0.1 is usual")
    mean_Q = _means(scores["logp"], targets).clamp(max=-1e-7)  # a certain answer has infinite odds
    odds_Q = mean_Q - torch.log1p(-mean_Q.exp())
    lead_P = odds_Q[0::2] - odds_Q[1::2]
    nll_P, ratio_P = -mean_Q[0::2], -F.logsigmoid(lead_P)
    terms = {"nll": Term(nll_P.sum(), "pairs"), "ratio": Term(ratio_P.sum(), "pairs", ratio_weight)}
    sums = {"loss/pairs": (nll_P + ratio_weight * ratio_P).detach().sum(), "nll/pairs": nll_P.detach().sum()}
    return terms, sums | _compared(lead_P)


def simpo(
    scores: Scores,
    targets: Targets,
    *,
    beta: float = 2.0,
    gamma: float = 1.0,
    label_smoothing: float = 0.0,
    sft_weight: float = 0.0,
) -> tuple[dict[str, Term], Sums]:
    """Make the chosen answer likelier a token than the rejected one, by a margin.

    -log s(h), h = b (mean logp(chosen) - mean logp(rejected)) - g: Meng et al. 2024 (arXiv 2405.14734) eq. 6.

    Args:
        scores: `logp` (S,). beta: b, 2 to 10. gamma: g, in units of h; about half of beta at most.
        label_smoothing: share of pairs believed to be labelled wrongly, [0, 0.5). sft_weight: adds that much of the chosen answer's
            mean negative log-likelihood.

    Returns:
        One term in pairs (and `sft`); metrics per pair: loss, accuracy, margin (h + g).
    """
    mean_Q = _means(scores["logp"], targets)
    lead_P = beta * (mean_Q[0::2] - mean_Q[1::2])
    losses_P = _logistic(lead_P - gamma, label_smoothing)
    return _with_sft("simpo", losses_P, -mean_Q[0::2], sft_weight, lead_P)


def cpo(
    scores: Scores,
    targets: Targets,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    sft_weight: float = 1.0,
) -> tuple[dict[str, Term], Sums]:
    """DPO with a uniform reference, held in place by imitating the chosen answer.

    -log s(b (logp(chosen) - logp(rejected))) + w nll(chosen): Xu et al. 2024 (arXiv 2401.08417) eq. 5 to 7; the second part is averaged
    over tokens here, so that its weight does not depend on length.

    Args:
        scores: `logp` (S,). beta: 0.05 to 0.5. label_smoothing: as in `simpo`. sft_weight: w, 1 in the paper.

    Returns:
        One term in pairs (and `sft`); metrics per pair: loss, accuracy, margin (b times the difference).
    """
    sum_Q = per_sequence(scores["logp"], targets)
    lead_P = beta * (sum_Q[0::2] - sum_Q[1::2])
    return _with_sft(
        "cpo", _logistic(lead_P, label_smoothing), -_means(scores["logp"], targets)[0::2], sft_weight, lead_P
    )


def _means(logp_S: Tensor, targets: Targets) -> Tensor:
    """Log-probability a token of each sequence, (Q,)."""
    return per_sequence(logp_S, targets) / per_sequence(torch.ones_like(targets.weights_S), targets).clamp(min=1)


def _logistic(h_P: Tensor, label_smoothing: float) -> Tensor:
    if not 0.0 <= label_smoothing < 0.5:
        raise UserError(
            f"label_smoothing {label_smoothing} is outside [0, 0.5): half would mean that labels say nothing"
        )
    return -(1 - label_smoothing) * F.logsigmoid(h_P) - label_smoothing * F.logsigmoid(-h_P)


def _with_sft(
    name: str, losses_P: Tensor, nll_P: Tensor, sft_weight: float, lead_P: Tensor
) -> tuple[dict[str, Term], Sums]:
    terms = {name: Term(losses_P.sum(), "pairs")}
    if sft_weight:
        terms["sft"] = Term(nll_P.sum(), "pairs", sft_weight)
    sums = {"loss/pairs": losses_P.detach().sum(), "nll/pairs": nll_P.detach().sum()}
    return terms, sums | _compared(lead_P)


def _compared(lead_P: Tensor) -> Sums:
    return {"accuracy/pairs": (lead_P > 0).float().sum(), "margin/pairs": lead_P.detach().sum()}
