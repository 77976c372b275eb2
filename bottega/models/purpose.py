"""What a model with a head answers: one of several labels, several at once, a number, a tag a token, a vector; kept beside its weights.

Left out: the heads themselves, which are transformers' own classes, so that plain transformers loads what is saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bottega.core import rundir
from bottega.core.errors import Unsafe, UserError
from bottega.models import kinds, safety

FILE = "purpose.json"
CLASSES: dict[str, str] = {
    "classification": "AutoModelForSequenceClassification",
    "multilabel": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "tagging": "AutoModelForTokenClassification",
    "contrastive": "AutoModel",
}
"""Purpose -> the class of transformers that has its head. `contrastive` is for encoders; decoders stay language models."""
LANGUAGE = "language"
"""Asked for by objectives of language; what is loaded then has no purpose of its own."""
PROBLEMS = {
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}
POOLED = ("classification", "multilabel", "regression")
LABELLED = (*POOLED, "tagging")


@dataclass(frozen=True, kw_only=True, slots=True)
class Purpose:
    """kind: a key of CLASSES, or LANGUAGE. labels: their names in the order of the head's outputs. positive: of two labels,
    the one that is looked for. thresholds: label -> the probability from which it is said, chosen on validation rows;
    false_positives: the largest false-positive rate they were chosen for, None: for the best F1.
    """

    kind: str
    labels: tuple[str, ...] = ()
    positive: str | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    false_positives: float | None = None

    def __post_init__(self) -> None:
        assert self.kind in CLASSES or self.kind == LANGUAGE, self.kind

    def save(self, folder: str | Path) -> None:
        """Write it beside a model's weights."""
        rundir.write_json(
            Path(folder) / FILE,
            {
                "kind": self.kind,
                "labels": list(self.labels),
                "positive": self.positive,
                "thresholds": dict(self.thresholds),
                "false_positives": self.false_positives,
            },
        )

    def options(self) -> dict[str, Any]:
        """What the config of a head says: labels, and which loss plain transformers would take."""
        if self.kind not in LABELLED:
            return {}
        names = self.labels or ("value",)
        problem = {"problem_type": PROBLEMS[self.kind]} if self.kind in PROBLEMS else {}
        return {
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
            **problem,
        }


def read(folder: str | Path) -> Purpose | None:
    """The purpose of a saved model: what its file says, or its config, where another tool trained the head; else None.

    Raises:
        Unsafe: the file is damaged.
    """
    folder = Path(folder)
    if (folder / FILE).is_file():
        return _checked(folder / FILE, safety.read_config(folder / FILE))
    if not (folder / "config.json").is_file():
        return None
    config = safety.read_config(folder / "config.json")
    name = str((config.get("architectures") or [""])[0])
    labels = tuple(str(label) for _, label in sorted((int(k), v) for k, v in (config.get("id2label") or {}).items()))
    if name.endswith("Model") and kinds.kind_of(SimpleNamespace(**config)) == "encoder":
        return Purpose(kind="contrastive")  # a trunk without a head gives vectors
    if name.endswith("ForTokenClassification"):
        return Purpose(kind="tagging", labels=labels)
    if not name.endswith("ForSequenceClassification"):
        return None
    known = {problem: kind for kind, problem in PROBLEMS.items()}
    kind = known.get(config.get("problem_type") or "", "regression" if len(labels) == 1 else "classification")
    positive = labels[1] if kind == "classification" and len(labels) == 2 else None
    return Purpose(kind=kind, labels=() if kind == "regression" else labels, positive=positive)


def wanted(saved: Purpose | None, asked: Purpose | None) -> Purpose | None:
    """The purpose to load with: what was asked for, but a saved one that knows all its labels goes on as it is."""
    if asked is None or saved is None:
        return asked or saved
    return saved if asked.kind == saved.kind and set(asked.labels) <= set(saved.labels) else asked


def _checked(path: Path, raw: Any) -> Purpose:
    try:
        made = Purpose(
            kind=str(raw["kind"]),
            labels=tuple(map(str, raw["labels"])),
            positive=raw["positive"],
            thresholds={str(name): float(value) for name, value in raw["thresholds"].items()},
            false_positives=raw["false_positives"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise Unsafe(f"{path} is damaged ({type(error).__name__}: {error}); restore it, or train again") from None
    if not set(made.thresholds) <= set(made.labels) or made.positive not in (None, *made.labels):
        raise Unsafe(f"{path} names labels that it does not list; restore it, or train again")
    return made


def need(purpose: Purpose | None, folder: str | Path) -> Purpose:
    """The purpose of a model that is asked for labels.

    Raises:
        UserError: it has none.
    """
    if purpose is None or purpose.kind not in LABELLED:
        raise UserError(
            f"{folder} has no head for labels; train one with objective {', '.join(LABELLED)}, or ask it with generate"
        )
    return purpose
