"""Mends what can be mended in a leaf without changing a text: white space, line ends, blank lines, bare booleans.

Left out: what only its author can mend (missing seeds, wrong keys), indentation. White space inside texts stays, for it is
text. The mended file is read again before it is written: but for booleans that became words, it says what it said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bottega.core.rundir import atomic_write
from bottega.synth.taxonomy import NAME, candidates
from bottega.synth.taxonomy_yaml import Broken, Node, begin, finish, parse_leaf, read_leaf

MAX_BLANK = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A repair: the line of the old text, and what was done."""

    line: int
    what: str


def fix(path: str | Path, *, dry_run: bool = False) -> dict[str, Any]:
    """Mend one leaf or a tree of them.

    Args:
        dry_run: say what would change, write nothing.

    Returns: `files` with their changes, `unreadable` ones with the reason, `exit_code` 1 if there are any of those.
    Raises:
        UserError: nothing is there.
    """
    root = Path(path)
    files, unreadable = [], []
    for file, shown in candidates(root):
        if file.name != NAME:
            continue
        try:
            text = read_leaf(file)
            mended, changes = mend(text)
        except Broken as stop:
            place = f"{stop.problem.line}:{stop.problem.column}"
            unreadable.append({"path": shown, "place": place, "message": stop.problem.message, "fix": stop.problem.fix})
            continue
        if changes:
            if not dry_run:
                atomic_write(file, mended)
            files.append({"path": shown, "changes": [{"line": one.line, "what": one.what} for one in changes]})
    return {"files": files, "unreadable": unreadable, "written": not dry_run, "exit_code": 1 if unreadable else 0}


def fix_text(result: dict[str, Any]) -> str:
    """A line a change."""
    verb = "" if result["written"] else "would be "
    lines = [
        f"{file['path']}:{change['line']}: {verb}{change['what']}"
        for file in result["files"]
        for change in file["changes"]
    ]
    lines += [
        f"{one['path']}:{one['place']}: left alone: {one['message']}; {one['fix']}" for one in result["unreadable"]
    ]
    count = len(result["files"])
    return "\n".join([*lines, f"{count} {'leaf' if count == 1 else 'leaves'} {verb}mended"])


def mend(text: str) -> tuple[str, list[Change]]:
    """The mended text of a leaf and what was done to it.

    Raises:
        Broken: it is no YAML.
    """
    before, _ = parse_leaf(text)
    changes: list[Change] = []
    mended = text
    if "\r\n" in mended:
        changes.append(Change(line=1, what="line ends made \\n"))
        mended = mended.replace("\r\n", "\n")
    mended, quoted = _quote_booleans(mended)
    changes += quoted
    for trim in (True, False):
        tidied, tidy = _tidy(mended, trim=trim)
        if _same(before, tidied):
            changes += tidy
            break
    else:
        tidied, changes = text, []
    assert _same(before, tidied), "mending changed a text"
    return tidied, sorted(changes, key=lambda one: one.line)


def _quote_booleans(text: str) -> tuple[str, list[Change]]:
    """Bare booleans that stand as values, in quotes."""
    root, _ = parse_leaf(text)
    spots: dict[int, Node] = {}
    stack = [root] if root else []
    seen: set[int] = set()
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        stack += [*node.items, *(value for _, value in node.entries)]
        if node.kind == "scalar" and node.plain and isinstance(node.value, bool):
            spots[node.end] = node
    changes = []
    for end in sorted(spots, reverse=True):
        node = spots[end]
        start = end - len(node.text)
        assert text[start:end] == node.text
        text = f'{text[:start]}"{node.text}"{text[end:]}'
        changes.append(Change(line=node.line, what=f"{node.text} put in quotes"))
    return text, changes


def _tidy(text: str, *, trim: bool) -> tuple[str, list[Change]]:
    """Spaces at line ends, runs of blank lines and the last line's end, outside of texts.

    trim: blank lines behind a block of text (`|`, `>`) are taken for layout unless it keeps them (`|+`).
    """
    changes: list[Change] = []
    lines = text.split("\n")
    if lines[-1]:
        text = _ended(text)
        lines = text.split("\n")
        changes.append(Change(line=len(lines) - 1, what="the last line ended"))
    held = _held(text, lines, trim=trim)
    content = [number for number, line in enumerate(lines[:-1]) if line.strip(" \t") or number in held]
    first, last = (content[0], content[-1]) if content else (len(lines), -1)
    kept: list[str] = []
    blank = 0
    for number, line in enumerate(lines[:-1]):
        if number in held:
            kept.append(line)
            blank = 0
            continue
        bare = line.rstrip(" \t")
        blank = blank + 1 if not bare else 0
        if blank > (MAX_BLANK if first < number < last else 0):
            changes.append(Change(line=number + 1, what="a blank line removed"))
            blank -= 1
            continue
        if bare != line:
            changes.append(Change(line=number + 1, what="spaces at the line's end removed"))
        kept.append(bare)
    return "\n".join([*kept, ""]), changes


def _ended(text: str) -> str:
    """The text with its last line ended; a block of text that ends with it then drops that end (`|-`), to stay as it was."""
    last = None
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.ScalarEvent):
            last = event
    if last is not None and last.style in ("|", ">") and finish(last).index >= len(text):
        head = begin(last).index
        head += re.match(r"(?:[&!]\S*\s+)*", text[head:]).end()  # type: ignore[union-attr]
        mark = re.match(r"[|>][0-9+-]*", text[head:])
        if mark and not last.value.endswith("\n"):
            wanted = re.sub(r"[+-]", "", mark[0]) + "-"
            text = text[:head] + wanted + text[head + mark.end() :]
    return text + "\n"


def _held(text: str, lines: list[str], *, trim: bool) -> set[int]:
    """Lines (from 0) within texts of several lines: what stands there is text."""
    held: set[int] = set()
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if not isinstance(event, yaml.ScalarEvent):
            continue
        first, last = begin(event).line, finish(event).line
        if event.style not in ("|", ">"):
            held.update(range(first, last) if last > first else ())
            continue
        inside = range(first + 1, last if finish(event).column == 0 or last >= len(lines) else last + 1)
        stop = inside.stop
        keeps = "+" in lines[first].split("#")[0][-4:]
        while trim and not keeps and stop > inside.start and not lines[stop - 1].strip(" \t"):
            stop -= 1
        held.update(range(inside.start, stop))
    return held


def _same(before: Node | None, text: str) -> bool:
    """Whether a text still says what it said, booleans that became words apart."""
    try:
        after, _ = parse_leaf(text)
    except Broken:
        return False
    return (before is None) == (after is None) and (before is None or after is None or _equal(before, after))


def _equal(one: Node, other: Node) -> bool:
    if one.kind != other.kind:
        return False
    if one.kind == "list":
        return len(one.items) == len(other.items) and all(map(_equal, one.items, other.items))
    if one.kind == "map":
        pairs = list(zip(one.entries, other.entries))
        return len(one.entries) == len(other.entries) and all(
            a.value == b.value and _equal(c, d) for (a, c), (b, d) in pairs
        )
    if isinstance(one.value, bool) and isinstance(other.value, str):
        return one.text == other.value
    return type(one.value) is type(other.value) and (one.value == other.value or one.value != one.value)
