"""Cleaning in a recipe, the account of it, and which runs hold a row that must be erased."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from bottega import cli
from bottega.core.errors import Mismatch, UserError
from bottega.workshop.stages import run
from tests.workshop.made import chat, jsonl, workshop

RECIPE = """
name: clean
model: model
stages:
  - instruct:
      objective: sft
      method: {name: lora, rank: 2}
      steps: 1
      batch: 2
      clean: [{name: near, threshold: 0.9}]
      data:
        - {path: chats.jsonl, clean: [exact, {name: personal, kinds: [email], action: mask}]}
        - more.jsonl
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    here = workshop(tmp_path_factory.mktemp("clean"))
    long = "the keeper of the keys opens the old tower at eight and closes it again when the sun has gone down"
    rows = [chat("Who?", "Write to anna@firma.fi."), chat("Who?", "Write to anna@firma.fi."), chat("Where?", long)]
    jsonl(here / "chats.jsonl", [*rows, *(chat(f"What is {i}?", f"{i} it is.") for i in range(4))])
    jsonl(here / "more.jsonl", [chat("Where?", long.title()), chat("When?", "At nine.")])
    (here / "r.yaml").write_text(RECIPE)
    run(here / "r.yaml", out=here / "runs" / "one", quiet=True)
    return here


def read(path: Path):
    return json.loads(path.read_text())


def test_a_recipe_cleans_each_source_and_all_together_and_counts_it(made):
    """chats.jsonl: 7 rows, one equal; more.jsonl: 2 rows, one near a row of the other source: 6 and 1 are trained on."""
    intake = read(made / "runs/one/stages/01-instruct/intake.json")
    assert (intake["read"], intake["taken"]) == (9, 7)
    assert intake["dropped"] == {"clean: equal to an earlier row": 1, "clean: near to an earlier row": 1}
    assert [source["taken"] for source in intake["sources"]] == [6, 1]
    assert [(step["step"], step["read"], step["changed"]) for step in intake["clean"]] == [
        ("exact", 7, 0), ("personal", 6, 1), ("near", 8, 0)
    ]  # fmt: skip
    assert "anna@firma.fi" not in (made / "runs/one/stages/01-instruct/intake.json").read_text()


def test_the_same_recipe_goes_on_and_another_step_is_a_mismatch(made):
    run(made / "r.yaml", out=made / "runs" / "one", quiet=True)
    with pytest.raises(Mismatch, match=r"clean\.0\.threshold: 0.9 -> 0.5"):
        run(made / "r.yaml", ["clean=[{name: near, threshold: 0.5}]"], out=made / "runs" / "one", quiet=True)


def test_a_changed_evaluation_file_is_a_mismatch_and_a_moved_one_is_none(made):
    tasks = jsonl(made / "exam.jsonl", [{"question": "one two three four five six seven eight nine"}])
    run(made / "r.yaml", [f"clean=[{{name: decontaminate, against: {tasks}}}]"], out=made / "runs" / "exam", quiet=True)
    moved = tasks.rename(made / "moved.jsonl")
    change = [f"clean=[{{name: decontaminate, against: [{moved}]}}]"]
    run(made / "r.yaml", change, out=made / "runs" / "exam", quiet=True)
    moved.write_text(moved.read_text().replace("one", "two"))
    with pytest.raises(Mismatch, match=r"clean\.0\.against"):
        run(made / "r.yaml", change, out=made / "runs" / "exam", quiet=True)


def test_mistakes_in_steps_stand_with_their_place_before_torch_is_imported(made):
    bad = RECIPE.replace("name: near, threshold: 0.9", "name: near, threshold: 2").replace(
        "kinds: [email]", "kind: [email]"
    )
    (made / "bad.yaml").write_text(bad)
    script = (
        "import sys\nfrom bottega.core.errors import UserError\nfrom bottega.workshop import recipe\n"
        "try:\n    recipe.load('bad.yaml')\nexcept UserError as error:\n    print(error)\nprint('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", script], cwd=made, capture_output=True, text=True, check=True).stdout
    assert "bad.yaml:10:" in said and "threshold is 2, but must be above 0" in said
    assert "personal has no option 'kind'; did you mean kinds?" in said and said.endswith("False\n")


def test_a_source_that_cleaning_empties_stops_the_run(made):
    with pytest.raises(UserError, match=r"chats.jsonl is left after cleaning \(fewer than 99 words 7\)"):
        run(
            made / "r.yaml",
            [f"data={made / 'chats.jsonl'}", "clean=[{name: length, min_words: 99}]"],
            out=made / "runs2",
            quiet=True,
        )


def clean(capsys, *words: str):
    code = cli.door(["data", "clean", *words, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else err


def test_an_erased_row_leaves_the_file_and_the_runs_that_hold_it_are_listed(made, capsys, monkeypatch, tmp_path):
    """The run saw the row masked; its hash as it was read is recorded too. A row that cleaning left out is not held."""
    monkeypatch.chdir(made)
    code, said = clean(capsys, "chats.jsonl", "--erase", "anna@firma.fi", "--out", str(tmp_path / "a"))
    assert code == 0 and said["kept"] == 5 and said["steps"][0]["rejected"] == {"erased": 2}
    state = {answer["run"]: answer["state"] for answer in said["runs"]}
    assert state["runs/one"] == "holds"
    assert "anna@" not in "".join(path.read_text() for path in (tmp_path / "a").iterdir())
    (key,) = next(answer["rows"] for answer in said["runs"] if answer["run"] == "runs/one")
    row = jsonl(tmp_path / "row.jsonl", [chat("When?", "At nine.")])
    for named, held in (
        (key, "holds"),
        (str(row), "holds"),
        ("At nine.", "holds"),
        ("At ten.", "no"),
        ("0" * 16, "no"),
    ):
        _, said = clean(capsys, "more.jsonl", "--erase", named, "--out", str(tmp_path / "b"))
        assert {a["run"]: a["state"] for a in said["runs"]}["runs/one"] == held, named
    near = jsonl(tmp_path / "near.jsonl", [json.loads((made / "more.jsonl").read_text().splitlines()[0])])
    _, said = clean(capsys, "more.jsonl", "--erase", str(near), "--out", str(tmp_path / "c"))
    assert {a["run"]: a["state"] for a in said["runs"]}["runs/one"] == "no"


def test_a_run_without_hashes_is_answered_by_its_files_or_said_to_be_unknown(made, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(made)
    held = made / "runs/one/stages/01-instruct/rows.keys"
    content = held.read_bytes()
    numbers = struct.unpack(f"<{len(content) // 8}Q", content)
    assert list(numbers) == sorted(set(numbers))
    held.unlink()
    try:
        states = []
        for path in ("chats.jsonl", "prefs.jsonl"):
            _, said = clean(capsys, path, "--erase", "At nine.", "--out", str(tmp_path / path))
            states += [a["state"] for a in said["runs"] if a["run"] == "runs/one"]
        assert states == ["file", "unknown"]
    finally:
        held.write_bytes(content)
    code, err = clean(capsys, "chats.jsonl", "--erase", "x", "--runs", "nowhere", "--out", str(tmp_path / "d"))
    assert code == 2 and "there is no folder nowhere" in err


def test_rows_that_lie_in_shards_are_recorded_too(made, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(made)
    text = (
        (made / "r.yaml").read_text().replace("      clean: [{name: near, threshold: 0.9}]\n", "      shards: true\n")
    )
    text = text.replace(
        "{path: chats.jsonl, clean: [exact, {name: personal, kinds: [email], action: mask}]}", "chats.jsonl"
    )
    (made / "s.yaml").write_text(text)
    run(made / "s.yaml", out=made / "runs" / "shards", quiet=True)
    _, said = clean(capsys, "more.jsonl", "--erase", "At nine.", "--out", str(tmp_path / "e"))
    assert {a["run"]: a["state"] for a in said["runs"]}["runs/shards"] == "holds"
