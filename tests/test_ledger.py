"""docs/ROWS.md is true to what is there: every row of the requirements, and every test or file it names exists.

Left out: whether a test shows what its row says; that is for readers.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEDGER = ROOT / "docs" / "ROWS.md"
REQUIREMENTS = ROOT.parent / "shared" / "requirements"
STATES = ("met", "partly", "not yet")
LINE = re.compile(r"^\|(?P<row>[ \w-]+)\|(?P<state>[^|]*)\|(?P<shown>[^|]*)\|(?P<missing>[^|]*)\|$", re.M)


def ledger() -> list[dict[str, str]]:
    found = [
        {k: v.strip() for k, v in m.groupdict().items()} for m in LINE.finditer(LEDGER.read_text(encoding="utf-8"))
    ]
    return [line for line in found if line["row"].strip("-") not in ("", "row")]


def shown(line: dict[str, str]) -> list[str]:
    named = [item.strip().strip("`") for item in line["shown"].split(", ") if item.strip()]
    return named + re.findall(r"tests/[\w/]+\.py(?:::\w+)?", line["missing"])


def test_every_line_of_the_tables_is_read():
    lines = [line for line in LEDGER.read_text().splitlines() if line.startswith("| ") and not line.startswith("| row")]
    assert len(lines) == len(ledger()) > 150


@pytest.mark.parametrize("line", ledger(), ids=lambda line: line["row"])
def test_a_row_has_a_state_and_what_it_names_exists(line):
    assert line["state"] in STATES
    assert bool(line["shown"]) == (line["state"] != "not yet"), f"{line['row']}: a state without what shows it"
    assert line["missing"] or line["state"] != "partly", f"{line['row']}: partly, but nothing is missing"
    for name in shown(line):
        path, _, test = name.partition("::")
        if path.startswith("make "):
            assert re.search(rf"^{path.split()[1]}:", (ROOT / "Makefile").read_text(), re.M), name
            continue
        assert (ROOT / path).is_file(), f"{line['row']}: there is no {path}"
        if test:
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert test in functions, f"{line['row']}: {path} has no {test}"


def test_every_row_of_the_requirements_is_there_once():
    rows = [line["row"] for line in ledger()]
    assert len(rows) == len(set(rows))
    if not REQUIREMENTS.is_dir():
        pytest.skip("the requirements are not beside the checkout")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(REQUIREMENTS.glob("[1-7]*.md")))
    wanted = set(re.findall(r"^([A-Z]\d+) ", text, re.M))
    assert wanted <= set(rows), sorted(wanted - set(rows))
