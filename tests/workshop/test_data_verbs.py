"""The verbs `bottega data ...` as commands: text, JSON, exit codes."""

import json

import pytest

from bottega import cli
from bottega.core.errors import UserError
from bottega.workshop import data_verbs
from tests.models.tiny import tiny_tokenizer
from tests.workshop.made import chat, jsonl


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tokenizer alone: these verbs load no weights."""
    folder = tmp_path_factory.mktemp("model")
    tiny_tokenizer(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return str(folder)


@pytest.fixture
def rows(tmp_path):
    return str(jsonl(tmp_path / "rows.jsonl", [chat(f"What is {i}?", f"It is {i}.") for i in range(20)]))


def test_inspect_shows_what_trains_and_says_it_in_json(model, rows, capsys):
    assert cli.door(["data", "inspect", rows, "--model", model, "--row", "2"]) == 0
    assert "⟦" in capsys.readouterr().out
    assert cli.door(["data", "inspect", rows, "--model", model, "--row", "2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    trained = "".join(t["text"] for t in shown["sequences"][0]["tokens"] if t["trains"])
    assert trained.startswith("It is 1.<|im_end|>")


def test_check_names_the_bad_row_and_is_exit_1(model, tmp_path, capsys):
    path = str(jsonl(tmp_path / "bad.jsonl", [chat("a", "b"), {"messages": "no"}]))
    assert cli.door(["data", "check", path]) == 1
    assert "bad.jsonl:2" in capsys.readouterr().out
    assert cli.door(["data", "check", path, "--json", "--model", model, "--max-tokens", "16"]) == 1
    assert json.loads(capsys.readouterr().out)["exit_code"] == 1


def test_convert_split_and_stats_write_and_count(rows, tmp_path, capsys):
    out = str(tmp_path / "alpaca.json")
    assert cli.door(["data", "convert", rows, "--to", "alpaca", "--out", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 20
    parts = str(tmp_path / "parts")
    assert cli.door(["data", "split", out, "--out", parts, "--share", "validation=0.2", "--share", "test=0.1"]) == 0
    assert {path.stem for path in (tmp_path / "parts").iterdir()} == {"train", "validation", "test"}
    capsys.readouterr()
    assert cli.door(["data", "stats", rows, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 20


def test_mistakes_in_the_words_of_the_command_line_are_named():
    with pytest.raises(UserError, match="'promptquestion' is not NAME=VALUE"):
        data_verbs.pairs(["promptquestion"])
    with pytest.raises(UserError, match="'half' is no number"):
        data_verbs.split("x.jsonl", out="o", shares=["validation=half"])
    with pytest.raises(UserError, match="--max-tokens counts tokens"):
        data_verbs.check(["x.jsonl"], max_tokens=5)
