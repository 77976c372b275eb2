"""doctor says what is here; init writes a recipe that runs."""

import json

import pytest

from bottega import cli
from bottega.core.errors import UserError
from bottega.workshop import recipe
from bottega.workshop.doctor import EXTRAS, doctor, doctor_text
from bottega.workshop.init import init, init_text
from bottega.workshop.init_model import candidates
from bottega.workshop.plan_models import OPEN_MODELS
from tests.models.tiny import tiny_model
from tests.workshop import labelled


def test_doctor_names_what_is_here_what_is_missing_and_what_mends_it():
    facts = doctor()
    json.dumps(facts)
    assert facts["ok"] and facts["exit_code"] == 0 and facts["cores"] >= 1 and facts["memory"]["total_bytes"] > 0
    assert {c["state"] for c in facts["capabilities"]} <= {"works", "untested", "no"}
    missing = [e for e in facts["extras"] if e["state"] == "no"]
    assert all(e["mend"] == f"pip install 'bottega[{e['extra']}]'" for e in missing)
    assert set(EXTRAS) == {e["extra"] for e in facts["extras"]}
    assert "train and generate on the CPU" in doctor_text(facts)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("rows", "objective"),
    [
        ([{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 3, "sft"),
        ([{"instruction": "a", "output": f"b {i}"} for i in range(30)], "sft"),
        ([{"prompt": "a", "chosen": "b", "rejected": f"c {i}"} for i in range(30)], "dpo"),
        ([{"text": "Once upon a time."}] * 5, "pretrain"),
    ],
)
def test_init_looks_at_the_data_and_writes_a_recipe_that_loads(tmp_path, monkeypatch, rows, objective):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my rows ä.jsonl", rows)
    seen = init("my rows ä.jsonl")
    assert seen["objective"] == objective and seen["rows"] == len(rows)
    made = recipe.load("recipe.yaml")
    assert made.stages[0].objective.name == objective and (made.stages[0].validation is not None) == (
        len(rows) >= 20 or objective == "pretrain"
    )
    assert "#" in (tmp_path / "recipe.yaml").read_text() and "recipe.yaml" in init_text(seen)
    with pytest.raises(UserError, match="--force"):
        init("my rows ä.jsonl")


def test_init_says_why_data_cannot_be_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="has 1 labels .only 'pos'.; classification needs at least 2"):
        init(write(tmp_path / "l.jsonl", [{"text": "good", "label": "pos"}]))
    with pytest.raises(UserError, match="asks 2 questions and answers none"):
        init(write(tmp_path / "q.jsonl", [{"prompt": "who?"}] * 2))
    with pytest.raises(UserError, match="there is no device 'rtx-1'"):
        init("q.jsonl", device="rtx-1")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="empty"):
        init("empty.jsonl")
    with pytest.raises(UserError, match="there is no file"):
        init("nothing.jsonl")


def test_init_as_a_command_prints_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "c.jsonl", [{"prompt": f"q{i}", "completion": "a"} for i in range(40)])
    assert cli.door(["init", "c.jsonl", "--json", "--template", "chatml"]) == 0
    assert json.loads(capsys.readouterr().out)["objective"] == "sft"
    assert recipe.load("recipe.yaml").stages[0].template == "chatml"


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression", "tagging", "kto"])
def test_init_writes_a_recipe_for_labels_that_passes_a_dry_run(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    liked = [{"prompt": f"q{i}", "completion": f"a {i}", "label": i % 3 > 0} for i in range(30)]
    write(tmp_path / "rows.jsonl", liked if kind == "kto" else labelled.rows(kind, 60))
    seen = init("rows.jsonl")
    assert seen["objective"] == kind and seen["model"] == "garzone"
    assert cli.door(["run", "recipe.yaml", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"][0]["objective"] == kind
    if kind in ("classification", "tagging"):  # 45 good and 15 bad: three to one
        assert recipe.load("recipe.yaml").stages[0].objective.options["class_weights"] == "balanced"
        assert "labels: " in init_text(seen)


def test_the_classification_recipe_that_init_writes_runs_and_predicts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [
        row | {"label": "a # b: c" if row["label"] == "bad" else "plain\nword"}
        for row in labelled.rows("classification", 60)
    ]
    write(tmp_path / "rows.jsonl", rows)
    tiny_model("llama", tmp_path / "model")
    init("rows.jsonl", model="model")
    assert cli.door(["run", "recipe.yaml", "steps=2", "epochs=null", "--quiet"]) == 0
    assert "bottega predict" in capsys.readouterr().out
    assert cli.door(["predict", "runs/rows", "rows.jsonl", "--json", "--quiet"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 60


def test_for_a_named_device_the_largest_open_model_that_fits_comes_first():
    """LoRA before QLoRA, larger before smaller, and no licence that asks for more than Apache-2.0 and MIT do."""
    entries = {entry.name: entry for entry in OPEN_MODELS}
    large, small = candidates("rtx-3090"), candidates("rtx-3060")
    assert entries[large[0]].billions > entries[small[0]].billions > 1
    assert all(entries[name].licence in ("Apache-2.0", "MIT") for name in large)
    assert len(large) > len(set(large)) and large.index("Qwen/Qwen3-14B") > large.index(
        "Qwen/Qwen3-8B"
    )  # by QLoRA only


@pytest.mark.slow
def test_init_for_a_device_writes_a_recipe_for_a_model_that_fits_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write(tmp_path / "rows.jsonl", [{"instruction": "a", "output": f"b {i}"} for i in range(30)])
    seen = init("rows.jsonl", device="rtx-3090")
    assert seen["model"] in candidates("rtx-3090") and "RTX 3090" in seen["why"]
    made = recipe.load("recipe.yaml")
    assert made.model == seen["model"] and made.stages[0].template == "chatml"
    assert cli.door(["run", "recipe.yaml", "--dry-run"]) == 0


def test_a_folder_of_several_kinds_is_named_with_its_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "c.jsonl", [{"prompt": "q", "completion": "a"}] * 2)
    write(tmp_path / "in" / "p.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    with pytest.raises(UserError, match="holds 2 chats, 1 pairs, and a stage learns from one kind"):
        init("in")


def test_init_chooses_what_fits_and_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", [{"instruction": "a", "output": f"b {i}"} for i in range(30)])
    seen = init("rows.jsonl")
    text = (tmp_path / "recipe.yaml").read_text()
    assert seen["method"] == "method: {name: lora, rank: 16}" and "needs about" in seen["why"] and "fits" in seen["why"]
    assert f"# {seen['why']}" in text and seen["why"] in init_text(seen)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    large = init("rows.jsonl", model="meta-llama/Llama-3.1-70B", force=True)
    assert "nothing fits" in large["why"] or "stream" in large["method"] or "qlora" in large["method"]
    assert recipe.load("recipe.yaml").stages[0].method.name in ("lora", "qlora")
    unknown = init("rows.jsonl", model="nobody/nothing", force=True)
    assert unknown["why"].startswith("not planned")
