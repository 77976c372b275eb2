"""The reward `unit_tests`: the share of a row's tests that the program in a reply passes, in the sandbox.

Left out: other languages than Python with its standard library. A program and its asserts share a process, so that one that sets out to
cheat can; tests of input and output cannot be cheated, for what is expected never enters the sandbox.
"""

from __future__ import annotations

import ast
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bottega.core.errors import UserError
from bottega.grade import sandbox
from bottega.grade.rewards import Answer

FENCE = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.S)
HARNESS = """
import os, sys
said = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what the program prints is not a verdict
word, kinds = sys.stdin.readline().split()
from importlib.machinery import SourceFileLoader
from types import ModuleType
module = ModuleType("program")
sys.modules["program"] = module
def run(name):
    SourceFileLoader("program", name).exec_module(module)
run("program.py")
for number, kind in enumerate(kinds):
    try:
        run(f"piece{number}.py")
    except BaseException:
        if kind == "s":
            raise
    else:
        if kind == "t":
            said.write(f"{word} {number}\\n")
            said.flush()
"""


def unit_tests(
    *, column: str = "tests", whole: bool = False, seconds: float = 5.0, memory_mb: int = 512
) -> Callable[[Sequence[Answer]], list[float | None]]:
    """The share of the tests in a row's `column` that the reply's program passes; with `whole`, 1 only if it passes all.

    Tests are Python with asserts (each is a test, and each function test_...; what else stands there runs before those that
    follow), or a list of {input: TEXT, output: TEXT}. The program is the reply's last fenced block of code, or all of the reply.
    """
    reason = sandbox.missing()
    if reason is not None:
        raise UserError(f"the reward unit_tests: {reason}")
    limits = sandbox.Limits(seconds=seconds, memory_mb=memory_mb)

    def score(answers: Sequence[Answer]) -> list[float | None]:
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            shares = list(pool.map(lambda answer: _share(answer, column, limits), answers))
        return [float(share == 1.0) if whole else share for share in shares]

    return score


def program(reply: str) -> str:
    """The last fenced block of code of a reply, or all of it.

    >>> program("First:\\n```python\\nx = 1\\n```\\nThen:\\n```\\nx = 2\\n```\\n"), program("x = 3")
    ('x = 2\\n', 'x = 3')
    """
    found = FENCE.findall(reply)
    return found[-1] if found else reply


def _share(answer: Answer, column: str, limits: sandbox.Limits) -> float:
    tests = answer.row.get(column)
    if isinstance(tests, str) and tests.strip():
        return passed_share(program(answer.reply), tests, limits)
    if isinstance(tests, list) and tests and all(isinstance(one, Mapping) and "output" in one for one in tests):
        passed = [_gives(program(answer.reply), one, limits) for one in tests]
        return sum(passed) / len(passed)
    raise UserError(
        f"the reward unit_tests reads a row's tests from the column {column!r}, and the row of {answer.prompt[:60]!r} holds "
        f"{type(tests).__name__ if tests else 'none'} there: give Python with asserts, or a list of {{input, output}}"
    )


def num_tests(tests: str) -> int:
    """How many tests there are: asserts, and functions test_...

    Raises:
        UserError: they are no Python.
    """
    return sum(kind == "t" for kind, _ in _pieces(tests))


def passed_share(code: str, tests: str, limits: sandbox.Limits) -> float:
    """The share of the tests (Python with asserts) that a program passes in the sandbox.

    Raises:
        UserError: there is no sandbox, the tests are no Python, or hold no test.
    """
    pieces = _pieces(tests)
    kinds = "".join(kind for kind, _ in pieces)
    if "t" not in kinds:
        raise UserError(
            f"the tests {tests[:60]!r} hold no assert and no function test_...: write one, or give input and output"
        )
    word = secrets.token_hex(16)
    files = {"main.py": HARNESS, "program.py": code} | {f"piece{i}.py": text for i, (_, text) in enumerate(pieces)}
    ran = sandbox.run(files, main="main.py", given=f"{word} {kinds}\n", limits=limits)
    passed = {line for line in ran.out.splitlines() if line.startswith(f"{word} ")}
    return len(passed) / kinds.count("t")


def _pieces(tests: str) -> list[tuple[str, str]]:
    """Statements in order: `t` a test, `s` what tests rest on."""
    try:
        tree = ast.parse(tests)
    except SyntaxError as error:
        raise UserError(
            f"the tests {tests[:60]!r} are no Python (line {error.lineno}: {error.msg}): mend the row"
        ) from None
    found = []
    for node in tree.body:
        text = ast.unparse(node)
        found.append(("t" if isinstance(node, ast.Assert) else "s", text))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            found.append(("t", f"{node.name}()"))
    if not any(kind == "t" for kind, _ in found) and isinstance(tree.body[-1] if tree.body else None, ast.Expr):
        found[-1] = ("t", found[-1][1])  # `check(candidate)`: all in one
    return found


def _gives(code: str, case: Mapping[str, Any], limits: sandbox.Limits) -> bool:
    """Whether the program, told `input`, says `output`: line by line, ends of lines aside."""
    ran = sandbox.run({"main.py": code}, main="main.py", given=str(case.get("input", "")), limits=limits)
    return ran.code == 0 and _lines(ran.out) == _lines(str(case["output"]))


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]
