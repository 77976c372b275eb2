"""Rewards: numbers by hand, and what a user's function may give back (row A5).

Left out: runs that learn from them (tests/workshop/test_online.py), scorers (test_scorers.py).
"""

import math

import numpy as np
import pytest
import torch

from bottega.core.errors import UserError
from bottega.grade import rewards
from bottega.grade.rewards import Answer
from bottega.train.rewards import Composition, Weighed


def one(reply: str, **more) -> Answer:
    return Answer(prompt="?", reply=reply, **more)


def score(name: str, answer: Answer, **options):
    return rewards.find(name, options)([answer])[0]


def test_rewards_of_the_table_by_hand():
    """Target 4, two words: 1 - 2/4. 7 of 8 tokens with 2 soft: one over, -1/2. "ab я": two letters of three are Latin.
    "a b a b": bigrams ab, ba, ab, so two different ones of three."""
    assert score("length", one("two words"), target=4) == 0.5
    assert score("overlong", one("x", num_tokens=7), max_tokens=8, soft=2) == -0.5
    assert score("overlong", one("x", num_tokens=6), max_tokens=8, soft=2) == 0.0
    assert score("language", one("ab я")) == pytest.approx(2 / 3)
    assert score("language", one("漢字"), script="han") == 1.0
    assert score("pattern", one("it is 42."), regex=r"\d+") == 1.0
    assert score("pattern", one("it is 42."), regex=r"\d+", whole=True) == 0.0
    assert score("distinct", one("a b a b")) == pytest.approx(2 / 3)


def test_every_script_is_one_that_letters_have():
    """A reply in the script itself scores 1: each name begins the names of some of Unicode's letters."""
    import unicodedata

    names = {unicodedata.name(chr(code), "").split(" ")[0] for code in range(0x3040, 0xD7A4)}
    names |= {unicodedata.name(chr(code), "").split(" ")[0] for code in range(0x2000)}
    for script in rewards.Script.__args__:
        assert {"han": "CJK"}.get(script, script.upper()) in names, script


@pytest.mark.parametrize("value", [1, True, 0.5, np.float32(0.5), np.array(2.0), torch.tensor(0.25), None, -1e9])
def test_a_function_may_give_any_number(tmp_path, monkeypatch, value):
    found = found_from(tmp_path, monkeypatch, value)
    assert found is None if value is None else found == float(value)


@pytest.mark.parametrize(
    "value",
    ["0.5", 10**400, np.zeros(3), torch.zeros(2), [1.0], math.inf, math.nan, 1e39, -1e300, 1.1e9, object(), 1j],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_usable_number_is_named(tmp_path, monkeypatch, value):
    with pytest.raises(UserError, match=r"and a reward is a finite number within 1e\+09 either way, or None"):
        found_from(tmp_path, monkeypatch, value)


def found_from(tmp_path, monkeypatch, value):
    """What the reward of a file says whose function gives `value`."""
    file = tmp_path / "give.py"
    file.write_text("VALUE = None\ndef reward(prompt, reply):\n    return VALUE\n")
    judge = rewards.find("python", {"path": str(file)})
    import sys

    monkeypatch.setattr(sys.modules["bottega_reward_give"], "VALUE", value)
    return judge([one("x")])[0]


@pytest.mark.parametrize("code", ["import sys\nsys.exit(3)\n", "def reward(prompt, reply):\n    raise SystemExit(3)\n"])
def test_a_file_that_ends_the_program_is_named(tmp_path, code):
    (tmp_path / "leave.py").write_text(code)
    with pytest.raises(UserError, match=r"SystemExit \(3\)"):
        rewards.find("python", {"path": str(tmp_path / "leave.py")})([one("x")])


def test_a_reward_beyond_what_32_bits_hold_is_named_whoever_gives_it():
    parts = [Weighed(name="far", weight=1.0, reward=lambda answers: [0.0, -2e9, None])]
    with pytest.raises(UserError, match=r"the reward far gave -2e\+09, beyond 1e\+09 either way"):
        Composition(parts)([one("a"), one("b"), one("c")])


def test_a_sum_weighs_its_parts_and_tells_each_apart():
    """2 * 1 - 0.5 * 3 = 0.5; and without an opinion of the second 2 * 0 = 0."""
    parts = [
        Weighed(name="a", weight=2.0, reward=lambda answers: [1.0, 0.0]),
        Weighed(name="b", weight=-0.5, reward=lambda answers: [3.0, None]),
    ]
    judged = Composition(parts)([one("a"), one("b")])
    assert judged.total.tolist() == [0.5, 0.0]
    assert judged.stats()["b"] == {"mean": 3.0, "spread": 0.0, "zero": 0.0, "unknown": 0.5}
    assert judged.stats()["a"] == {"mean": 0.5, "spread": 0.5, "zero": 0.5, "unknown": 0.0}
