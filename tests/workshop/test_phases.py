"""`bottega lab recipe`: folders of synth become phases, or one stage of as many steps (L15, L16)."""

import json

import pytest
import yaml

from bottega import cli
from bottega.core.errors import UserError
from bottega.workshop import recipe
from bottega.workshop.phases import SHARES, STACKED, write_recipe
from bottega.workshop.stages import run
from tests.models.tiny import tiny_model
from tests.workshop.made import jsonl

TASK = """
{name: words, kind: generation, data: words.jsonl, answer: answer, prompt: '{{ question }}', chat: true, max_tokens: 4,
 metric: contains}
"""


def chat(number, leaf, document=None):
    about = {"leaf": leaf} | ({"document": document} if document else {})
    messages = [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": f"It is {number}."}]
    return {"messages": messages, "unmask": False, "metadata": about}


@pytest.fixture
def made(tmp_path):
    """Three folders as synth writes them, a replay file and a task."""
    for name, count in (("short", 24), ("long", 16), ("skills", 8)):
        folder = tmp_path / name
        folder.mkdir()
        knows = name != "skills"
        jsonl(folder / "train.jsonl", [chat(n, f"{name}/leaf", f"d{n % 4}" if knows else None) for n in range(count)])
        jsonl(folder / "test.jsonl", [chat(n + 100, f"{name}/leaf") for n in range(3)])
        if knows:
            jsonl(folder / "documents.jsonl", [{"id": f"d{n}", "leaf": "x", "text": f"Text {n}."} for n in range(4)])
    jsonl(tmp_path / "long" / "auxiliary.jsonl", [chat(n + 50, "long/leaf") for n in range(4)])
    jsonl(tmp_path / "replay.jsonl", [{"text": f"Old text {n}."} for n in range(10)])
    jsonl(tmp_path / "words.jsonl", [{"question": f"What is {n}?", "answer": str(n)} for n in range(4)])
    (tmp_path / "words.yaml").write_text(TASK)
    return tmp_path


def given(made, **more):
    return {
        "model": "garzone",
        "short": [str(made / "short")],
        "long": [str(made / "long")],
        "skills": [str(made / "skills")],
        "replay": [str(made / "replay.jsonl")],
        "tasks": [str(made / "words.yaml")],
        "batch": 4,
        "epochs": 1.0,
    } | more


def stages(folder):
    return {
        name: stage
        for each in yaml.safe_load((folder / "recipe.yaml").read_text())["stages"]
        for name, stage in each.items()
    }


def test_the_phases_follow_each_other_without_decay_before_the_last(made):
    """Steps: once through a phase's own rows. 24 at 60 percent of 4 a step are 10, 20 (auxiliary ones too) at 40 are 13."""
    result = write_recipe(made / "lab", **given(made, lr=1e-3))
    found = stages(made / "lab")
    assert list(found) == ["short", "long", "skills"]
    assert [stage["steps"] for stage in found.values()] == [10, 13, 6]
    assert [stage.get("schedule") for stage in found.values()] == ["constant", "constant", None]
    for name, stage in found.items():
        weights = {part["path"].rsplit("/", 1)[1].removesuffix(".jsonl"): part["weight"] for part in stage["data"]}
        assert weights == pytest.approx(SHARES[name]) and stage["lr"] == 1e-3
    assert result["rows"]["long"] == {"long/leaf": {"as made": 4, "closed": 16}} and result["documents"] == 4
    assert recipe.load(made / "lab" / "recipe.yaml").name == "lab", "it is a recipe, its files found from where it lies"


def test_stacked_is_the_same_rows_and_steps_in_one_stage(made):
    write_recipe(made / "lab", **given(made))
    write_recipe(made / "stacked", **given(made, stacked=True))
    phased, (stacked,) = stages(made / "lab"), stages(made / "stacked").values()
    assert stacked["steps"] == sum(stage["steps"] for stage in phased.values()) and "schedule" not in stacked
    assert {part["path"] for part in stacked["data"]} == {
        part["path"] for one in phased.values() for part in one["data"]
    }
    assert sum(part["weight"] for part in stacked["data"]) == pytest.approx(sum(STACKED.values()))
    for name in ("short", "long", "skills"):
        assert (made / "lab" / "data" / f"{name}.jsonl").read_bytes() == (
            made / "stacked" / "data" / f"{name}.jsonl"
        ).read_bytes()


def test_what_is_not_there_leaves_its_share_to_the_others(made):
    write_recipe(made / "lab", **given(made, short=[], skills=[], replay=[]))
    (only,) = stages(made / "lab").values()
    assert [(part["path"], part["weight"]) for part in only["data"]] == [
        ("data/long.jsonl", pytest.approx(0.4 / 0.55, abs=1e-3)),
        ("data/documents.jsonl", pytest.approx(0.15 / 0.55, abs=1e-3)),
    ]


def test_a_metric_chooses_each_phases_checkpoint_on_the_held_out_seeds(made):
    write_recipe(made / "lab", **given(made, choose="loss"))
    for name, stage in stages(made / "lab").items():
        assert stage["early_stop"]["metric"] == "loss" and stage["validation"] == {"data": [f"../{name}/test.jsonl"]}
    (made / "skills" / "test.jsonl").unlink()
    with pytest.raises(UserError, match="choose needs held-out seeds, and no folder of skills has a test.jsonl"):
        write_recipe(made / "again", **given(made, choose="loss"))


def test_the_recipe_runs_phase_by_phase(made):
    tiny_model("llama", made / "model")
    write_recipe(made / "lab", **given(made, model=str(made / "model"), epochs=0.3, choose="loss", form=["raft=1"]))
    result = run(made / "lab" / "recipe.yaml", out=made / "run", quiet=True)
    assert list(result.stages) == ["short", "long", "skills"]
    assert [path.name for path in sorted((made / "run" / "stages").iterdir())] == ["01-short", "02-long", "03-skills"]
    assert (made / "run" / "report.html").is_file()


def test_held_out_seeds_and_their_other_wordings_are_measured_by_default_leaf_by_leaf(made):
    other = chat(100, "short/leaf")
    other["messages"][0]["content"], other["metadata"]["paraphrase"] = "Which number comes after 99?", True
    (made / "short" / "test.jsonl").open("a").write(json.dumps(other) + "\n")
    tiny_model("llama", made / "model")
    write_recipe(made / "lab", **given(made, model=str(made / "model"), epochs=0.3, tasks=[], skills=[]))
    result = run(made / "lab" / "recipe.yaml", out=made / "run", quiet=True)
    assert result.stages and (made / "run" / "report.html").read_text().count("short/leaf")
    for path in (made / "run" / "scorecards").glob("*.json"):
        (score,) = json.loads(path.read_text())["scores"]
        assert score["task"] == "held_out" and score["metric"] == "f1" and score["n"] == 7
        assert [item["group"] for item in score["items"]] == ["short/leaf"] * 4 + ["long/leaf"] * 3
        assert score["items"][3]["prompt"] == "Which number comes after 99?"


def test_a_judge_rates_the_held_out_seeds_where_one_is_named(made):
    data = f"seed_answers={made / 'words.jsonl'}"
    write_recipe(made / "keyed", **given(made, judge="http://x/v1#j", judge_key_env="KEY", tasks=[data]))
    keyed = yaml.safe_load((made / "keyed" / "recipe.yaml").read_text())["evaluate"]
    assert keyed == {
        "tasks": ["data/held_out.yaml", "seed_answers=../words.jsonl"], "judge": "http://x/v1#j", "judge_key_env": "KEY",
    }  # fmt: skip
    with pytest.raises(UserError, match="judge_key_env KEY is the key of a judge, and none is named"):
        write_recipe(made / "no", **given(made, judge_key_env="KEY"))
    write_recipe(made / "lab", **given(made, judge="garzone"))
    found = yaml.safe_load((made / "lab" / "recipe.yaml").read_text())["evaluate"]
    task = yaml.safe_load((made / "lab" / "data" / "held_out.yaml").read_text())
    assert found["judge"] == "garzone" and found["tasks"][0] == "data/held_out.yaml" and len(found["tasks"]) == 2
    assert task["kind"] == "judged" and task["name"] == "held_out" and task["group"] == "leaf"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"short": [], "long": [], "skills": []}, "nothing to learn from"),
        ({"short": ["nowhere"]}, "nowhere is not there; name a folder that `bottega synth` wrote"),
        ({"form": ["raft=some"]}, "--form 'raft=some' is not NAME=SHARE"),
        ({"epochs": 0.0}, "epochs 0 and batch 4 must both be above 0"),
        ({"epochs": float("nan")}, "epochs nan"),
        ({"lr": -1.0}, "lr"),
        ({"method": "lorra"}, "lorra"),
        ({"replay": ["nowhere.jsonl"]}, "there is no file nowhere.jsonl to rehearse"),
        ({"tasks": ["nowhere/words.yaml"]}, "there is no task nowhere/words.yaml"),
    ],
)
def test_what_cannot_be_written_is_one_sentence_and_leaves_nothing(made, change, reason):
    with pytest.raises(UserError, match=reason):
        write_recipe(made / "lab", **given(made, **change))
    assert not (made / "lab").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"messages": [\n', r"rows\.jsonl:2"),
        ("[1]\n", r"rows\.jsonl:2"),
        ('{"prompt": "a", "response": "b"}\n', r"rows\.jsonl:2: no conversation"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_its_place(made, text, reason):
    (made / "rows.jsonl").write_text(json.dumps(chat(1, "x")) + "\n" + text)
    with pytest.raises(UserError, match=reason):
        write_recipe(made / "lab", **given(made, short=[str(made / "rows.jsonl")]))
    assert not (made / "lab").exists()


def test_a_last_row_without_a_line_end_is_a_row(made):
    (made / "rows.jsonl").write_text("\n".join(json.dumps(chat(n, "x")) for n in range(3)))
    found = write_recipe(made / "lab", **given(made, short=[str(made / "rows.jsonl")], long=[], skills=[]))
    assert found["rows"]["short"] == {"x": {"as made": 3}}


def test_a_recipe_that_is_there_stays(made):
    write_recipe(made / "lab", **given(made))
    with pytest.raises(UserError, match="recipe.yaml is there already"):
        write_recipe(made / "lab", **given(made))


def test_the_verb_prints_the_plan(made, capsys):
    words = [
        "--short",
        made / "short",
        "--skills",
        made / "skills",
        "--replay",
        made / "replay.jsonl",
        "--model",
        "garzone",
    ]
    assert cli.door(["lab", "recipe", *map(str, words), "--out", str(made / "lab")]) == 0
    said = capsys.readouterr().out
    assert "short/leaf" in said and "60% short.jsonl, 40% replay.jsonl" in said and "bottega run" in said
    assert cli.door(["lab", "recipe", *map(str, words), "--out", str(made / "two"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["phases"][0]["name"] == "short"
