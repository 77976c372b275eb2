"""`bottega demo` from end to end: on a tiny random model, whose checks must fail, and on the bundled base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bottega.core.errors import CheckFailed, Mismatch, UserError
from bottega.demo import plan, world
from bottega.demo.journey import commands, demo, stage_folder
from bottega.models.locate import GARZONE

TINY = 0.012
needs_base = pytest.mark.skipif(
    not (GARZONE / "model.safetensors").is_file(), reason="the bundled base has no weights in this copy"
)


@pytest.fixture(scope="module")
def blank(tmp_path_factory) -> Path:
    """A random model of the base's kind, with a small vocabulary of the world's own text."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from bottega.models import tokenizer

    folder = tmp_path_factory.mktemp("blank")
    end, pad, *others = world.SPECIAL_TOKENS
    texts = [row["text"] for row in world.documents(1, 200)]
    specials = tokenizer.Specials(eos=end, pad=pad, more=tuple(others))
    learned = tokenizer.train(texts, vocab=600, specials=specials, chat_template=world.CHAT_TEMPLATE)
    learned.save_pretrained(str(folder))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    ends = {"bos_token_id": None, "eos_token_id": learned.eos_token_id, "pad_token_id": learned.pad_token_id}
    config = LlamaConfig(vocab_size=tokenizer.num_rows(learned), max_position_embeddings=1024, **sizes, **ends)
    LlamaForCausalLM(config).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def walked(blank, tmp_path_factory) -> tuple[Path, str]:
    """The whole journey on the blank model: its folder, and what it complained of."""
    out = tmp_path_factory.mktemp("walk") / "demo"
    with pytest.raises(CheckFailed) as failed:
        demo(out, model=str(blank), seed=1, quiet=True, split="dev", budget=TINY)
    assert failed.value.exit_code == 1
    return out, str(failed.value)


def test_every_stage_runs_by_the_ordinary_machinery_and_a_failed_check_is_named(walked):
    out, complaint = walked
    assert "task: unseen tickets put into the form exactly" in complaint and "bound >= 0.8" in complaint
    checks = json.loads((out / "checks.json").read_text())
    assert [c["stage"] for c in checks] == ["adapt"] * 2 + ["task"] + ["instruct"] * 3 + ["align"] * 4
    assert all(c["low"] is None or c["low"] <= c["value"] <= c["high"] for c in checks)
    for stage in plan.STAGES:
        assert (stage_folder(out, stage) / "result" / "MANIFEST.json").is_file()
    assert sorted(path.stem for path in (out / "scorecards").glob("*.json")) == [
        "0-base",
        "1-adapt",
        "2-task",
        "3-instruct",
        "4-align",
    ]


def test_the_report_shows_curves_checks_answers_costs_and_commands(walked):
    out, _ = walked
    page = (out / "report.html").read_text()
    for words in ("The first journey", *plan.STAGES, "company questions", "✗ failed", "Risks", *commands(out)):
        assert words in page, words
    assert page.count("<svg") >= len(plan.STAGES)
    samples = json.loads((out / "samples.json").read_text())
    assert samples and all(set(one["stages"]) == {"base", *plan.STAGES} for one in samples)


def test_the_last_model_is_audited_against_the_base_it_began_from(walked):
    out, _ = walked
    forgot, gave = (json.loads((out / "audits" / f"{name}.json").read_text()) for name in ("forgetting", "privacy"))
    assert {one["what"].split(":")[0] for one in forgot["findings"]} >= {"old world text", "old world questions"}
    assert len([one for one in gave["findings"] if "AUC" in one["what"]]) == 3 and gave["base"]
    assert json.loads((out / "demo.json").read_text())["risks"] == {
        "forgetting": forgot["verdict"],
        "privacy": gave["verdict"],
    }


def test_the_recipes_it_leaves_can_be_run_and_the_tasks_can_be_measured(walked):
    from bottega.evals.tasks import items, load_task
    from bottega.workshop import recipe

    out, _ = walked
    for name in ("journey", *plan.STAGES):
        assert recipe.load(out / "recipes" / f"{name}.yaml").name == name
    for path in sorted((out / "tasks").glob("*.yaml")):
        assert items(load_task(path), seed=0), path
    assert len(list((out / "tasks").glob("*.yaml"))) == len(plan.PROBES)


def test_a_second_call_trains_nothing_and_says_the_same(walked, blank):
    out, complaint = walked
    before = {path: path.stat().st_mtime_ns for path in out.glob("stages/*/metrics.jsonl")}
    cards = {path: path.read_bytes() for path in out.glob("scorecards/*.json")}
    with pytest.raises(CheckFailed) as again:
        demo(out, model=str(blank), seed=1, quiet=True, split="dev", budget=TINY)
    assert str(again.value) == complaint
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("stages/*/metrics.jsonl")}
    assert cards == {path: path.read_bytes() for path in out.glob("scorecards/*.json")}


def test_another_seed_in_the_same_folder_is_refused(walked, blank):
    out, _ = walked
    with pytest.raises(Mismatch, match="seed 1, not 2"):
        demo(out, model=str(blank), seed=2, quiet=True, split="dev", budget=TINY)


def test_stages_are_a_beginning_of_the_journey(tmp_path):
    with pytest.raises(UserError, match="task,align is not the beginning of adapt,task,instruct,align"):
        demo(tmp_path / "out", stages=("task", "align"))
    assert not (tmp_path / "out").exists()


def test_training_data_of_the_journey_never_holds_a_probe(walked):
    out, _ = walked
    read = {path.stem: path.read_text() for path in (out / "data").glob("*.jsonl")}
    seen = "\n".join(read.values())
    for name in ("tickets", "requests", "company_questions", "polite_endings"):
        for line in (out / "tasks" / f"{name}.jsonl").read_text().splitlines():
            asked = json.dumps(json.loads(line)["request"], ensure_ascii=False)
            assert asked not in seen, (name, asked)
    for line in (out / "tasks" / "old_world_questions.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["prompt"].removeprefix("Q: ").removesuffix(" A:") not in seen


@needs_base
@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_check_holds_on_the_bundled_base(seed, tmp_path):
    result = demo(tmp_path / "demo", seed=seed, quiet=True)
    assert len(result.checks) == 10 and all(check.passed for check in result.checks)
    assert (tmp_path / "demo" / "report.html").is_file()
