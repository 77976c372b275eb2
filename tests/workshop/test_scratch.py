"""A recipe that starts from nothing: tokenizer and weights made in the run's folder, once, and the run goes on from them."""

import json
from pathlib import Path

import pytest

from bottega.core.errors import Mismatch, UserError
from bottega.models.load import load
from bottega.workshop.stages import run

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "pretrain-from-scratch.yaml"


def test_the_recipe_learns_a_tokenizer_and_a_model_from_raw_text_and_goes_on(tmp_path):
    result = run(str(RECIPE), ["steps=30"], out=tmp_path / "run", quiet=True)
    loaded = load(tmp_path / "run")
    assert loaded.model.config.model_type == "bottega_decoder" and loaded.model.config.clip_qkv == 8
    assert loaded.packs and len(loaded.tokenizer) <= 512
    lines = [json.loads(line) for line in next((tmp_path / "run").rglob("metrics.jsonl")).read_text().splitlines()]
    assert lines[0]["loss"] > 6 and result.stages["pretrain"]["loss"] < lines[0]["loss"] - 0.5
    timing = [json.loads(line) for line in next((tmp_path / "run").rglob("timing.jsonl")).read_text().splitlines()]
    assert all(0 < line["mfu"] < 2 for line in timing)
    again = run(str(tmp_path / "run" / "recipe.yaml"), out=tmp_path / "run", quiet=True)
    assert again.stages == result.stages
    other = run(str(RECIPE), ["steps=30"], out=tmp_path / "other", quiet=True)
    assert other.stages["pretrain"]["loss"] == result.stages["pretrain"]["loss"]
    with pytest.raises(Mismatch, match="another init"):
        run(str(RECIPE), ["steps=30", "init.tokenizer.vocab=400"], out=tmp_path / "run", quiet=True)


def test_mistakes_in_the_start_are_found_before_anything_is_made(tmp_path):
    for override, said in (
        ("init.preset=mpt-8b", "no preset 'mpt-8b'"),
        ("init.config={hidden: 3}", "no field 'hidden'"),
        ("init.config={vocab_size: 3}", "vocab_size comes from the tokenizer"),
        ("method=lora", "random weights need method: full"),
        ("model=garzone", "give one of them"),
    ):
        with pytest.raises(UserError, match=said):
            run(str(RECIPE), [override], out=tmp_path / "x", quiet=True)
    handbook = str(RECIPE.parent / "examples" / "handbook")
    stages = [{"a": {"objective": "pretrain", "data": handbook}}]
    with pytest.raises(UserError, match="'model' is missing"):
        run({"name": "x", "stages": stages}, out=tmp_path / "x")
    assert not (tmp_path / "x").exists()
