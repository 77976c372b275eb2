"""What invented handbooks and entries can say, and how it can be asked: one block of lines per attribute.

A block is `name = value kind`, then `+` statements, `?` questions, and `!` questions kept for probes only.
`{s}` is the subject ("the Gelnov mill"), `{S}` the same with a capital, `{v}` the value. Left out: values (in
`reading.py`).
"""

from functools import cache
from typing import NamedTuple

from .entries import MACHINE, PERSON, PLACE, SPECIES
from .handbooks import ORGANISATION


class Attribute(NamedTuple):
    """One thing that can be said and asked about a subject of a theme."""

    name: str
    value: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    held: tuple[str, ...]


THEMES = {"organisation": ORGANISATION, "machine": MACHINE, "person": PERSON, "place": PLACE, "species": SPECIES}


@cache
def parse(blocks_text: str) -> tuple[Attribute, ...]:
    """Read blocks of attributes."""
    blocks: list[tuple[str, str, dict[str, list[str]]]] = []
    for line in blocks_text.strip().splitlines():
        if line[0] in "+?!":
            blocks[-1][2][line[0]].append(line[2:])
        else:
            name, value = line.split(" = ")
            blocks.append((name, value, {"+": [], "?": [], "!": []}))
    return tuple(Attribute(n, v, tuple(b["+"]), tuple(b["?"]), tuple(b["!"])) for n, v, b in blocks)


def attributes(theme: str) -> tuple[Attribute, ...]:
    """Read the attributes of one theme."""
    return parse(THEMES[theme])
