"""The one rule for patterns of documents: `*` and `?` within a name, `**` over folders, `[ab]`, `[!ab]`.

Left out: `{a,b}`. It is the rule of Python's recursive glob: a name that begins with a dot is met only by a pattern that
writes the dot, and `*.md` looks in the top folder alone.
"""

from __future__ import annotations

import re

from bottega.core.errors import UserError


def glob(pattern: str) -> re.Pattern[str]:
    """A pattern of paths (with `/`, relative to the root of the documents) as a regular expression for a full match.

    >>> [bool(glob("a/**/*.md").fullmatch(path)) for path in ("a/x.md", "a/b/c/x.md", "b/x.md", "a/.x.md")]
    [True, True, False, False]

    Raises:
        UserError: it is empty, absolute, or leads outside with `..`.
    """
    parts = [part for part in pattern.split("/") if part != "."]
    if not pattern.strip() or pattern.startswith(("/", "\\")) or ".." in parts or "" in parts[:-1]:
        raise UserError(f"the pattern {pattern!r} does not stay inside the documents; write one such as docs/**/*.md")
    expression = ""
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        if part == "**":
            expression += r"(?:[^/.][^/]*/)*" if not last else r"(?:[^/.][^/]*/)*[^/.][^/]*"
        else:
            expression += _name(part) + ("" if last else "/")
    return re.compile(expression, re.DOTALL)


def _name(part: str) -> str:
    """One name of a path."""
    expression = "" if part.startswith(".") else r"(?!\.)"
    at = 0
    while at < len(part):
        letter = part[at]
        end = part.find("]", at + 2 + (part[at + 1 : at + 2] == "!")) if letter == "[" else -1
        if letter == "*":
            expression += "[^/]*"
        elif letter == "?":
            expression += "[^/]"
        elif end > 0:
            inside = part[at + 1 : end]
            negated = "^" if inside.startswith("!") else ""
            inside = re.sub(r"([\\\[\]^&~|])", r"\\\1", inside.removeprefix("!"))
            expression += f"(?!/)[{negated}{inside}]"
            at = end
        else:
            expression += re.escape(letter)
        at += 1
    return expression
