"""Agreement beyond chance equals reference packages, and hand numbers where those can be made.

Left out: what is compared (workshop/feedback_stats.py).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bottega.grade.agreement import cohen, fleiss, krippendorff
from bottega.grade.teach import label_information, pair_information

CASES = json.loads(Path(__file__).with_name("agreement_reference.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{len(case['full'])}x{len(case['full'][0])}")
def test_kappas_and_alpha_equal_the_reference_packages(case):
    full, holes = case["full"], case["holes"]
    assert cohen([i[0] for i in full], [i[1] for i in full]) == pytest.approx(case["cohen"], abs=1e-9)
    assert fleiss(full) == pytest.approx(case["fleiss"], abs=1e-9)
    given = [[value for value in item if value is not None] for item in holes]
    for level, value in case["alpha"].items():
        assert krippendorff(given, level=level) == pytest.approx(value, abs=1e-9)


def test_two_who_always_disagree_are_worse_than_chance():
    """aabb against bbaa: p_o = 0, p_e = 1/2, kappa = -1; alpha = 1 - 7 * 8 / (2 * 16) = -0.75."""
    first, second = "aabb", "bbaa"
    assert cohen(first, second) == fleiss(list(zip(first, second))) == -1.0
    assert krippendorff(list(zip(first, second))) == pytest.approx(-0.75)


def test_what_is_not_defined_is_none():
    assert cohen("aaa", "aaa") is None and fleiss(["aa", "aa"]) is None and krippendorff(["aa", "aa"]) is None
    assert cohen("", "") is None and fleiss([]) is None and fleiss(["a"]) is None and krippendorff(["a", "b"]) is None


def test_what_a_choice_tells_is_highest_where_nobody_knows():
    told = [pair_information([margin]) for margin in (0.0, 0.5, 1.0, 4.0, 1e6)]
    assert told == sorted(told, reverse=True) and told[-1] == 0.0
    assert pair_information([3.0, -3.0]) > pair_information([0.1, -0.1])
    assert label_information([0.5, 0.5]) > label_information([0.9, 0.1])
