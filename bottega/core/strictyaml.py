"""Strict YAML: numbers are numbers, `no` is a word, and what is ambiguous or hostile is refused with its place.

Left out: writing YAML with comments, merge keys (`<<`), several documents in one file.

YAML 1.1 reads `1e-4` as a string, `no` as False, `12:30` as 750 and keeps the last of two equal keys; here scalars
follow the YAML 1.2 core schema. Nesting deeper than 50, aliases that unfold to more than 20,000 nodes and tags that
build objects are refused. The tree is built from parser events with our own stack, so that a hostile file cannot
exhaust Python's.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any, NamedTuple

import yaml

from bottega.core.errors import Unsafe, UserError

MAX_BYTES = 4_000_000
MAX_DEPTH = 50
MAX_ALIASED_NODES = 20_000
MAX_DIGITS = 300

Path = tuple[Hashable, ...]

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = {".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}
_WORDS: dict[str, None | bool] = {"": None, "~": None, "null": None, "true": True, "false": False}
_TAGS = {"tag:yaml.org,2002:" + name for name in ("str", "int", "float", "bool", "null", "map", "seq")}


class Mark(NamedTuple):
    """Where a value and its key were written, each as `file:line:column`."""

    value: str
    key: str


class Marks(dict[Path, Mark]):
    """Places of values by their path in the tree; a path without a place of its own has that of its nearest parent."""

    def nearest(self, path: Path) -> Mark:
        while path and path not in self:
            path = path[:-1]
        return self.get(path, Mark("", ""))

    def at(self, path: Path) -> str:
        """`file:line:column` of the value at `path`."""
        return self.nearest(path).value

    def at_key(self, path: Path) -> str:
        """`file:line:column` of the key at `path` (of the item, inside a list)."""
        return self.nearest(path).key


def load_yaml(text: str | bytes, *, file: str) -> tuple[Any, Marks]:
    """Read one YAML document strictly.

    Returns: the data (dict, list, str, int, float, bool, None) and the place of every value.
    Raises:
        UserError: not UTF-8, not YAML, a duplicate key, more than one document; all duplicates are shown together.
        Unsafe: nesting, aliases, size or tags beyond what is accepted.
    """
    if len(text) > MAX_BYTES:
        raise Unsafe(f"{file} has {len(text):,} bytes; at most {MAX_BYTES:,} are read as YAML: split it")
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    tree = _Tree(file)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            tree.take(event)
    except yaml.YAMLError as error:
        raise UserError(_syntax(error, file)) from None
    if tree.errors:
        raise UserError("\n".join(tree.errors))
    return tree.root, tree.marks


def scalar(text: str) -> Any:
    """The value of a plain (unquoted) scalar in the YAML 1.2 core schema.

    >>> [scalar(t) for t in ("1e-4", "no", "12:30", "0x1f", "~", "True")]
    [0.0001, 'no', '12:30', 31, None, True]
    """
    lowered = text.lower()
    if lowered in _WORDS and text in (lowered, lowered.upper(), lowered.capitalize()):
        return _WORDS[lowered]
    if lowered in _SPECIAL:
        return _SPECIAL[lowered]
    if _INT.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    return float(text) if _FLOAT.fullmatch(text) else text


def _syntax(error: yaml.YAMLError, file: str) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    context = getattr(error, "context", None)
    return f"{place}: not valid YAML: {context + ', ' if context else ''}{problem}"


class _Open:
    """A list or mapping that is being read."""

    __slots__ = ("anchor", "container", "nodes", "key", "has_key", "key_mark", "path", "first_seen")

    def __init__(self, container: list[Any] | dict[Any, Any], path: Path, anchor: str | None) -> None:
        self.container, self.path, self.anchor = container, path, anchor
        self.nodes, self.key, self.has_key, self.key_mark = 1, None, False, ""
        self.first_seen: dict[Any, str] = {}


class _Tree:
    """Builds the data from events; `take` is called once an event."""

    def __init__(self, file: str) -> None:
        self.file, self.root, self.marks = file, None, Marks()
        self.errors: list[str] = []
        self.stack: list[_Open] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.documents, self.aliased = 0, 0

    def take(self, event: yaml.Event) -> None:
        mark = event.start_mark
        place = f"{self.file}:{mark.line + 1}:{mark.column + 1}" if mark else self.file
        tag = getattr(event, "tag", None)
        if tag is not None and tag != "!" and tag not in _TAGS:
            raise Unsafe(f"{place}: the tag {tag!r} is not accepted; write plain YAML values")
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise UserError(f"{place}: a second document starts here; keep one document a file")
        elif isinstance(event, yaml.ScalarEvent):
            self.put(self.scalar(event, place), 1, place, event.anchor)
        elif isinstance(event, yaml.AliasEvent):
            self.alias(event, place)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self.open(event, place)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            done = self.stack.pop()
            if done.anchor:
                self.anchors[done.anchor] = (done.container, done.nodes)
            if self.stack:
                self.stack[-1].nodes += done.nodes

    def scalar(self, event: yaml.ScalarEvent, place: str) -> Any:
        text, tag = event.value, event.tag
        if tag is None and not event.implicit[0]:
            return text
        if tag in (None, "!"):
            if _INT.fullmatch(text) and len(text) > MAX_DIGITS:
                raise Unsafe(f"{place}: a number of {len(text)} digits; at most {MAX_DIGITS} are read")
            return text if tag == "!" else scalar(text)
        kind = tag.rpartition(":")[2]
        value = text if kind == "str" else scalar(text) if len(text) <= MAX_DIGITS else text
        wanted = {"str": str, "int": int, "float": float, "bool": bool, "null": type(None)}.get(kind)
        if kind == "float" and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            raise UserError(f"{place}: {text!r} is not a {kind}")
        return value

    def alias(self, event: yaml.AliasEvent, place: str) -> None:
        if event.anchor not in self.anchors:
            raise UserError(f"{place}: the alias *{event.anchor} names nothing that is complete before it")
        value, nodes = self.anchors[event.anchor]
        self.aliased += nodes
        if self.aliased > MAX_ALIASED_NODES:
            raise Unsafe(f"{place}: aliases unfold to more than {MAX_ALIASED_NODES:,} values; write them out")
        self.put(_copy(value), nodes, place, None)

    def open(self, event: yaml.CollectionStartEvent, place: str) -> None:
        if len(self.stack) >= MAX_DEPTH:
            raise Unsafe(f"{place}: nested deeper than {MAX_DEPTH} levels; flatten it")
        container: list[Any] | dict[Any, Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        path = self.put(container, 0, place, None)
        self.stack.append(_Open(container, path, event.anchor))

    def put(self, value: Any, nodes: int, place: str, anchor: str | None) -> Path:
        """Put a finished value, or a container about to be filled, where it belongs; returns its path."""
        if anchor:
            self.anchors[anchor] = (value, nodes)
        if not self.stack:
            self.root = value
            self.marks[()] = Mark(place, place)
            return ()
        parent = self.stack[-1]
        parent.nodes += nodes
        if isinstance(parent.container, list):
            parent.container.append(value)
            path = (*parent.path, len(parent.container) - 1)
            self.marks[path] = Mark(place, place)
            return path
        if not parent.has_key:
            self.start_key(parent, value, place)
            return parent.path
        path = (*parent.path, parent.key)
        parent.container[parent.key] = value
        parent.has_key = False
        self.marks[path] = Mark(place, parent.key_mark)
        return path

    def start_key(self, parent: _Open, value: Any, place: str) -> None:
        if isinstance(value, list | dict):
            raise UserError(f"{place}: a list or mapping cannot be a key; keys are words")
        if value == "<<":
            raise UserError(f"{place}: merge keys (<<) are not read; repeat the values, or use `base:` in a recipe")
        kind = (type(value), value)
        if kind in parent.first_seen:
            self.errors.append(f"{place}: the key {value!r} is given twice (first at {parent.first_seen[kind]})")
        parent.first_seen[kind] = place
        parent.key, parent.has_key, parent.key_mark = value, True, place


def _copy(value: Any) -> Any:
    """A deep copy, so that two uses of one anchor stay apart."""
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value


def dump_yaml(data: Any) -> str:
    """`data` as YAML that `load_yaml` reads back to the same values (words that look like numbers are quoted)."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    return text


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what our reader would take for a number and writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_word(self, data: str) -> yaml.Node:
        plain = not isinstance(scalar(data), str)
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="'" if plain else None)

    def represent_number(self, data: float) -> yaml.Node:
        text = {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(repr(data), repr(data))
        if "e" in text and "." not in text:
            text = text.replace("e", ".0e")
        return self.represent_scalar("tag:yaml.org,2002:float", text)


_Dumper.add_representer(str, _Dumper.represent_word)
_Dumper.add_representer(float, _Dumper.represent_number)
