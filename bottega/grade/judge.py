"""What a judge said, as a number: YES and NO in three languages, or a score on a scale, with or without reasons before it.

Left out: asking the judge (whoever holds a Responder), and the prompts.
"""

from __future__ import annotations

import re

YES = ("yes", "true", "sì", "si", "kyllä")
NO = ("no", "false", "ei")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:[.,]\d+)?(?![\w.]*\d)")
_OF = re.compile(r"\s*(?:/|out of|of|su|kautta)\s*\d+")


def verdict(text: str, *, low: float = 0.0, high: float = 1.0) -> float | None:
    """The score that a verdict says, in [low, high]; YES is `high`, NO is `low`; None where it says neither, or both.

    >>> [verdict("YES"), verdict("Ei."), verdict("Score: 2/3", low=1, high=3), verdict("7", low=1, high=3), verdict("maybe")]
    [1.0, 0.0, 2.0, None, None]
    """
    numbers = [found for found in _NUMBER.findall(_OF.sub("", text))]
    if numbers:
        values = {float(found.replace(",", ".")) for found in numbers}
        value = values.pop()
        return value if not values and low <= value <= high else None
    words = re.findall(r"\w+", text.lower())
    said = {high for word in words if word in YES} | {low for word in words if word in NO}
    return said.pop() if len(said) == 1 else None


_MARKED = re.compile(r"\[\[\s*(-?\d+(?:[.,]\d+)?)\s*\]\]")


def rating(text: str, *, low: float, high: float) -> float | None:
    """The score at the end of a judge's reasons: the last [[number]], else what the last line says; None outside [low, high].

    >>> [rating("Two of 3 facts are right.\\nRating: [[2]]", low=1, high=5), rating("Good.\\nRating: 4/5", low=1, high=5)]
    [2.0, 4.0]
    >>> [rating("I cannot tell.", low=1, high=5), rating("[[11]]", low=1, high=10)]
    [None, None]
    """
    if marked := _MARKED.findall(text):
        value = float(marked[-1].replace(",", "."))
        return value if low <= value <= high else None
    lines = [line for line in text.splitlines() if line.strip()]
    return verdict(lines[-1], low=low, high=high) if lines else None
