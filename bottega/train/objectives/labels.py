"""Objectives of a head for labels: one of several, several at once, a number, and a tag a token.

Left out: which label is which output (models/purpose.py) and thresholds (grade/labels.py).

Shapes: Q sequences, C labels, S tokens that have a tag.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bottega.core.errors import UserError
from bottega.core.types import Scores, Sums, Targets, Term


def classification(
    scores: Scores,
    targets: Targets,
    *,
    class_weights: tuple[float, ...] | Literal["balanced"] = (),
    focal: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[dict[str, Term], Sums]:
    """Make the right label likely, and look harder at rare labels or at rows that are still wrong.

    w_y (1 - p_y)^g H(q, p), with p = softmax of the scores, q the label smoothed by e: (1 - e) on y and e / C on all; focal loss is
    Lin et al. 2017 (arXiv 1708.02002) eq. 5, smoothing Szegedy et al. 2015 (arXiv 1512.00567) section 7.

    Args:
        scores: `labels` (Q, C). targets: extras `label` (Q,), the number of each row's label.
        class_weights: w, one a label in their order; `balanced`: n / (C n_y) of the training rows, filled in by the builder.
        focal: g; 0 is cross-entropy, 2 is usual. label_smoothing: e, 0 up to 1.

    Returns:
        One term in rows; metrics per row: loss, accuracy.

    >>> import math, torch
    >>> none = torch.zeros(0)
    >>> t = Targets(labels_S=none, weights_S=none, sequence_S=none, row_Q=torch.tensor([0]), extras_Q={"label": torch.tensor([1.0])})
    >>> terms, _ = classification({"labels": torch.tensor([[0.0, math.log(3.0)]])}, t, focal=2.0)
    >>> math.isclose(terms["labels"].total, 0.25**2 * -math.log(0.75), rel_tol=1e-6)  # p_y = 3 / 4
    True
    """
    assert not isinstance(class_weights, str), "the builder turns `balanced` into numbers"
    _check(class_weights, scores["labels"], focal, label_smoothing)
    losses_Q, right_Q = _losses(
        scores["labels"], targets.extras_Q["label"].long(), class_weights, focal, label_smoothing
    )
    return {"labels": Term(losses_Q.sum(), "rows")}, {
        "loss/rows": losses_Q.detach().sum(),
        "accuracy/rows": right_Q.sum(),
    }


def tagging(
    scores: Scores,
    targets: Targets,
    *,
    class_weights: tuple[float, ...] | Literal["balanced"] = (),
    focal: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[dict[str, Term], Sums]:
    """The same as `classification`, at every token that has a tag (the first of each word).

    Args:
        scores: `tags` (S, C). targets: labels_S, the number of each tag; weights_S.
        class_weights, focal, label_smoothing: as in `classification`.

    Returns:
        One term in tokens; metrics per token: loss, accuracy.
    """
    assert not isinstance(class_weights, str), "the builder turns `balanced` into numbers"
    _check(class_weights, scores["tags"], focal, label_smoothing)
    losses_S, right_S = _losses(scores["tags"], targets.labels_S, class_weights, focal, label_smoothing)
    total = (targets.weights_S * losses_S).sum()
    return {"tags": Term(total, "tokens")}, {
        "loss/tokens": total.detach(),
        "accuracy/tokens": (targets.weights_S * right_S).sum(),
    }


def multilabel(
    scores: Scores,
    targets: Targets,
    *,
    class_weights: tuple[float, ...] | Literal["balanced"] = (),
    focal: float = 0.0,
) -> tuple[dict[str, Term], Sums]:
    """A yes or no for every label by itself: the mean over labels of -w_c (1 - p)^g log p, p the probability of the right answer.

    w_c weighs the yes of label c alone, as torch's `pos_weight`; focal loss as Lin et al. 2017 (arXiv 1708.02002) eq. 4.

    Args:
        scores: `labels` (Q, C). targets: extras `label.0`, `label.1` ... (Q,), 1 where the label holds.
        class_weights: one a label; `balanced`: rows without the label over rows with it, filled in by the builder. focal: g.

    Returns:
        One term in rows; metrics per row: loss, accuracy (share of labels answered rightly at 0.5), exact (all of them).
    """
    assert not isinstance(class_weights, str), "the builder turns `balanced` into numbers"
    logits_QC = scores["labels"]
    _check(class_weights, logits_QC, focal, 0.0)
    wanted_QC = torch.stack([targets.extras_Q[f"label.{c}"] for c in range(logits_QC.shape[1])], 1)
    right = torch.where(wanted_QC > 0.5, logits_QC, -logits_QC)  # log p of the right answer is logsigmoid of it
    losses_QC = -F.logsigmoid(right)
    if focal:
        losses_QC = losses_QC * torch.sigmoid(-right) ** focal
    if class_weights:
        weights_C = losses_QC.new_tensor(class_weights)
        losses_QC = losses_QC * torch.where(wanted_QC > 0.5, weights_C, torch.ones_like(weights_C))
    losses_Q, good_QC = losses_QC.mean(1), (right > 0).float()
    return {"labels": Term(losses_Q.sum(), "rows")}, {
        "loss/rows": losses_Q.detach().sum(),
        "accuracy/rows": good_QC.mean(1).sum(),
        "exact/rows": good_QC.min(1).values.sum(),
    }


def regression(
    scores: Scores, targets: Targets, *, loss: Literal["mse", "mae", "huber"] = "mse", delta: float = 1.0
) -> tuple[dict[str, Term], Sums]:
    """Come near a number: (s - y)^2, |s - y|, or Huber's of both (quadratic within `delta`; Huber 1964, eq. 2).

    Args:
        scores: `labels` (Q, 1). targets: extras `label` (Q,), in the data's own unit (order 1 learns best).
        delta: of huber, in that unit.

    Returns:
        One term in rows; metrics per row: loss, absolute error (mae).
    """
    if loss not in ("mse", "mae", "huber"):
        raise UserError(f"regression loss {loss!r} is not one of mse, mae, huber")
    if delta <= 0:
        raise UserError(f"regression delta {delta} must be above 0; 1 is usual")
    said_Q, wanted_Q = scores["labels"][:, 0], targets.extras_Q["label"]
    if loss == "mse":
        losses_Q = (said_Q - wanted_Q) ** 2
    elif loss == "mae":
        losses_Q = (said_Q - wanted_Q).abs()
    else:
        losses_Q = F.huber_loss(said_Q, wanted_Q, reduction="none", delta=delta)
    return {"labels": Term(losses_Q.sum(), "rows")}, {
        "loss/rows": losses_Q.detach().sum(),
        "mae/rows": (said_Q - wanted_Q).abs().detach().sum(),
    }


def _check(class_weights: tuple[float, ...], logits: Tensor, focal: float, label_smoothing: float) -> None:
    if class_weights and len(class_weights) != logits.shape[1]:
        raise UserError(
            f"class_weights has {len(class_weights)} numbers for {logits.shape[1]} labels; give one a label"
        )
    if any(weight < 0 for weight in class_weights):
        raise UserError(f"class_weights holds {min(class_weights)}; a weight is 0 or more")
    if focal < 0:
        raise UserError(f"focal {focal} is below 0; 0 is cross-entropy, 2 is usual")
    if not 0.0 <= label_smoothing < 1.0:
        raise UserError(f"label_smoothing {label_smoothing} is outside [0, 1); 0.1 is usual")


def _losses(
    logits_NC: Tensor, label_N: Tensor, class_weights: tuple[float, ...], focal: float, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Each row's weighted loss, and 1 where the likeliest label is the right one."""
    logp_NC = torch.log_softmax(logits_NC, -1)
    logp_N = logp_NC.gather(1, label_N[:, None])[:, 0]
    losses_N = -(1 - label_smoothing) * logp_N - label_smoothing * logp_NC.mean(1)
    if focal:
        losses_N = losses_N * (1 - logp_N.exp()) ** focal
    if class_weights:
        losses_N = losses_N * losses_N.new_tensor(class_weights)[label_N]
    return losses_N, (logits_NC.argmax(1) == label_N).float()
