"""Heads for labels and vectors from a recipe to `predict` and `embed`, and read by plain transformers and PEFT.

Left out: every family (tests/journey/test_families_page.py), the losses (tests/train/test_labels.py).
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel

from bottega.cli import door
from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.models import purpose
from bottega.workshop.predict import embed, predict
from bottega.workshop.stages import run
from bottega.workshop.use import generate
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


def test_a_plain_table_is_predicted_by_its_columns_and_the_report_names_the_verb(tmp_path, capsys):
    """Two columns make the text that the model has learned; without `--column` the table fits no format."""
    tiny_model("bert", tmp_path / "model")
    run(str(recipe(tmp_path, kind="classification", steps=4)), out=str(tmp_path / "run"), quiet=True)
    table = tmp_path / "new.csv"
    table.write_text("thing,state,verdict\nsaw,broken,bad\nlamp,bright,good\n")
    told = ["--column", "text=The {{ thing }} is {{ state }} today.", "--column", "label=verdict"]
    assert door(["predict", str(tmp_path / "run"), str(table), *told, "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["text"] for row in found["rows"]] == ["The saw is broken today.", "The lamp is bright today."]
    assert "accuracy" in found["scores"]
    assert door(["predict", str(tmp_path / "run"), str(table), "--quiet"]) == 2
    (tmp_path / "new.txt").write_text("The saw is broken today.\n")
    assert door(["predict", str(tmp_path / "run"), str(tmp_path / "new.txt"), *told, "--quiet"]) == 2
    assert "leave --column out" in capsys.readouterr().err
    page = (tmp_path / "run" / "report.html").read_text()
    assert "bottega predict" in page and "bottega chat" not in page


def test_every_kind_of_label_has_its_numbers_and_its_answers(tmp_path):
    tiny_model("bert", tmp_path / "model")
    wanted = {
        "multilabel": ({"eval.exact", "eval.f1", "eval.pr_auc"}, {"bad", "late"}),
        "regression": ({"eval.rmse", "eval.r2", "eval.mae"}, set()),
        "tagging": ({"eval.f1", "eval.accuracy"}, {"BAD", "O", "THING"}),
    }
    for kind, (numbers, names) in wanted.items():
        path = recipe(
            tmp_path,
            kind=kind,
            method=LORA if kind == "multilabel" else "full",
            steps=160 if kind == "regression" else 30,
        )
        facts = run(str(path), out=str(tmp_path / kind), quiet=True).stages["learn"]
        assert numbers <= facts.keys(), kind
        saved = purpose.read(result_of(tmp_path / kind))
        assert saved.kind == kind and set(saved.labels) == names
        found = predict(str(tmp_path / kind), str(tmp_path / f"{kind}.jsonl"), quiet=True)
        assert len(found["rows"]) == 96 and found["scores"]
        if kind == "multilabel":
            assert set(saved.thresholds) == names and isinstance(found["rows"][0]["label"], list)
        elif kind == "regression":
            assert isinstance(found["rows"][0]["label"], float) and facts["eval.r2"] > 0.2
        else:
            assert len(found["rows"][0]["tags"]) == len(found["rows"][0]["words"]) and facts["eval.f1"] > 0.5
            bare = predict(str(tmp_path / kind), ["The key is lost today"], quiet=True)["rows"][0]
            assert bare["words"] == ["The", "key", "is", "lost", "today"] and len(bare["tags"]) == 5


def test_vectors_of_pairs_come_closer_and_are_those_of_plain_transformers(tmp_path):
    tiny_model("bert", tmp_path / "model")
    facts = run(
        str(recipe(tmp_path, kind="contrastive", method=LORA, steps=100)), out=str(tmp_path / "run"), quiet=True
    ).stages["learn"]
    assert facts["accuracy"] > 0.3, "of 16 partners, 1 in 16 by chance"
    texts = ["Which one is sharp?", "saw number 3, the sharp one"]
    out = tmp_path / "v.npy"
    told = embed(str(tmp_path / "run"), texts, out=str(out), quiet=True)
    assert told == {"count": 2, "dim": 32, "cut": 0, "out": str(out), "vectors": []}
    result = result_of(tmp_path / "run")
    model = PeftModel.from_pretrained(transformers.AutoModel.from_pretrained(tmp_path / "model"), str(result)).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(result)
    for text, vector in zip(texts, np.load(out)):
        with torch.no_grad():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_a_mistake_is_one_sentence(tmp_path):
    tiny_model("bert", tmp_path / "model")
    tiny_model("t5", tmp_path / "t5")
    one = recipe(tmp_path, kind="classification", steps=2)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "same.jsonl").write_text('{"text": "a", "label": "x"}\n' * 8)
    for call, said in (
        (lambda: predict(str(tmp_path / "model"), ["a"]), "has no head for labels"),
        (lambda: predict(str(tmp_path / "model"), ["a"], threshold=1.5), "outside 0 to 1"),
        (lambda: embed(str(tmp_path / "t5"), ["a"]), "encoder-decoder"),
        (lambda: embed(str(tmp_path / "model"), str(tmp_path / "empty.txt")), "has no text"),
        (lambda: embed(str(tmp_path / "model"), str(tmp_path / "none.txt")), "there is no file"),
        (lambda: embed(str(tmp_path / "model"), ["a"], max_tokens=500), "128 positions"),
        (lambda: generate(str(tmp_path / "model"), ["a"]), "writes no text"),
        (lambda: run(str(one), [f"data={tmp_path}/same.jsonl"], out=str(tmp_path / "r1")), "at least 2"),
        (lambda: run(str(one), ["learn.objective=sft"], out=str(tmp_path / "r2")), "writes no answers|where chat is"),
        (lambda: run(str(one), [f"model={tmp_path}/t5"], out=str(tmp_path / "r3")), "writes labels as text"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_the_door_labels_a_file_and_writes_vectors(tmp_path):
    tiny_model("bert", tmp_path / "model")
    run(str(recipe(tmp_path, kind="classification", steps=4)), out=str(tmp_path / "run"), quiet=True)
    (tmp_path / "new.txt").write_text("The saw is dull today.\nThe key is dry at night.\n")
    base = [sys.executable, "-m", "bottega.cli"]
    new, out = str(tmp_path / "new.txt"), str(tmp_path / "out.jsonl")
    done = subprocess.run(
        [*base, "predict", str(tmp_path / "run"), new, "--out", out, "--json", "--quiet"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [row["text"] for row in json.loads(done.stdout)["rows"]] == (tmp_path / "new.txt").read_text().splitlines()
    assert [json.loads(line)["label"] for line in open(out)] == [r["label"] for r in json.loads(done.stdout)["rows"]]
