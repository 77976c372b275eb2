"""What a stage that learns labels asks of the model's head, and the thresholds that its validation rows choose.

Left out: rows (data/labels.py), heads (models/purpose.py), the numbers themselves (grade/labels.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bottega.core.errors import UserError
from bottega.core.types import Row
from bottega.data.clean.held import Keys
from bottega.data.labels import Survey, balanced, survey
from bottega.grade import labels as grades
from bottega.models.purpose import CLASSES, LABELLED, LANGUAGE, Purpose
from bottega.train.labels import read_parts
from bottega.train.parts import Parts
from bottega.workshop.cleaning import read_sources
from bottega.workshop.recipe import Stage

DEFAULT_RATE = 0.05
"""The false-positive rate at which recall is shown where the recipe names none."""


def purpose_of(stage: Stage, *, seed: int = 0) -> Purpose:
    """What the stage's head is to answer.

    Raises:
        UserError: the data has too few labels.
    """
    kind = stage.objective.name
    if kind not in CLASSES:
        return Purpose(kind=LANGUAGE)
    if kind not in LABELLED or kind == "regression":
        return Purpose(kind=kind)
    found = look(stage, seed=seed)
    rarer = min(range(len(found.labels)), key=lambda c: (found.counts[c], -c))
    binary = kind == "classification" and len(found.labels) == 2
    return Purpose(kind=kind, labels=found.labels, positive=found.labels[rarer] if binary else None)


def look(stage: Stage, *, seed: int) -> Survey:
    """The labels of the stage's training data."""
    sources = read_sources(stage.data, stage.clean, seed=seed, held=Keys())
    return survey((sample for one in sources.found for sample in one), stage.objective.name)


def options_of(stage: Stage, rows: Sequence[Sequence[Row]], purpose: Purpose | None) -> dict[str, Any]:
    """The objective's options with `class_weights: balanced` worked out from the training rows."""
    options = dict(stage.objective.options)
    if options.get("class_weights") != "balanced":
        return {**options, "class_weights": tuple(options["class_weights"])} if "class_weights" in options else options
    assert purpose is not None and purpose.labels
    counts = np.zeros(len(purpose.labels), dtype=np.int64)
    number = 0
    for row in (row for one in rows for row in one):
        number += 1
        if purpose.kind == "multilabel":
            counts += np.array([int(row.extras[f"label.{c}"][0]) for c in range(len(counts))])
        else:
            own = row.tokens["label"] if purpose.kind == "tagging" else row.extras["label"]
            np.add.at(counts, np.asarray(own, dtype=np.int64), 1)
    if not counts.all():
        lacking = purpose.labels[int(np.argmin(counts))]
        raise UserError(f"class_weights: balanced needs a training row of every label, and {lacking!r} has none")
    found = Survey(labels=purpose.labels, counts=tuple(map(int, counts)), rows=number)
    return {**options, "class_weights": balanced(found, purpose.kind)}


class Answers:
    """The purpose that is saved with a stage's model; its thresholds are chosen anew at every evaluation."""

    def __init__(self, purpose: Purpose, false_positives: float | None) -> None:
        self.purpose = dataclasses.replace(purpose, false_positives=false_positives)

    def judge(self, parts: Parts, rows: Sequence[Row], *, micro_tokens: int) -> Mapping[str, float]:
        """Choose the thresholds on `rows`, and measure at them."""
        kind, rate = self.purpose.kind, self.purpose.false_positives or DEFAULT_RATE
        if kind == "tagging":
            found = np.concatenate(read_parts(parts, rows, "tags", micro_tokens=micro_tokens))
            right = np.concatenate([np.asarray(row.tokens["label"]) for row in rows]).astype(int)
            said = found.argmax(1)
            seen = sorted(set(right.tolist()))
            return {"f1": float(np.mean([grades.f1(said, right, c) for c in seen]))}
        logits = np.concatenate(read_parts(parts, rows, "labels", micro_tokens=micro_tokens)).astype(np.float64)
        if kind == "regression":
            return fit_of(logits[:, 0], np.array([row.extras["label"][0] for row in rows]))
        if kind == "multilabel":
            return self._several(1 / (1 + np.exp(-logits)), rows, rate)
        return self._one(grades.softmax(logits), np.array([int(row.extras["label"][0]) for row in rows]), rate)

    def _one(self, chance_NC: np.ndarray, label_N: np.ndarray, rate: float) -> dict[str, float]:
        purpose = self.purpose
        if purpose.positive is None:
            return grades.class_metrics(chance_NC, label_N, false_positives=rate)
        c = purpose.labels.index(purpose.positive)
        cut = grades.threshold_of(chance_NC[:, c], label_N == c, false_positives=purpose.false_positives)
        self.purpose = dataclasses.replace(purpose, thresholds={purpose.positive: cut})
        found = grades.class_metrics(chance_NC, label_N, positive=c, threshold=cut, false_positives=rate)
        return {**found, "threshold": cut}

    def _several(self, chance_NC: np.ndarray, rows: Sequence[Row], rate: float) -> dict[str, float]:
        num = len(self.purpose.labels)
        wanted = np.array([[row.extras[f"label.{c}"][0] for c in range(num)] for row in rows]) > 0.5
        wish = self.purpose.false_positives
        cuts = [grades.threshold_of(chance_NC[:, c], wanted[:, c], false_positives=wish) for c in range(num)]
        self.purpose = dataclasses.replace(self.purpose, thresholds=dict(zip(self.purpose.labels, cuts)))
        return grades.multilabel_metrics(chance_NC, wanted, cuts, false_positives=rate)


def fit_of(said_N: np.ndarray, wanted_N: np.ndarray) -> dict[str, float]:
    """R squared (1 - squared error over the variance; 0 says no more than the mean) and the root of the squared error."""
    error = float(((said_N - wanted_N) ** 2).mean())
    spread = float(((wanted_N - wanted_N.mean()) ** 2).mean())
    return {"rmse": error**0.5, "r2": 1 - error / spread if spread else 0.0}


def answers_of(purpose: Purpose | None, stage: Stage) -> Answers | None:
    """What is saved with the stage's model, where its head answers with labels or vectors."""
    return Answers(purpose, stage.false_positives) if purpose is not None else None
