"""Every recipe of recipes/ parses, says what it needs and what it gives, and the general ones run as they are typed.

Left out: the runs on real inputs (test_real_inputs.py).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bottega import cli

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
PARTS = {
    "hh-dpo": ("warm.data.0.path", "warm.validation.0.path", "align.data", "align.validation"),
    "classify-lora": ("sort.data", "sort.validation"),
    "hh-ppo": (
        "warm.data.0.path",
        "warm.data.1.path",
        "judge.data",
        "judge.validation",
        "ppo.data",
        "ppo.validation",
    ),
    "hh-reward": ("warm.data.0.path", "warm.data.1.path", "judge.data", "judge.validation"),
}
"""Recipes that read what an earlier command of their head wrote, and the keys that say where."""
HEAD = ("Command:", "Data:", "Hardware:", "Time:", "Score:")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_parses_and_plans(path, model, shared_data, capsys):
    real = None
    if found := re.search(r"shared/data/([\w/.]+)", path.read_text()):
        real = shared_data(found[1])
    others = [f"{key}={real}" for key in PARTS.get(path.stem, ())]
    if "\ninit:" not in path.read_text():  # begins from nothing: no model to put in its place
        assert re.search(r"^model: (garzone|minilm)\b", path.read_text(), re.M)
        others.append(f"model={model}")
    assert cli.door(["run", str(path), *others, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["name"] == path.stem and plan["stages"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_s_head_says_its_command_hardware_time_and_score_with_a_date(path):
    comment = [line for line in path.read_text().splitlines() if line.startswith("#")]
    lines = {word: line for word in HEAD for line in comment if line.startswith(f"# {word}")}
    assert set(lines) == set(HEAD), path
    assert f"bottega run recipes/{path.name}" in "".join(comment)
    assert all(line.split(":", 1)[1].strip() for line in lines.values())
