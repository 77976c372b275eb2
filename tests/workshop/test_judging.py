"""`eval` and `compare` with a judge (row L19): seed questions of a taxonomy by leaf, free questions into a table, MT-Bench, recipes."""

from __future__ import annotations

import csv
import json
import re
import subprocess

import pytest

from bottega import cli
from bottega.core import rundir
from bottega.workshop import recipe
from bottega.workshop.evaluating import evaluate
from bottega.workshop.stages import run
from tests.models.endpoint import Endpoint
from tests.workshop.made import jsonl, workshop

LEAF = """version: 3
created_by: anna
task_description: {about}
seed_examples:
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = workshop(tmp_path_factory.mktemp("judging"))
    rows = [{"user_input": f"What opens door {i}?", "reference": f"Key {i}."} for i in range(4)]
    jsonl(made / "free.jsonl", rows)
    for name in ("doors", "keys"):
        leaf = made / "taxonomy" / "compositional_skills" / name
        leaf.mkdir(parents=True)
        pairs = [f"  - question: Which {name} number {i} is it?\n    answer: It is number {i}.\n" for i in range(5)]
        (leaf / "qna.yaml").write_text(LEAF.format(about=f"Say which of the {name}") + "".join(pairs))
        (leaf / "attribution.txt").write_text("Title: t\nLink: none\nLicense: CC-BY-4.0\nCreator: anna\n")
    return made


def strict(body: dict) -> str:
    """10 (or 5) where the answer judged is the reference, else 1; both stand between the rubric's marks."""
    text = body["messages"][-1]["content"]
    reference = re.search(r"\[Start of reference answer\]\n(.*?)\n\[End", text, re.S)
    said = re.search(r"\[Start of the assistant's answer\]\n(.*?)\n\[End", text, re.S)
    best = 5 if "form: Rating: [[3]]" in text else 10
    return f"I compared 2 texts.\nRating: [[{best if reference and said and reference[1] == said[1] else 1}]]"


def test_seed_questions_are_asked_by_leaf_and_rated_against_what_people_wrote(folder, capsys):
    """The candidate knows the doors and not the keys; compared with one that knows nothing the one leaf has improved."""

    def doors(body: dict) -> str:
        found = re.search(r"Which doors number (\d)", body["messages"][-1]["content"])
        return f"It is number {found[1]}." if found else "No idea."

    with Endpoint(answer=doors) as good, Endpoint(answer=lambda _: "No idea.") as bad, Endpoint(answer=strict) as judge:
        words = ["--tasks", f"seed_answers={folder / 'taxonomy'}", "--judge", f"{judge.url}#j", "--json"]
        assert cli.door(["eval", f"{good.url}#m", *words]) == 0
        score = json.loads(capsys.readouterr().out)["scores"][0]
        assert cli.door(["compare", f"{bad.url}#m", f"{good.url}#m", *words]) == 0
        report = json.loads(capsys.readouterr().out)["tasks"][0]
    assert (
        score["value"] == 5.5 and score["n"] == 10 and score["verdicts"]["good"] == 10 and score["verdicts"]["bad"] == 1
    )
    assert {one["name"]: one["verdict"] for one in report["groups"]} == {
        "compositional_skills/doors/qna.yaml": "improved",
        "compositional_skills/keys/qna.yaml": "unchanged",
    }


def test_only_leaves_that_changed_are_asked_about(folder, tmp_path, capsys):
    place = tmp_path / "taxonomy"
    subprocess.run(["cp", "-r", str(folder / "taxonomy"), str(place)], check=True)
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=place, check=True)
    leaf = place / "compositional_skills" / "keys" / "qna.yaml"
    leaf.write_text(leaf.read_text().replace("number 3.", "number three."))
    with Endpoint() as model, Endpoint(answer=strict) as judge:
        words = ["--tasks", f"seed_answers={place}", "--judge", f"{judge.url}#j", "--json"]
        assert cli.door(["eval", f"{model.url}#m", *words, "--base", "main"]) == 0
        score = json.loads(capsys.readouterr().out)["scores"][0]
        assert {item["group"] for item in score["items"]} == {"compositional_skills/keys/qna.yaml"} and score["n"] == 5
        free = ["--tasks", f"free_questions={folder / 'free.jsonl'}", "--judge", f"{judge.url}#j"]
        assert cli.door(["eval", f"{model.url}#m", *free, "--base", "main"]) == 2
        assert "--base is for seed questions of a taxonomy" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".xlsx"])
def test_every_reply_is_kept_with_its_rating_and_reasons_and_no_cell_is_computed(folder, tmp_path, suffix):
    def said(body: dict) -> str:
        number = body["messages"][-1]["content"][-2]
        return {"0": "Key 0.", "1": '=HYPERLINK("http://x")', "2": 'a, "b"\nc\x07'}.get(number, "é")

    path = tmp_path / f"table{suffix}"
    with Endpoint(answer=said) as model, Endpoint(answer=strict) as judge:
        evaluate(
            f"{model.url}#m", [f"free_questions={folder / 'free.jsonl'}"], judge=f"{judge.url}#j", table=str(path), quiet=True
        )  # fmt: skip
    if suffix == ".xlsx":
        openpyxl = pytest.importorskip("openpyxl")
        sheet = openpyxl.load_workbook(path)["items"]
        assert all(cell.data_type != "f" for row in sheet for cell in row)
        names, *lines = [list(row) for row in sheet.values]
        rows = [dict(zip(names, line)) for line in lines]
    elif suffix == ".csv":
        rows = list(csv.DictReader(path.open(newline="")))
        assert rows[1]["reply"].startswith("'=HYPERLINK")
    else:
        rows = rundir.read_jsonl(path)
    assert [float(row["value"]) for row in rows] == [5, 1, 1, 1] and rows[0]["answer"] == "Key 0."
    assert rows[0]["reply"] == "Key 0." and rows[0]["verdict"].startswith("I compared") and rows[3]["reply"] == "é"


def test_answers_of_model_and_judge_are_paid_for_once(folder, tmp_path):
    words = [f"free_questions={folder / 'free.jsonl'}"]
    with Endpoint() as model, Endpoint(answer=strict) as judge:
        how = {"judge": f"{judge.url}#j", "answers": str(tmp_path / "a.sqlite"), "quiet": True}
        first = evaluate(f"{model.url}#m", words, **how)
        asked = len(model.requests), len(judge.requests)
        again = evaluate(f"{model.url}#m", words, **how)
        assert (len(model.requests), len(judge.requests)) == asked == (4, 12) and first == again


def test_the_judge_has_a_key_of_its_own_and_no_output_shows_it(folder, monkeypatch, capsys):
    monkeypatch.setenv("MINE", "sk-model")
    monkeypatch.setenv("THEIRS", "sk-judge")
    with Endpoint() as model, Endpoint(answer=strict) as judge:
        words = [
            "--tasks",
            f"free_questions={folder / 'free.jsonl'}",
            "--judge",
            f"{judge.url}#j",
            "--judge-key-env",
            "THEIRS",
        ]
        assert cli.door(["eval", f"{model.url}#m", "--key-env", "MINE", *words]) == 0
    assert {one["Authorization"] for one in model.headers} == {"Bearer sk-model"}
    assert {one["Authorization"] for one in judge.headers} == {"Bearer sk-judge"}
    shown = capsys.readouterr()
    assert "sk-" not in shown.out + shown.err


def test_a_model_of_this_machine_is_rated_and_may_rate(folder, tmp_path, capsys):
    """A tiny model says no number: the judge is named, with what it said."""
    words = ["--tasks", f"free_questions={folder / 'free.jsonl'}", "--limit", "2", "--quiet"]
    with Endpoint(answer=strict) as judge:
        assert cli.door(["eval", str(folder / "model"), *words, "--judge", f"{judge.url}#j", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"][0]["n"] == 2
    code = cli.door(["eval", str(folder / "model"), *words, "--judge", str(folder / "model")])
    assert code == 2 and "gave no rating from 1 to 5 to any of 2 items" in capsys.readouterr().err


def test_a_recipe_measures_before_and_after_with_a_judge(folder, tmp_path):
    with Endpoint(answer=strict) as judge:
        told = {
            "name": "told", "model": str(folder / "model"), "seed": 1,
            "stages": [{"tell": {"objective": "sft", "data": str(folder / "chats.jsonl"), "steps": 2, "batch": 2}}],
            "evaluate": {"tasks": [f"free_questions={folder / 'free.jsonl'}"], "judge": f"{judge.url}#j", "limit": 3},
        }  # fmt: skip
        run(told, out=tmp_path / "run", quiet=True)
    cards = [rundir.read_json(path) for path in sorted((tmp_path / "run" / "scorecards").glob("*.json"))]
    assert len(cards) == 2 and all(card["scores"][0]["verdicts"]["controls"] == 3 for card in cards)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--judge", "garzone", "--tasks", "CHATS"], "has nothing to judge: no task is of kind judged"),
        (
            ["--tasks", "CHATS", "--judge-key-env", "X"],
            "the judge's key (X) is for an endpoint, and the judge is not named",
        ),
        (["--tasks", "FREE"], "task free_questions is judged by a model: name one, --judge MODEL"),
        (
            ["--tasks", "FREE", "--judge", "garzone", "--judge-key-env", "X"],
            "the judge's key (X) is for an endpoint, and the judge is garzone",
        ),
        (["--tasks", "FREE", "--judge", "http://127.0.0.1:9/v1"], "does not say which of its models"),
        (["--tasks", "FREE", "--judge", "garzone", "--table", "t.pdf"], "name a file with .csv, .jsonl, .xlsx"),
    ],
)
def test_mistakes_are_one_sentence_before_a_model_is_loaded(folder, tmp_path, words, said, capsys):
    (tmp_path / "chats.yaml").write_text("name: c\nkind: generation\nrows: [{prompt: a, answer: b}]\n")
    names = {"FREE": f"free_questions={folder / 'free.jsonl'}", "CHATS": str(tmp_path / "chats.yaml")}
    code = cli.door(["eval", str(folder / "model"), *[names.get(word, word) for word in words], "--quiet"])
    assert code == 2 and said in capsys.readouterr().err


def test_a_recipe_s_judge_and_the_data_of_its_tasks_lie_where_the_recipe_does(folder, tmp_path, monkeypatch):
    """Read from another folder: paths are seen from the file, and written back so that it reads to the same."""
    (tmp_path / "r.yaml").write_text(
        "name: r\nmodel: garzone\nstages: [{tell: {objective: sft, data: c.jsonl, steps: 1}}]\n"
        "evaluate: {tasks: [free_questions=q.jsonl, mine.yaml], judge: judges/one}\n"
    )
    for name in ("c.jsonl", "q.jsonl", "mine.yaml"):
        (tmp_path / name).write_text("{}\n")
    (tmp_path / "judges" / "one").mkdir(parents=True)
    monkeypatch.chdir(folder)
    plan = recipe.load(tmp_path / "r.yaml")
    assert plan.evaluate.tasks == (f"free_questions={tmp_path / 'q.jsonl'}", str(tmp_path / "mine.yaml"))
    assert plan.evaluate.judge == str(tmp_path / "judges" / "one")
    written = recipe.to_plain(plan, tmp_path)["evaluate"]
    assert written["tasks"] == ["free_questions=q.jsonl", "mine.yaml"] and written["judge"] == "judges/one"


def test_search_measures_its_trials_with_the_recipe_s_judge(folder, tmp_path):
    from bottega.workshop.search import search

    with Endpoint(answer=strict) as judge:
        jsonl(tmp_path / "free.jsonl", [{"user_input": "What opens door 0?", "reference": "Key 0."}] * 2)
        stage = {"objective": "sft", "data": str(folder / "chats.jsonl"), "steps": 2, "batch": 2, "validation": 0.2}
        plan = {
            "name": "s", "model": str(folder / "model"), "stages": [{"tell": stage}],
            "evaluate": {"tasks": [f"free_questions={tmp_path / 'free.jsonl'}"], "judge": f"{judge.url}#j"},
        }  # fmt: skip
        (tmp_path / "r.yaml").write_text(json.dumps(plan))
        found = search(str(tmp_path / "r.yaml"), over=["lr=1e-4,1e-3"], out=str(tmp_path / "out"), quiet=True)
    assert "free_questions" in found["tasks"] and judge.requests


def test_scorecards_are_compared_as_they_are(folder, tmp_path, capsys):
    with Endpoint() as model, Endpoint(answer=strict) as judge:
        how = {"judge": f"{judge.url}#j", "quiet": True}
        for name in ("a", "b"):
            evaluate(
                f"{model.url}#m", [f"free_questions={folder / 'free.jsonl'}"], out=str(tmp_path / f"{name}.json"), **how
            )
    words = ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert cli.door(words) == 0 and cli.door([*words, "--judge", "garzone"]) == 2
    assert "are compared as they are: leave --judge and --base out" in capsys.readouterr().err
