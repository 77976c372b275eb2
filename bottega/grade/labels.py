"""How well labels were given: accuracy, F1, precision-recall area, recall at a false-positive rate, and the threshold to take.

Left out: intervals (intervals.py) and where the probabilities come from. Plain numpy, so that every number can be checked by hand.

Shapes: N rows, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Floats = Sequence[float] | np.ndarray


def softmax(logits_NC: np.ndarray) -> np.ndarray:
    """Probabilities, (N, C).

    >>> softmax(np.array([[0.0, np.log(3.0)]])).round(6).tolist()
    [[0.25, 0.75]]
    """
    raised = np.exp(logits_NC - logits_NC.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def f1(said: Sequence[int] | np.ndarray, right: Sequence[int] | np.ndarray, label: int) -> float:
    """2 TP / (2 TP + FP + FN) of one label; 0 where it was neither said nor right.

    >>> f1([1, 1, 0, 0], [1, 0, 1, 0], 1)  # TP 1, FP 1, FN 1
    0.5
    """
    a, b = np.asarray(said) == label, np.asarray(right) == label
    hits, extra, missed = int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum())
    return 2 * hits / (2 * hits + extra + missed) if hits else 0.0


def _steps(probability_N: Floats, positive_N: Sequence[bool] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct probabilities from high to low, and true and false positives when all rows from there on are said to be positive."""
    probability, positive = np.asarray(probability_N, dtype=np.float64), np.asarray(positive_N, dtype=bool)
    order = np.argsort(-probability, kind="stable")
    probability, positive = probability[order], positive[order]
    last = np.flatnonzero(np.append(np.diff(probability) != 0, True))  # rows of one probability go together
    true = np.cumsum(positive)[last]
    return probability[last], true, last + 1 - true


def pr_auc(probability_N: Floats, positive_N: Sequence[bool] | np.ndarray) -> float:
    """Average precision: sum over thresholds of (R_k - R_k-1) P_k, without interpolation (Manning et al. 2008, section 8.4).

    0 where no row is positive.

    >>> round(pr_auc([0.9, 0.8, 0.7, 0.6], [True, False, True, False]), 4)  # 1/2 * 1 + 1/2 * 2/3
    0.8333
    """
    _, true, false = _steps(probability_N, positive_N)
    if not len(true) or true[-1] == 0:
        return 0.0
    recall, precision = true / true[-1], true / (true + false)
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def recall_at(
    probability_N: Floats, positive_N: Sequence[bool] | np.ndarray, *, false_positives: float
) -> tuple[float, float]:
    """The largest recall with a false-positive rate of at most `false_positives`, and the threshold that gives it.

    A row is said to be positive from the threshold on. Where even the highest probability breaks the rate, nothing is said: recall
    0 at a threshold above 1.

    >>> recall_at([0.9, 0.8, 0.7, 0.6], [True, False, True, False], false_positives=0.5)  # 0.7: both found, 1 of 2 wrongly
    (1.0, 0.7)
    """
    values, true, false = _steps(probability_N, positive_N)
    negatives = false[-1] if len(false) else 0
    kept = np.flatnonzero(false <= false_positives * negatives + 1e-12)
    if not len(kept) or true[-1] == 0:
        return 0.0, 1.0 + 1e-6
    best = kept[np.argmax(true[kept])]
    return float(true[best] / true[-1]), float(values[best])


def best_threshold(probability_N: Floats, positive_N: Sequence[bool] | np.ndarray) -> float:
    """The threshold of the best F1, in the middle between the last row it takes and the next; 0.5 where no row is positive.

    >>> best_threshold([0.9, 0.8, 0.3, 0.1], [True, True, False, False])  # between 0.8 and 0.3
    0.55
    """
    values, true, false = _steps(probability_N, positive_N)
    if not len(true) or true[-1] == 0:
        return 0.5
    best = int(np.argmax(2 * true / (true + false + true[-1])))
    below = values[best + 1] if best + 1 < len(values) else 0.0
    return float(np.round((values[best] + below) / 2, 12))


def threshold_of(
    probability_N: Floats, positive_N: Sequence[bool] | np.ndarray, *, false_positives: float | None
) -> float:
    """The threshold to store: of the best F1, or of the most recall within a false-positive rate."""
    if false_positives is None:
        return best_threshold(probability_N, positive_N)
    return recall_at(probability_N, positive_N, false_positives=false_positives)[1]


def class_metrics(
    probability_NC: np.ndarray,
    label_N: np.ndarray,
    *,
    positive: int | None = None,
    threshold: float = 0.5,
    false_positives: float = 0.05,
) -> dict[str, float]:
    """What validation rows say of one label out of several.

    Args:
        positive: of two labels, the one that is looked for: f1, pr_auc and recall are its own, at `threshold`. None: averages over
            the labels (macro), each against the rest.
    """
    num_labels = probability_NC.shape[1]
    if positive is not None:
        chance = probability_NC[:, positive]
        said = np.where(chance >= threshold, positive, 1 - positive)
        looked_for = [positive]
    else:
        said = probability_NC.argmax(1)
        looked_for = list(range(num_labels))
    found = [(probability_NC[:, c], label_N == c) for c in looked_for]
    return {
        "accuracy": float((said == label_N).mean()),
        "f1": float(np.mean([f1(said, label_N, c) for c in looked_for])),
        "pr_auc": float(np.mean([pr_auc(p, y) for p, y in found])),
        "recall_at_fpr": float(np.mean([recall_at(p, y, false_positives=false_positives)[0] for p, y in found])),
    }


def multilabel_metrics(
    probability_NC: np.ndarray, wanted_NC: np.ndarray, thresholds_C: Floats, *, false_positives: float = 0.05
) -> dict[str, float]:
    """What validation rows say of several labels at once, averaged over the labels that some row has (macro)."""
    said = probability_NC >= np.asarray(thresholds_C)
    wanted = wanted_NC.astype(bool)
    seen = [c for c in range(wanted.shape[1]) if wanted[:, c].any()]
    return {
        "accuracy": float((said == wanted).mean()),
        "exact": float((said == wanted).all(1).mean()),
        "f1": float(np.mean([f1(said[:, c], wanted[:, c], 1) for c in seen])) if seen else 0.0,
        "pr_auc": float(np.mean([pr_auc(probability_NC[:, c], wanted[:, c]) for c in seen])) if seen else 0.0,
        "recall_at_fpr": float(
            np.mean([recall_at(probability_NC[:, c], wanted[:, c], false_positives=false_positives)[0] for c in seen])
        )
        if seen
        else 0.0,
    }
