"""A leaf's YAML as a tree in which each value knows its line and column, with the types of YAML 1.1.

Left out: merge keys, several documents in one file, writing. Recipes are read more strictly (core/strictyaml.py).

The tree is built from parser events with a stack of our own; size, depth, aliases and tags have the limits of
recipes, so that a hostile leaf costs no more than a sound one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from bottega.core.strictyaml import MAX_ALIASED_NODES, MAX_BYTES, MAX_DEPTH, MAX_DIGITS

_TAG = "tag:yaml.org,2002:"
_TAGS = {_TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq", "timestamp")}
BOOLEANS = {word: word in ("yes", "true", "on") for word in ("yes", "no", "true", "false", "on", "off")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What is wrong, where (line and column from 1), at which key, by which rule, what was found and what mends it."""

    line: int
    column: int
    key: str
    rule: str
    found: str
    message: str
    fix: str
    level: str = "error"

    def to_json(self) -> dict[str, Any]:
        names = ("line", "column", "key", "rule", "found", "message", "fix")
        return {name: getattr(self, name) for name in names}


@dataclass(kw_only=True, slots=True, eq=False)
class Node:
    """A value with its place: `value` of a scalar, `items` of a list, `entries` (key, value) of a mapping.

    `text` is a scalar as it was written, `plain` that it had no quotes; `end` is the end of a scalar in the text.
    """

    kind: str
    line: int
    column: int
    value: Any = None
    text: str = ""
    plain: bool = False
    start: int = 0
    end: int = 0
    items: list[Node] = field(default_factory=list)
    entries: list[tuple[Node, Node]] = field(default_factory=list)

    def get(self, key: str) -> Node | None:
        """The value of `key` of a mapping (the last, if it is given twice)."""
        found = [value for name, value in self.entries if name.kind == "scalar" and name.value == key]
        return found[-1] if found else None

    def data(self) -> Any:
        """The value without places."""
        if self.kind == "list":
            return [item.data() for item in self.items]
        if self.kind == "map":
            return {key.value: value.data() for key, value in self.entries}
        return self.value


class Mark(Protocol):
    """A place in a text: line and column from 0, and characters from its start."""

    line: int
    column: int
    index: int


def begin(event: yaml.Event) -> Mark:
    """Where an event begins."""
    assert event.start_mark is not None
    return event.start_mark


def finish(event: yaml.Event) -> Mark:
    """Where an event ends."""
    assert event.end_mark is not None
    return event.end_mark


class Broken(Exception):
    """A leaf that cannot be read further, with the one problem that says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def read_leaf(path: Path) -> str:
    """The text of a leaf's file, line ends as they are.

    Raises:
        Broken: too big, not UTF-8, or not to be opened.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise Broken(
                broken(
                    1,
                    1,
                    "size",
                    f"{size} bytes",
                    f"this leaf has {size:,} bytes; at most {MAX_BYTES:,} are read",
                    "move long texts into a document that the leaf points to, or split the leaf",
                )
            )
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.object[: error.start]
        line, column = start.count(b"\n") + 1, error.start - (start.rfind(b"\n") + 1) + 1
        found = f"byte {error.object[error.start]:#04x}"
        message = f"{found} is not UTF-8 text"
        raise Broken(broken(line, column, "encoding", found, message, "save the file as UTF-8")) from None
    except OSError as error:
        message = f"cannot be read: {error.strerror or type(error).__name__}"
        raise Broken(broken(1, 1, "file", "", message, "make it a readable file")) from None


def broken(line: int, column: int, rule: str, found: str, message: str, fix: str, key: str = "") -> Problem:
    """An error at a place."""
    return Problem(line=line, column=column, key=key, rule=rule, found=found, message=message, fix=fix)


def parse_leaf(text: str) -> tuple[Node | None, list[Problem]]:
    """The tree of one YAML document (None: empty) and the keys that are given twice.

    Raises:
        Broken: no YAML, or beyond what is accepted.
    """
    tree = _Tree()
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            tree.take(event)
    except yaml.YAMLError as error:
        raise Broken(_syntax(error, text)) from None
    return tree.root, tree.twice


def _syntax(error: yaml.YAMLError, text: str) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    context = getattr(error, "context", None)
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    position = getattr(error, "position", None)
    if mark is None and isinstance(position, int):
        before = text[:position]
        line, column = before.count("\n") + 1, position - before.rfind("\n")
    lines = text.split("\n")
    found = lines[line - 1].strip()[:80] if line <= len(lines) else ""
    fix = (
        "indent with spaces, never tabs"
        if "\\t" in str(what) or "\t" in found
        else "mend the line; quote text with ': ' or '#'"
    )
    return broken(line, column, "syntax", found, f"not valid YAML: {context + ', ' if context else ''}{what}", fix)


class _Tree:
    """Builds nodes from events; `take` is called once an event."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self.stack: list[Node] = []
        self.keys: list[Node | None] = []
        self.anchors: dict[str, Node] = {}
        self.names: list[str | None] = []
        self.sizes: dict[int, int] = {}
        self.twice: list[Problem] = []
        self.documents = self.aliased = 0
        self.loader = yaml.SafeLoader("")

    def take(self, event: yaml.Event) -> None:
        mark = begin(event)
        line, column = mark.line + 1, mark.column + 1
        tag = getattr(event, "tag", None)
        if tag is not None and tag != "!" and tag not in _TAGS:
            message = f"the tag {tag!r} is not accepted"
            raise Broken(broken(line, column, "tag", str(tag), message, "write plain YAML values"))
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                message = "a second document starts here"
                raise Broken(broken(line, column, "documents", "---", message, "keep one leaf a file"))
        elif isinstance(event, yaml.ScalarEvent):
            self.put(self.scalar(event, line, column), event.anchor)
        elif isinstance(event, yaml.AliasEvent):
            self.alias(event, line, column)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self.open(event, line, column)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self.close()

    def scalar(self, event: yaml.ScalarEvent, line: int, column: int) -> Node:
        text, plain = event.value, bool(event.implicit[0]) and event.style is None
        node = Node(kind="scalar", line=line, column=column, value=text, text=text, plain=plain)
        node.start, node.end = begin(event).index, finish(event).index
        tag = event.tag
        if tag in (None, "!"):
            tag = self.loader.resolve(yaml.ScalarNode, text, event.implicit) if tag is None else _TAG + "str"
        try:
            node.value = self.value(tag.removeprefix(_TAG), text)
        except (ValueError, OverflowError, KeyError, AttributeError, IndexError):
            message = f"{text[:40]!r} is not a {tag.removeprefix(_TAG)}"
            raise Broken(broken(line, column, "value", text[:80], message, "put it in quotes")) from None
        return node

    def value(self, kind: str, text: str) -> Any:
        if kind in ("int", "float", "timestamp"):
            if len(text) > MAX_DIGITS:
                raise ValueError(text)
            node = yaml.ScalarNode(_TAG + kind, text)
            if kind == "int":
                return self.loader.construct_yaml_int(node)
            return (
                self.loader.construct_yaml_float(node)
                if kind == "float"
                else self.loader.construct_yaml_timestamp(node)
            )
        if kind == "bool":
            return BOOLEANS[text.lower()]
        return None if kind == "null" else text

    def alias(self, event: yaml.AliasEvent, line: int, column: int) -> None:
        node = self.anchors.get(event.anchor or "")
        if node is None:
            message = f"the alias *{event.anchor} names nothing that is complete before it"
            raise Broken(broken(line, column, "alias", f"*{event.anchor}", message, "write the value out"))
        self.aliased += self.sizes.get(id(node), 1)
        if self.aliased > MAX_ALIASED_NODES:
            message = f"aliases unfold to more than {MAX_ALIASED_NODES:,} values"
            raise Broken(broken(line, column, "alias", f"*{event.anchor}", message, "write the values out"))
        self.put(node, None)

    def open(self, event: yaml.CollectionStartEvent, line: int, column: int) -> None:
        if len(self.stack) >= MAX_DEPTH:
            message = f"nested deeper than {MAX_DEPTH} levels"
            raise Broken(broken(line, column, "depth", str(MAX_DEPTH + 1), message, "flatten it"))
        kind = "map" if isinstance(event, yaml.MappingStartEvent) else "list"
        if self.stack and self.stack[-1].kind == "map" and self.keys[-1] is None:
            raise Broken(broken(line, column, "key", kind, f"a {kind} cannot be a key", "keys are words"))
        node = Node(kind=kind, line=line, column=column)
        self.put(node, None)
        self.stack.append(node)
        self.keys.append(None)
        self.names.append(event.anchor)

    def close(self) -> None:
        node, name = self.stack.pop(), self.names.pop()
        self.keys.pop()
        children = [*node.items, *(one for entry in node.entries for one in entry)]
        self.sizes[id(node)] = 1 + sum(self.sizes.get(id(child), 1) for child in children)
        if name:
            self.anchors[name] = node

    def put(self, node: Node, anchor: str | None) -> None:
        if anchor:
            self.anchors[anchor] = node
        if not self.stack:
            self.root = node
        elif self.stack[-1].kind == "list":
            self.stack[-1].items.append(node)
        elif self.keys[-1] is None:
            self.key(node)
        else:
            self.stack[-1].entries.append((self.keys[-1], node))
            self.keys[-1] = None

    def key(self, node: Node) -> None:
        if node.kind != "scalar":
            raise Broken(
                broken(node.line, node.column, "key", node.kind, f"a {node.kind} cannot be a key", "keys are words")
            )
        if node.value == "<<" and node.plain:
            message = "merge keys (<<) are not read"
            raise Broken(broken(node.line, node.column, "key", "<<", message, "write the values out"))
        for other, _ in self.stack[-1].entries:
            if type(other.value) is type(node.value) and (
                other.value == node.value or _both_nan(other.value, node.value)
            ):
                message = f"the key {node.text!r} is given twice (first in line {other.line})"
                fix = "remove or rename one of the two"
                self.twice.append(broken(node.line, node.column, "key-duplicates", node.text, message, fix, node.text))
                break
        self.keys[-1] = node


def _both_nan(one: Any, other: Any) -> bool:
    return isinstance(one, float) and math.isnan(one) and math.isnan(other)
