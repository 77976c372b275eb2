"""What earlier versions wrote is read by this one: recipes, run folders, checkpoints, adapters, feedback stores (released/README.md).

Left out: what no version has written yet (deployments).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bottega import cli
from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.workshop import recipe

RELEASED = Path(__file__).parent / "released"
VERSIONS = sorted(path.name for path in RELEASED.iterdir() if path.is_dir())


@pytest.fixture(params=VERSIONS)
def old(request, tmp_path, monkeypatch):
    """A version's folder, at another place than where it was made."""
    folder = shutil.copytree(RELEASED / request.param, tmp_path / request.param)
    monkeypatch.chdir(folder)
    return folder


def contents(folder):
    return {str(p.relative_to(folder)): rundir.sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_first_schema_is_there():
    assert VERSIONS[0] == "0.1" and recipe.load(RELEASED / "0.1" / "recipe.yaml").name == "first"


def test_a_recipe_and_its_run_load_are_sound_and_nothing_is_done_again(old, capsys):
    before = contents(old / "run" / "stages")
    assert cli.door(["run", "recipe.yaml", "--out", "run", "--quiet"]) == 0
    assert contents(old / "run" / "stages") == before
    assert cli.door(["runs", "verify", "run"]) == 0
    capsys.readouterr()
    assert cli.door(["runs", "show", "run", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["state"] == "done" and shown["stages"][0]["last"]["step"] == 3


def test_a_checkpoint_goes_on_and_ends_in_the_weights_of_then(old, capsys):
    """The result is taken away: what is made again from the last checkpoint has the same bytes."""
    result = old / "run" / "stages" / "01-s" / "result"
    before = rundir.sha256(result / "model.safetensors")
    shutil.rmtree(result)
    (old / "run" / "result.json").unlink()
    assert cli.door(["run", "recipe.yaml", "--out", "run", "--quiet"]) == 0
    assert rundir.sha256(result / "model.safetensors") == before
    capsys.readouterr()


def test_a_run_and_an_adapter_answer(old, capsys):
    config = old / "adapter" / "adapter_config.json"
    settings = json.loads(config.read_text())
    config.write_text(
        json.dumps({**settings, "base_model_name_or_path": str(old / settings["base_model_name_or_path"])})
    )
    for model in ("run", "adapter"):
        asked = ["generate", model, "--prompts", "chats.jsonl", "--max-tokens", "2", "--json", "--quiet"]
        assert cli.door(asked) == 0
        assert len(json.loads(capsys.readouterr().out)) == 8


def test_a_feedback_store_opens_with_its_items(old, capsys):
    assert cli.door(["feedback", "stats", "--store", "feedback.db", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["projects"][0]["items"] == 3


def test_a_schema_of_a_later_version_is_refused_with_the_remedy(old):
    text = (old / "recipe.yaml").read_text().replace("schema: 1", "schema: 2")
    (old / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match="schema"):
        recipe.load(old / "recipe.yaml")
