"""Heads for labels and vectors from a recipe to `predict` and `embed`, and read by plain transformers and PEFT.

Left out: every family (tests/journey/test_families_page.py), the losses (tests/train/test_labels.py).
"""

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel

from bottega.core import rundir
from bottega.models import purpose
from bottega.workshop.predict import predict
from bottega.workshop.stages import run
from tests.models.tiny import tiny_model
from tests.workshop.labelled import recipe

LORA = "{name: lora, rank: 4}"


def result_of(folder):
    return next(folder.glob("stages/*/result"))


def plain(result, auto, tokenizer, texts):
    """Logits of plain transformers, or of plain PEFT on plain transformers, one text at a time."""
    config = result / "adapter_config.json"
    saved = purpose.read(result)
    heads = {"num_labels": len(saved.labels)} if saved.labels else {"num_labels": 1}
    where = result if not config.is_file() else rundir.read_json(config)["base_model_name_or_path"]
    model = getattr(transformers, auto).from_pretrained(where, dtype=torch.float32, **heads)
    if config.is_file():
        model = PeftModel.from_pretrained(model, str(result))
    with torch.no_grad():
        return [model.eval()(**tokenizer(text, return_tensors="pt")).logits[0].numpy() for text in texts]


@pytest.mark.parametrize(("family", "method"), [("bert", "full"), ("roberta", LORA)])
def test_a_classifier_is_trained_keeps_its_threshold_and_says_what_plain_transformers_says(tmp_path, family, method):
    tiny_model(family, tmp_path / "model")
    objective = "{name: classification, class_weights: balanced, focal: 1.0}"
    path = recipe(
        tmp_path, kind="classification", method=method, objective=objective, more="      false_positives: 0.1\n"
    )
    facts = run(str(path), out=str(tmp_path / "run"), quiet=True).stages["learn"]
    assert {"eval.accuracy", "eval.f1", "eval.pr_auc", "eval.recall_at_fpr", "eval.threshold"} <= facts.keys()
    result = result_of(tmp_path / "run")
    saved = purpose.read(result)
    assert (saved.labels, saved.positive, saved.false_positives) == (("bad", "good"), "bad", 0.1)
    assert saved.thresholds == {"bad": facts["eval.threshold"]}

    found = predict(str(tmp_path / "run"), str(tmp_path / "classification.jsonl"), quiet=True)
    assert len(found["rows"]) == 96 and found["scores"].keys() == {"accuracy", "f1", "pr_auc", "recall_at_fpr"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(result)
    texts = [row["text"] for row in found["rows"][:6]]
    for row, logits in zip(found["rows"], plain(result, "AutoModelForSequenceClassification", tokenizer, texts)):
        chance = np.exp(logits) / np.exp(logits).sum()
        assert np.allclose(list(row["probabilities"].values()), chance, atol=1e-5)
        assert row["label"] == ("bad" if row["probabilities"]["bad"] >= saved.thresholds["bad"] else "good")
    always = predict(str(result), texts, threshold=0.0, quiet=True)
    assert {row["label"] for row in always["rows"]} == {"bad"} and always["scores"] == {}
