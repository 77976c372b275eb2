"""Precision-recall area, recall at a false-positive rate and thresholds, by hand and by brute force."""

import numpy as np
import pytest

from bottega.grade import labels


def brute(probability, positive):
    """Every threshold tried: (threshold, true positives, false positives)."""
    return [
        (t, int((positive & (probability >= t)).sum()), int((~positive & (probability >= t)).sum()))
        for t in sorted(set(probability), reverse=True)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_every_number_equals_the_one_of_trying_all_thresholds(seed):
    draw = np.random.default_rng(seed)
    probability = np.round(draw.random(60), 2)  # with ties
    positive = draw.random(60) < probability * 0.6
    tried = brute(probability, positive)
    total, negatives = int(positive.sum()), int((~positive).sum())
    area, before = 0.0, 0.0
    for _, hits, extra in tried:
        area += (hits / total - before) * hits / (hits + extra)
        before = hits / total
    assert labels.pr_auc(probability, positive) == pytest.approx(area)
    for rate in (0.0, 0.05, 0.2):
        kept = [(hits / total, t) for t, hits, extra in tried if extra <= rate * negatives]
        found, cut = labels.recall_at(probability, positive, false_positives=rate)
        assert found == pytest.approx(max(kept, default=(0.0, 1.1))[0])
        said = probability >= cut
        assert (said & ~positive).sum() <= rate * negatives + 1e-9
    cut = labels.best_threshold(probability, positive)
    scores = [2 * hits / (hits + extra + total) for _, hits, extra in tried]
    assert labels.f1(probability >= cut, positive, 1) == pytest.approx(max(scores))


def test_without_a_positive_or_a_negative_row_nothing_is_divided_by_zero():
    assert labels.pr_auc([0.5, 0.4], [False, False]) == 0.0
    assert labels.best_threshold([0.5, 0.4], [False, False]) == 0.5
    assert labels.recall_at([0.5, 0.4], [True, True], false_positives=0.1) == (1.0, 0.4)
    assert labels.recall_at([0.9, 0.4], [False, True], false_positives=0.0)[0] == 0.0


def test_class_metrics_of_two_labels_are_those_of_the_positive_one():
    """Probabilities of `positive`: 0.9 (yes), 0.6 (no), 0.4 (yes), 0.1 (no).

    At 0.5: hits 1, extra 1, missed 1: F1 2 / (2 + 1 + 1) = 0.5.
    """
    chance = np.array([[0.1, 0.9], [0.4, 0.6], [0.6, 0.4], [0.9, 0.1]])
    found = labels.class_metrics(chance, np.array([1, 0, 1, 0]), positive=1, false_positives=0.0)
    assert (found["accuracy"], found["f1"], found["recall_at_fpr"]) == (0.5, 0.5, 0.5)
    macro = labels.class_metrics(chance, np.array([1, 0, 1, 0]))
    assert macro["f1"] == 0.5


def test_multilabel_metrics_average_over_the_labels_that_occur():
    chance = np.array([[0.9, 0.2, 0.1], [0.8, 0.7, 0.2]])
    found = labels.multilabel_metrics(chance, np.array([[1, 0, 0], [1, 1, 0]]), [0.5, 0.5, 0.5])
    assert found["f1"] == 1.0 and found["exact"] == 1.0 and found["accuracy"] == 1.0
