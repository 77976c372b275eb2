"""docs/families.md says what is so: every line is lived again (slow), one of them by default.

Left out: the lives themselves (families.py).
"""

import pytest

from tests.journey import families

DAILY = ("t5",)
ALL = [family for kind in families.KINDS.values() for family in kind]


def test_the_page_has_a_line_for_every_family_and_nothing_else_by_hand():
    text = families.PAGE.read_text(encoding="utf-8")
    lines = {family: next(line for line in text.splitlines() if line.startswith(f"| {family} |")) for family in ALL}
    assert text == families.page(lines)


@pytest.mark.parametrize(
    "family", [family if family in DAILY else pytest.param(family, marks=pytest.mark.slow) for family in ALL]
)
def test_a_family_lives_as_the_page_says(family, tmp_path):
    assert families.life(family, tmp_path) in families.PAGE.read_text(encoding="utf-8").splitlines()
