"""Distillation from logits: the divergence by hand and against TRL, in any layout, and a student, on-policy too (row A8)."""

from __future__ import annotations

import doctest
import json
import math
from pathlib import Path

import pytest
import torch

from bottega.core.errors import UserError
from bottega.models import teacher
from bottega.models.layout import lay
from bottega.models.load import load
from bottega.models.methods import method
from bottega.models.score import Scorer
from bottega.models.teacher import Teacher, divergence
from tests.models.tiny import tiny_model
from tests.parity.test_trl_losses import GOLDEN, PAIRS
from tests.train.clients import VOCABULARY, rows
from tests.workshop.made import chat, jsonl


def test_divergences_of_two_distributions_by_hand():
    """Teacher (1/2, 1/2), student (1/4, 3/4). Forward 0.5 log 2 + 0.5 log(2/3) = 0.143841; reverse 0.25 log(1/2) + 0.75 log(3/2) =
    0.130812; beta 1/2: m = (3/8, 5/8), 0.5 (0.5 log(4/3) + 0.5 log(4/5)) + 0.5 (0.25 log(2/3) + 0.75 log(6/5)) = 0.033822."""
    whole, part = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    for beta, wanted in ((0.0, 0.143841), (1.0, 0.130812), (0.5, 0.033822)):
        assert float(divergence(part, whole, beta)) == pytest.approx(wanted, abs=1e-6)
        assert float(divergence(whole, whole, beta)) == pytest.approx(0.0, abs=1e-7)
    assert math.isclose(
        float(divergence(part + 5.0, whole - 3.0, 0.0)), 0.143841, abs_tol=1e-6
    )  # logits: shifts do not matter
    assert doctest.testmod(teacher).failed == 0


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distil")
    return [tiny_model("llama", folder / name, seed=seed) for seed, name in enumerate(("student", "teacher"))]


def scorer(models, **options) -> Scorer:
    student, other = (load(model) for model in models)
    attached = method("lora", rank=4).attach(student.model)
    how = {"beta": 0.0, "temperature": 1.0, **options}
    attached.teacher = Teacher.of(other.model, other.tokenizer, student.tokenizer, name="t", **how)
    return Scorer(attached, vocabulary=VOCABULARY, head_chunk=5)


@pytest.mark.parametrize("name", GOLDEN["divergence"])
def test_the_divergence_in_chunks_and_packed_equals_trls_function(models, name):
    """The tiny models are the golden file's: policy and reference are seeds 0 and 1."""
    beta, temperature = map(float, name.split("/"))
    layout, targets = lay(PAIRS, packed=True)
    with torch.no_grad():
        found = scorer(models, beta=beta, temperature=temperature)(layout, targets, ("divergence",))["divergence"]
    assert float(found.mean()) == pytest.approx(GOLDEN["divergence"][name], rel=2e-5)


def test_packed_padded_and_their_gradients_agree_and_the_teacher_gets_none(models):
    made = scorer(models, beta=0.5)
    grown = []
    for packed in (True, False):
        made.zero_grad()
        layout, targets = lay(rows("single"), packed=packed)
        made(layout, targets, ("divergence",))["divergence"].sum().backward()
        grown.append([p.grad.clone() for p in made.parameters() if p.grad is not None])
    assert len(grown[0]) == len(grown[1]) > 0
    for one, other in zip(*grown):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
    assert all(p.grad is None for p in made.teacher[0].model.parameters())


def test_a_recipe_brings_a_student_nearer_to_its_teacher_and_keeps_the_teacher_out_of_the_result(models, tmp_path):
    from bottega.workshop.stages import run

    data = jsonl(tmp_path / "chats.jsonl", [chat(f"What is {i}?", f"It is {i}.") for i in range(16)])
    stage = {"objective": {"name": "distil", "beta": 0.5}, "teacher": str(models[1]), "data": str(data)}
    stage |= {"method": {"name": "lora", "rank": 8}, "steps": 12, "batch": 8, "lr": 1e-2, "schedule": "constant"}
    recipe = {"name": "d", "model": str(models[0]), "stages": [{"learn": stage}]}
    run(recipe, out=str(tmp_path / "out"), quiet=True)
    log = [json.loads(line) for line in (tmp_path / "out/stages/01-learn/metrics.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]
    assert not any("teacher" in p.name for p in Path(tmp_path / "out/stages/01-learn/result").iterdir())


def test_a_student_comes_nearer_to_its_teacher_on_answers_of_its_own(models, tmp_path):
    """On-policy (gkd): no rewards, no reference; `loss` is the divergence on the student's answers, `eval.loss` on held-out prompts."""
    from bottega.workshop.stages import run

    data = jsonl(tmp_path / "asks.jsonl", [{"prompt": f"What is {i}?"} for i in range(32)])
    stage = {
        "objective": {"name": "gkd", "beta": 0.5}, "teacher": str(models[1]), "data": str(data), "validation": 0.25,
        "method": {"name": "lora", "rank": 8}, "steps": 24, "batch": 8, "lr": 1e-2, "eval_every": 12,
        "rollout": {"max_tokens": 8, "cut_steps": 999},
    }  # fmt: skip
    recipe = {"name": "d", "model": str(models[0]), "stages": [{"learn": stage}]}
    run(recipe, out=str(tmp_path / "out"), quiet=True)
    log = [json.loads(line) for line in (tmp_path / "out/stages/01-learn/metrics.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < 0.85 * log[0]["loss"] and "kl" not in log[-1]
    evals = [line["eval.loss"] for line in log if "eval.loss" in line]
    assert len(evals) == 2 and max(evals) < log[0]["loss"]
    assert not any("teacher" in p.name for p in Path(tmp_path / "out/stages/01-learn/result").iterdir())


def test_a_teacher_with_other_tokens_and_one_that_is_missing_are_refused(models, tmp_path):
    from bottega.workshop import recipe

    strange = load(tiny_model("llama", tmp_path / "other", vocab=300))
    student = load(models[0])
    with pytest.raises(UserError, match="has other tokens than the model"):
        Teacher.of(strange.model, strange.tokenizer, student.tokenizer, name="x", beta=0.0, temperature=1.0)
    with pytest.raises(UserError, match="beta 2.0 must be 0 to 1"):
        Teacher.of(student.model, student.tokenizer, student.tokenizer, name="x", beta=2.0, temperature=1.0)
    data = str(jsonl(tmp_path / "c.jsonl", [chat("a", "b")]))
    for stage, said in (
        ({"objective": "distil", "data": data}, "distil needs a teacher"),
        ({"objective": "gkd", "data": data}, "gkd needs a teacher"),
        ({"objective": "sft", "data": data, "teacher": "garzone"}, "sft has no teacher"),
    ):
        with pytest.raises(UserError, match=said):
            recipe.load({"name": "r", "model": "garzone", "stages": [{"s": stage}]})
