"""Several teachers on the same leaves, compared from what `synth` wrote of each (L8)."""

import json

import pytest

from bottega import cli
from bottega.core.errors import UserError
from bottega.synth.teachers_compared import compare_teachers
from bottega.workshop.synthesis import synth
from tests.synth.teachers import knowledge_leaf, rows, server, skill_leaf


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """One taxonomy, taught by an endpoint and by the teacher of templates."""
    here = tmp_path_factory.mktemp("teachers")
    knowledge_leaf(here / "tax", "observatory")
    skill_leaf(here / "tax", "synonyms")
    shared = {"documents": "contexts", "samples": 3, "quiet": True}
    with server() as teacher:
        synth(
            str(here / "tax"), teacher=teacher.url, teacher_model="m", out=str(here / "endpoint"), timeout=5.0, **shared
        )
    synth(str(here / "tax"), teacher="template", out=str(here / "template"), **shared)
    return here


def test_each_leaf_says_what_each_teacher_made_and_the_sums_are_the_funnels(two):
    found = compare_teachers([two / "endpoint", two / "template"])
    assert [one["name"].split("#")[-1] for one in found["teachers"]] == ["m", "template"]
    assert len(found["leaves"]) == 2
    for leaf, both in found["leaves"].items():
        for folder, one in zip(("endpoint", "template"), both, strict=True):
            kept = [row for row in rows(two / folder / "train.jsonl") if row["metadata"]["leaf"] == leaf]
            gone = [row for row in rows(two / folder / "rejects.jsonl") if row["leaf"] == leaf]
            assert one["kept"] == len(kept) and one["made"] >= len(kept) + len(gone)
            assert one["kept_share"] == pytest.approx(one["kept"] / one["made"]) and one["words"] > 0


def test_questions_that_both_asked_are_counted_and_their_answers_compared(two, tmp_path):
    """The template's folder beside a copy of which one answer differs: all questions alike, all answers but one."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("manifest.json", "funnel.json", "report.json"):
        (copy / name).write_bytes((two / "template" / name).read_bytes())
    made = rows(two / "template" / "train.jsonl")
    made[0]["messages"][-1]["content"] = "Something else."
    (copy / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    found = compare_teachers([two / "template", copy])
    assert [one["name"] for one in found["teachers"]] == ["template", "copy"], "one teacher twice: the folders' names"
    total = {key: sum(one[key] for one in found["alike"]) for key in ("same_questions", "same_answers")}
    assert total["same_questions"] == len(made) and total["same_answers"] == len(made) - 1


def test_the_verb_prints_three_tables(two, capsys):
    assert cli.door(["lab", "teachers", str(two / "endpoint"), str(two / "template")]) == 0
    said = capsys.readouterr().out
    assert said.count("\n\n") == 2 and "most rejected by" in said and "same questions" in said


def test_what_cannot_be_compared_is_one_sentence(two, tmp_path):
    with pytest.raises(UserError, match="one teacher alone is compared with nobody"):
        compare_teachers([two / "endpoint"])
    with pytest.raises(UserError, match="has no manifest.json: `bottega synth` has not ended there"):
        compare_teachers([two / "endpoint", tmp_path])
    skill_leaf(tmp_path / "tax", "opposites")
    synth(str(tmp_path / "tax"), teacher="template", out=str(tmp_path / "other"), samples=2, quiet=True)
    with pytest.raises(UserError, match="no leaf is in all of"):
        compare_teachers([two / "endpoint", tmp_path / "other"])
