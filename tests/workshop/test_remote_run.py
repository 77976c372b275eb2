"""A recipe whose rows come from a database or an object store: read, recorded, noticed when they changed, no password written down."""

from __future__ import annotations

import json
import sqlite3
from importlib.util import find_spec

import pytest

from bottega import cli
from bottega.core.errors import Mismatch, UserError
from bottega.workshop import recipe
from bottega.workshop.stages import run
from tests.workshop.made import workshop

RECIPE = """
name: remote
model: model
stages:
  - adapt:
      objective: pretrain
      method: {name: lora, rank: 2}
      steps: 1
      batch: 2
      data:
        - {path: "sqlite:///notes.db", query: SELECT text FROM notes ORDER BY id, clean: [exact]}
        - memory://rows/more.jsonl
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    import fsspec

    here = workshop(tmp_path_factory.mktemp("remote"))
    with sqlite3.connect(here / "notes.db") as base:
        base.execute("CREATE TABLE notes (id INTEGER, text TEXT)")
        base.executemany(
            "INSERT INTO notes VALUES (?, ?)", [(n, f"Note number {n % 5} of the house.") for n in range(6)]
        )
    base.close()
    fsspec.filesystem("memory").pipe("/rows/more.jsonl", b'{"text": "More of it."}\n')
    (here / "r.yaml").write_text(RECIPE)
    run(here / "r.yaml", out=here / "run", quiet=True)
    return here


def test_rows_of_a_database_and_a_store_are_trained_on_and_recorded(made):
    """Six notes, of which one is written twice, and one row more."""
    intake = json.loads((made / "run/stages/01-adapt/intake.json").read_text())
    assert (intake["read"], intake["taken"], intake["dropped"]) == (7, 6, {"clean: equal to an earlier row": 1})
    sources = json.loads((made / "run/run.json").read_text())["stages"]["adapt"]["data"]
    assert sources[0]["query"] == "SELECT text FROM notes ORDER BY id" and len(sources[1]["files"][0]["sha256"]) == 64


def test_the_resolved_recipe_reads_the_same_and_changed_rows_are_exit_3(made):
    run(made / "run" / "recipe.yaml", out=made / "run", quiet=True)
    with sqlite3.connect(made / "notes.db") as base:
        base.execute("UPDATE notes SET text = 'Changed.' WHERE id = 0")
    try:
        with pytest.raises(Mismatch, match=r"adapt\.data\.0\.sha256"):
            run(made / "r.yaml", out=made / "run", quiet=True)
        assert cli.door(["run", str(made / "r.yaml"), "--out", str(made / "run"), "--dry-run"]) == 3
    finally:
        with sqlite3.connect(made / "notes.db") as base:
            base.execute("UPDATE notes SET text = 'Note number 0 of the house.' WHERE id = 0")
    run(made / "r.yaml", out=made / "run", quiet=True)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("postgresql://me:hunter2@db.invalid/x", r"postgresql://me:\*\*\*@db.invalid/x holds a password; .*password: \$\{env:NAME\}"),
        ("{path: chats.jsonl, query: SELECT 1}", "query and password are for a database"),
        ("ftp://host/rows", "the scheme 'ftp', which is not read"),
        ("{path: 'sqlite:///notes.db', password: '${env:HOME}'}", "a password is for a database server"),
        ("sqlite:///none.db", "there is no database file .*none.db"),
        ("{path: 'sqlite:///notes.db', password: hunter2}", r"password is a secret: write \$\{env:NAME\}"),
    ],
)  # fmt: skip
def test_a_wrong_source_is_found_with_the_recipe_and_its_secret_not_shown(made, source, said):
    text = RECIPE.replace("memory://rows/more.jsonl", source)
    (made / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        recipe.load(made / "bad.yaml")
    assert "hunter2" not in str(caught.value)


@pytest.mark.skipif(find_spec("sqlalchemy") is None, reason="needs the extra sql")
def test_a_password_comes_from_the_environment_and_is_not_written_down(made, monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    (made / "pw.yaml").write_text(
        RECIPE.replace('"sqlite:///notes.db"', "postgresql://me@db.invalid/x, password: '${env:DB_PASSWORD}'")
    )
    plan = recipe.load(made / "pw.yaml")
    assert plan.stages[0].data[0].source.password == "hunter2"
    assert "hunter2" not in repr(recipe.to_plain(plan)) and "hunter2" not in repr(plan.stages[0].data[0].source)


def test_the_data_verbs_take_a_url(made, capsys, tmp_path):
    url = f"sqlite:///{made / 'notes.db'}#notes"
    for words in (["check", url], ["stats", url], ["clean", url, "--out", str(tmp_path / "c")]):
        assert cli.door(["data", *words, "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said.get("rows", said.get("read")) == 6
    assert cli.door(["data", "convert", url, "--to", "text", "--out", str(tmp_path / "o.jsonl")]) == 0
