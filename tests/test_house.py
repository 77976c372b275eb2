"""The house holds: floors, sizes, literal tables, nothing heavy at the door, the ledger and the recipes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bottega"
FLOORS = {
    "core": 1,
    "data": 2, "models": 2, "grade": 2, "store": 2,
    "synth": 3, "train": 3, "evals": 3,
    "serve": 4,
    "workshop": 5,
    "demo": 6, "studio": 6,
    "cli": 7,
}  # fmt: skip
SISTERS_BELOW = {"train": {"data", "models", "grade", "store"}}
MAX_LINES, MAX_FUNCTION, MAX_PARAMETERS = 400, 60, 12
HEAVY = ("torch", "transformers", "numpy", "pydantic", "peft")
MODULES = sorted(PACKAGE.rglob("*.py"))
LAZY = re.compile(r"^(bottega(?:\.\w+)+):(\w+)$")


def room(path_or_name: Path | str) -> str:
    name = path_or_name.relative_to(PACKAGE).parts[0] if isinstance(path_or_name, Path) else path_or_name.split(".")[1]
    return name.removesuffix(".py")


def imports(tree: ast.AST):
    """(line, module) of everything of ours that a file imports, lazy strings included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.startswith("bottega."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0 and node.module.startswith("bottega"):
            if node.module == "bottega":
                yield from ((node.lineno, f"bottega.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and LAZY.match(node.value):
            yield node.lineno, node.value.partition(":")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_from_floors_below_it(path):
    own = room(path)
    if own == "__init__":
        return
    for line, module in imports(ast.parse(path.read_text(encoding="utf-8"))):
        other = room(module) if module.count(".") else own
        assert other in FLOORS or other == own or other == "__version__", (
            f"{path}:{line}: {module} is no room of the house"
        )
        allowed = other == own or other == "__version__" or FLOORS[other] < FLOORS[own]
        assert allowed, f"{path.relative_to(ROOT)}:{line}: {own} (floor {FLOORS[own]}) imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_room_uses_a_private_name_of_another(path):
    own = room(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.startswith("bottega.")
            and room(node.module) != own
        ):
            assert not [a.name for a in node.names if a.name.startswith("_")], f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_small_enough_to_read(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_LINES, f"{path}: {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{path}:{node.lineno} {node.name} has {length} lines"
            count = len(node.args.args) + len(node.args.kwonlyargs) + len(node.args.posonlyargs)
            assert count <= MAX_PARAMETERS, f"{path}:{node.lineno} {node.name} has {count} parameters"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_lazy_strings_name_things_that_exist():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and (found := LAZY.match(node.value)):
                assert hasattr(import_module(found[1]), found[2]), f"{path}: {node.value}"


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_nothing_heavy_at_the_door(words):
    script = (
        "import sys, time\nfrom bottega.cli import main\nsys.argv = ['bottega', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    code = stop.code\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print('HEAVY', heavy, 'CODE', code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, cwd=ROOT)
    assert "HEAVY [] CODE 0" in done.stderr.replace("None", "0"), done.stderr


def test_importing_bottega_is_free():
    script = "import sys, bottega; print([n for n in sys.modules if n.startswith('bottega.')], bottega.__version__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith("[] ")


def test_no_dangerous_calls():
    risky = re.compile(
        r"\b(pickle\.|torch\.load\(|os\.system\(|shell=True|yaml\.load\(|(?<![\w.])eval\(|(?<![\w.])exec\()"
    )
    for path in MODULES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            code = line.split("#")[0]
            assert not risky.search(code) or '"' in code, f"{path}:{number}: {line.strip()}"
