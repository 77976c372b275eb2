"""Equations of numbers in a text, checked exactly: `12 * 3 = 36` holds, `12 x 3 = 35` does not.

Left out: units, algebra, and words; a side that is more than numbers and signs is not looked at.
"""

from __future__ import annotations

import ast
import re
from fractions import Fraction

_NUMBER = r"(?:[$€£]?\d[\d,]*(?:\.\d+)?%?)"
_SIDE = rf"\(*\s*-?{_NUMBER}(?:\s*\)*\s*[-+*/x×·÷−]\s*\(*\s*{_NUMBER})*\s*\)*"
_EQUATION = re.compile(rf"(?<![\w.,)=])({_SIDE})\s*=\s*({_SIDE})(?![\w(]|\s*[-+*/×·÷−]\s*[\w(])")
_MOST = 200


def false_equations(text: str) -> list[str]:
    """The equations that do not hold, as they stand in the text. A rounded decimal side may differ by half its last place.

    >>> false_equations("There are 3 x 12 = 36 eggs, and 36 - 7 = 28 are left. 10 / 3 = 3.33, 1,000 + 1 = 1001")
    ['36 - 7 = 28']
    """
    wrong = []
    for match in _EQUATION.finditer(text):
        left, right = (_value(side) for side in match.groups())
        if left is not None and right is not None and abs(left - right) > _slack(match[1], match[2]):
            wrong.append(match[0].strip())
    return wrong


def _slack(left: str, right: str) -> Fraction:
    places = [len(found) for side in (left, right) for found in re.findall(r"\.(\d+)", side)]
    return Fraction(1, 2 * 10 ** max(places)) if places else Fraction(0)


def _value(side: str) -> Fraction | None:
    """The value of numbers with + - * /; None where the side is something else."""
    if len(side) > _MOST:
        return None
    plain = (
        re.sub(r"[$€£,\s]", "", side)
        .replace("×", "*")
        .replace("x", "*")
        .replace("·", "*")
        .replace("÷", "/")
        .replace("−", "-")
    )
    plain = re.sub(r"(?<![\d.])0+(?=\d)", "", re.sub(r"(\d(?:\.\d+)?)%", r"(\1/100)", plain))
    try:
        return _walk(ast.parse(plain, mode="eval").body)
    except (SyntaxError, ZeroDivisionError, ValueError, RecursionError):
        return None


def _walk(node: ast.expr) -> Fraction | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _walk(node.operand)
        return None if inner is None else -inner
    if isinstance(node, ast.BinOp):
        left, right = _walk(node.left), _walk(node.right)
        if left is None or right is None:
            return None
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            return left / right
    return None
