"""Losses of heads for labels against torch's own functions and numbers worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from bottega.core.errors import UserError
from bottega.core.types import Targets
from bottega.train.objectives import labels

NONE = torch.zeros(0)


def targets(**extras):
    count = len(next(iter(extras.values())))
    return Targets(
        labels_S=NONE, weights_S=NONE, sequence_S=NONE, row_Q=torch.arange(count),
        extras_Q={name.replace("_", "."): torch.tensor(values, dtype=torch.float32) for name, values in extras.items()},
    )  # fmt: skip


def some(rows, columns):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float32)


def test_classification_is_torch_s_cross_entropy_with_weights_and_smoothing():
    scores, wanted = some(7, 3), [0, 2, 1, 1, 0, 2, 2]
    terms, sums = labels.classification({"labels": scores}, targets(label=wanted), label_smoothing=0.1)
    same = F.cross_entropy(scores, torch.tensor(wanted), label_smoothing=0.1, reduction="sum")
    assert torch.allclose(terms["labels"].total, same, atol=1e-5) and terms["labels"].unit == "rows"
    assert float(sums["accuracy/rows"]) == float((scores.argmax(1) == torch.tensor(wanted)).sum())
    weighed, _ = labels.classification({"labels": scores}, targets(label=wanted), class_weights=(0.5, 2.0, 1.0))
    weights = torch.tensor([0.5, 2.0, 1.0])
    same = F.cross_entropy(scores, torch.tensor(wanted), weight=weights, reduction="sum")
    assert torch.allclose(weighed["labels"].total, same, atol=1e-5)


def test_focal_loss_looks_past_rows_that_are_right_already():
    """p = (1/4, 3/4): with g = 2 the right label 1 costs (1/4)^2 * -ln(3/4) = 0.01798, the wrong one (3/4)^2 * ln 4 = 0.77979."""
    scores = torch.tensor([[0.0, math.log(3.0)]])
    easy, _ = labels.classification({"labels": scores}, targets(label=[1.0]), focal=2.0)
    hard, _ = labels.classification({"labels": scores}, targets(label=[0.0]), focal=2.0)
    assert float(easy["labels"].total) == pytest.approx(0.01798, abs=1e-5)
    assert float(hard["labels"].total) == pytest.approx(0.77979, abs=1e-5)


def test_multilabel_is_torch_s_binary_cross_entropy_with_pos_weight_averaged_over_labels():
    scores = some(4, 3)
    wanted = torch.tensor([[1.0, 0, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    given = {f"label_{c}": wanted[:, c].tolist() for c in range(3)}
    terms, sums = labels.multilabel({"labels": scores}, targets(**given), class_weights=(2.0, 1.0, 3.0))
    same = F.binary_cross_entropy_with_logits(
        scores, wanted, pos_weight=torch.tensor([2.0, 1.0, 3.0]), reduction="none"
    )
    assert torch.allclose(terms["labels"].total, same.mean(1).sum(), atol=1e-5)
    assert float(sums["exact/rows"]) == float(((scores > 0) == (wanted > 0.5)).all(1).sum())


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_regression_is_torch_s(loss):
    said, wanted = some(5, 1) * 3, [0.0, 1.5, -2.0, 4.0, 0.25]
    terms, _ = labels.regression({"labels": said}, targets(label=wanted), loss=loss, delta=0.7)
    right = torch.tensor(wanted)
    same = {
        "mse": F.mse_loss(said[:, 0], right, reduction="sum"),
        "mae": F.l1_loss(said[:, 0], right, reduction="sum"),
        "huber": F.huber_loss(said[:, 0], right, reduction="sum", delta=0.7),
    }
    assert torch.allclose(terms["labels"].total, same[loss], atol=1e-5)


def test_tagging_weighs_tokens_and_reads_the_tags_where_they_stand():
    scores, wanted = some(4, 3), torch.tensor([0, 1, 2, 1])
    given = Targets(
        labels_S=wanted, weights_S=torch.tensor([1.0, 1.0, 0.5, 1.0]), sequence_S=NONE, row_Q=torch.tensor([0])
    )
    terms, _ = labels.tagging({"tags": scores}, given)
    each = F.cross_entropy(scores, wanted, reduction="none")
    assert torch.allclose(terms["tags"].total, (each * given.weights_S).sum(), atol=1e-5)


def test_options_out_of_range_say_the_value_and_the_remedy():
    scores = {"labels": some(2, 2)}
    for options, said in (
        ({"class_weights": (1.0,)}, "1 numbers for 2 labels"),
        ({"class_weights": (1.0, -1.0)}, "-1.0"),
        ({"focal": -0.5}, "focal -0.5"),
        ({"label_smoothing": 1.0}, "label_smoothing 1.0"),
    ):
        with pytest.raises(UserError, match=said):
            labels.classification(scores, targets(label=[0.0, 1.0]), **options)
    with pytest.raises(UserError, match="not one of mse"):
        labels.regression({"labels": some(1, 1)}, targets(label=[0.0]), loss="l3")
