"""A finished run learns new data and keeps the old; two runs side by side; what run folders can do without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bottega.cli import door
from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.workshop import stages
from bottega.workshop.runs_compare import runs_compare
from bottega.workshop.runs_gc import runs_gc
from tests.models.tiny import tiny_model
from tests.workshop import labelled
from tests.workshop.made import chat, jsonl

COLOURS = ("red", "blue", "green", "white")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, runs/bot, and new data of another kind of answer."""
    folder = tmp_path_factory.mktemp("update")
    tiny_model("llama", folder / "model")
    jsonl(folder / "old.jsonl", [chat(f"Room {i}?", f"It is {COLOURS[i % 4]}.") for i in range(48)])
    jsonl(folder / "new.jsonl", [chat(f"Garden {i}?", f"Closed on day {i % 7}.") for i in range(48)])
    (folder / "r.yaml").write_text(
        "name: bot\nmodel: model\nstages:\n"
        "  - instruct: {objective: sft, data: old.jsonl, method: {name: lora, rank: 4}, steps: 12, batch: 8, lr: 5e-3,\n"
        "               validation: 0.2}\n"
    )
    stages.run(folder / "r.yaml", out=folder / "runs" / "bot", quiet=True)
    return folder


def test_an_update_learns_the_new_keeps_the_old_and_remembers_where_it_comes_from(ended, capsys):
    run = ended / "runs" / "bot"
    words = [
        "run",
        "--update",
        str(run),
        f"data={ended / 'new.jsonl'}",
        "forgetting=0.5",
        "steps=24",
        "--json",
        "--quiet",
    ]
    assert door(words) == 0
    said = json.loads(capsys.readouterr().out)
    new = Path(said["folder"])
    assert new == ended / "runs" / "bot-v2"
    lineage = rundir.read_json(new / "lineage.json")
    assert [version["run"] for version in lineage] == ["bot", "bot-v2"]
    checks = {check["check"]: check for check in rundir.read_json(new / "checks.json")}
    assert checks["new data is learned"]["passed"] and checks["new data is learned"]["low"] > 0
    assert {"forgetting: old", "forgetting: new"} <= set(checks)
    probes = {json.loads(line)["prompt"] for line in (new / "update" / "new-probe.jsonl").read_text().splitlines()}
    rows = (new / "update" / "new.jsonl").read_text().splitlines()
    learned = {json.loads(line)["messages"][0]["content"] for line in rows}
    assert probes and not probes & learned and len(probes) + len(learned) == 48
    record = rundir.read_json(new / "run.json")["stages"]["update"]["data"]
    assert [part["weight"] for part in record] == [0.5, 0.5]  # half new rows, half replayed ones
    assert door(words) == 0  # the same command again finds it done
    capsys.readouterr()
    assert door(["runs", "show", str(new)]) == 0
    assert "bot -> bot-v2" in capsys.readouterr().out


def test_an_update_that_learns_nothing_new_fails_its_gate(ended, capsys):
    run = ended / "runs" / "bot"
    words = [f"data={ended / 'new.jsonl'}", "steps=1", "lr=1e-9", "--out", str(ended / "runs" / "idle"), "--quiet"]
    code = door(["run", "--update", str(run), *words])
    assert code == 1
    assert "an update has to gain 0.01" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "an update needs new data"),
        (["data=nowhere.jsonl"], "data=nowhere.jsonl: there is no such file"),
        (["data={new}", "replay=2"], "replay is 2, but needs a number from 0 to 0.95"),
        (["data={docs}"], "holds a document, and the run's last stage (instruct) learns from conversations"),
    ],
)
def test_what_an_update_cannot_use_is_one_clear_line(words, said, ended, capsys):
    (ended / "docs.md").write_text("# A text\n\nNothing but words, and some more of them.\n")
    filled = [word.format(new=ended / "new.jsonl", docs=ended / "docs.md") for word in words]
    assert door(["run", "--update", str(ended / "runs" / "bot"), *filled, "--out", str(ended / "runs" / "no")]) == 2
    assert said in capsys.readouterr().err


def test_other_new_data_in_the_folder_of_an_update_is_exit_3(ended, capsys, tmp_path):
    other = jsonl(tmp_path / "other.jsonl", [chat(f"Yard {i}?", "Open.") for i in range(30)])
    out = ["--out", str(ended / "runs" / "twice"), "steps=1", "--quiet"]
    door(["run", "--update", str(ended / "runs" / "bot"), f"data={ended / 'new.jsonl'}", *out])
    assert door(["run", "--update", str(ended / "runs" / "bot"), f"data={other}", *out]) == 3
    assert "holds another update (new differ)" in capsys.readouterr().err


def test_two_runs_are_compared_by_recipe_inputs_numbers_and_items(ended):
    again = ended / "runs" / "again"
    stages.run(ended / "r.yaml", ["lr=1e-3", f"data={ended / 'new.jsonl'}"], out=again, quiet=True)
    facts = runs_compare(str(ended / "runs" / "bot"), str(again))
    assert {"key": "instruct.lr", "a": 5e-3, "b": 1e-3} in facts["recipe"]
    assert [row["key"] for row in facts["made_of"]] == ["instruct.data"]
    (stage,) = facts["stages"]
    assert stage["a"]["steps"] == stage["b"]["steps"] == 12 and stage["a"]["loss"] != stage["b"]["loss"]
    assert facts["scores"] is None and "`evaluate` in a recipe makes one" in facts["scores_missing"]
    same = runs_compare(str(again), str(again))
    assert same["recipe"] == same["made_of"] == []


def test_gc_removes_only_what_ended_stages_do_not_need_and_the_run_stays_sound(ended, tmp_path):
    run = tmp_path / "runs" / "bot"
    shutil.copytree(ended / "runs" / "bot", run)
    before = {p: p.read_bytes() for p in (run / "stages").rglob("result/*") if p.is_file()}
    facts = runs_gc((str(run),))
    assert facts["found"] and facts["bytes"] > 0 and all(Path(one["path"]).exists() for one in facts["found"])
    facts = runs_gc((str(run),), remove=True)
    assert not any(Path(one["path"]).exists() for one in facts["found"])
    assert before == {p: p.read_bytes() for p in (run / "stages").rglob("result/*") if p.is_file()}
    assert door(["runs", "verify", str(run)]) == 0
    assert runs_gc((str(run),))["found"] == []


def test_gc_spares_what_is_pinned_by_the_recipe_or_by_hand(ended, tmp_path):
    run = tmp_path / "runs" / "bot"
    shutil.copytree(ended / "runs" / "bot", run)
    checkpoints = run / "stages" / "01-instruct" / "checkpoints"
    kept = sorted(path.name for path in checkpoints.glob("step-*"))
    assert len(kept) == 2
    by_hand, by_recipe = (int(name.removeprefix("step-")) for name in kept)
    assert door(["runs", "pin", str(run), str(by_hand)]) == 0
    assert str(checkpoints / kept[0]) not in {one["path"] for one in runs_gc((str(run),))["found"]}
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("pin: []", f"pin: [{by_recipe}]"))
    runs_gc((str(run),), remove=True)
    assert sorted(path.name for path in checkpoints.glob("step-*")) == kept


def test_gc_keeps_all_of_a_stage_whose_result_is_damaged(ended, tmp_path):
    run = tmp_path / "runs" / "bot"
    shutil.copytree(ended / "runs" / "bot", run)
    weights = next((run / "stages").rglob("result/*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    facts = runs_gc((str(run),), remove=True)
    assert facts["found"] == [] and "damaged" in facts["kept"][0]["why"]
    with rundir.lock(run):
        kept = runs_gc((str(run),), remove=True)["kept"]
    assert kept == [{"run": str(run), "why": "another process works in it"}]


def test_a_run_that_learned_from_liked_answers_is_brought_up_to_date_too(tmp_path):
    """KTO: rows keep their thumbs, and only what was liked is probed."""
    tiny_model("llama", tmp_path / "model")
    for name, what in (("old", "Room"), ("new", "Garden")):
        rows = [
            {"prompt": f"{what} {i}?", "completion": f"It is {COLOURS[i % 4]}.", "label": i % 4 < 2} for i in range(48)
        ]
        jsonl(tmp_path / f"{name}.jsonl", rows)
    (tmp_path / "r.yaml").write_text(
        "name: liked\nmodel: model\nstages:\n  - s: {objective: kto, data: old.jsonl, method: {name: lora, rank: 4}, steps: 2,"
        " batch: 8, validation: 0.2}\n"
    )
    stages.run(tmp_path / "r.yaml", out=tmp_path / "runs" / "liked", quiet=True)
    words = [
        "run",
        "--update",
        str(tmp_path / "runs" / "liked"),
        f"data={tmp_path / 'new.jsonl'}",
        "steps=2",
        "--quiet",
    ]
    assert door(words) in (0, 1)  # two steps need not pass the gate
    place = tmp_path / "runs" / "liked-v2" / "update"
    kept = [json.loads(line) for line in (place / "new.jsonl").read_text().splitlines()]
    assert {row["label"] for row in kept} == {True, False}
    for name in ("old", "new"):
        probes = [json.loads(line) for line in (place / f"{name}-probe.jsonl").read_text().splitlines()]
        assert probes and all(probe["answer"].removeprefix("It is ").rstrip(".") in COLOURS[:2] for probe in probes)
    assert (tmp_path / "runs" / "liked-v2" / "lineage.json").is_file()


def test_a_stage_that_an_update_does_not_know_is_refused_in_a_sentence(tmp_path):
    tiny_model("bert", tmp_path / "model")
    path = labelled.recipe(tmp_path, kind="classification", steps=2)
    stages.run(path, out=tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="learned classification, and an update knows"):
        stages.run(None, [f"data={tmp_path / 'classification.jsonl'}"], update=str(tmp_path / "run"), quiet=True)
