"""What a leaf must hold, by kind and version: InstructLab's taxonomy schemas 1 to 3, as tables.

Left out: YAML (taxonomy_yaml.py), lint (taxonomy_lint.py). No text has a greatest length.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bottega.synth.taxonomy_yaml import Node, Problem

NEWEST = 3
BRANCHES = ("knowledge", "foundational_skills", "compositional_skills")


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A text of at least `least` characters."""

    least: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """The version number itself."""

    is_: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Many:
    """A list of at least `least` items, all different if `unique`."""

    of: Text | Whole | Many | Fields
    least: int = 1
    unique: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """A mapping: needed and optional keys; with `open`, others too."""

    needed: dict[str, Any]
    optional: dict[str, Any] = field(default_factory=dict)
    open: bool = False


Shape = Text | Whole | Many | Fields
_PAIR = {"question": Text(), "answer": Text()}


def _skill(version: int) -> Fields:
    example = Fields(needed=_PAIR, optional={"context": Text()})
    least = 5 if version > 1 else 1
    needed = {
        "created_by": Text(),
        "task_description": Text(least=1 if version > 1 else 0),
        "seed_examples": Many(of=example, least=least, unique=version > 1),
    }
    number = {"version": Whole(is_=version)}
    return Fields(needed={**number, **needed}) if version > 1 else Fields(needed=needed, optional=number)


KNOWLEDGE = Fields(
    needed={
        "version": Whole(is_=3),
        "created_by": Text(),
        "domain": Text(),
        "document_outline": Text(),
        "document": Fields(
            needed={"repo": Text(), "commit": Text(), "patterns": Many(of=Text(), least=1, unique=True)}
        ),
        "seed_examples": Many(
            of=Fields(
                needed={
                    "context": Text(),
                    "questions_and_answers": Many(of=Fields(needed=_PAIR, open=True), least=3, unique=True),
                }
            ),
            least=5,
            unique=True,
        ),
    }
)
SKILLS = {version: _skill(version) for version in (1, 2, 3)}


def check_schema(root: Node, *, is_knowledge: bool, version: int) -> list[Problem]:
    """Every way in which a leaf departs from its schema, in the order of the file.

    Args:
        root: a mapping.
        version: in 1 .. 3, that of the schema (the file's own, or forced).
    """
    if is_knowledge and version < 3:
        return [deprecated(root, version)]
    shape = KNOWLEDGE if is_knowledge else SKILLS[version]
    return sorted(_check(root, shape, ""), key=lambda one: (one.line, one.column))


def deprecated(root: Node, version: int) -> Problem:
    """The one error of a knowledge leaf of version 1 or 2."""
    node = root.get("version") or root
    message = f"knowledge of schema version {version} is deprecated; {NEWEST} is read"
    fix = "run `bottega taxonomy migrate` and fill in what it marks"
    return _problem(node, "version", "deprecated", str(version), message, fix)


def _problem(node: Node, key: str, rule: str, found: str, message: str, fix: str) -> Problem:
    return Problem(line=node.line, column=node.column, key=key, rule=rule, found=found[:80], message=message, fix=fix)


def _check(node: Node, shape: Shape, key: str) -> Iterator[Problem]:
    if isinstance(shape, Text):
        yield from _check_text(node, shape, key)
    elif isinstance(shape, Whole):
        if type(node.value) is not int or node.value != shape.is_:
            message = f"version is {_shown(node)}, but the schema is that of version {shape.is_}"
            yield _problem(node, key, "version", _shown(node), message, f"write `version: {shape.is_}`")
    elif isinstance(shape, Many):
        yield from _check_many(node, shape, key)
    else:
        yield from _check_fields(node, shape, key)


def _check_text(node: Node, shape: Text, key: str) -> Iterator[Problem]:
    if node.kind != "scalar" or not isinstance(node.value, str):
        kind = {bool: "a boolean", int: "a number", float: "a number", type(None): "nothing"}.get(
            type(node.value), "a date"
        )
        kind = {"map": "a mapping", "list": "a list"}.get(node.kind, kind)
        fix = f'put it in quotes: "{node.text}"' if node.kind == "scalar" and node.text else "write a text"
        yield _problem(node, key, "type", _shown(node), f"{key} must be text, and {_shown(node)} is {kind}", fix)
    elif len(node.value) < shape.least:
        yield _problem(
            node, key, "length", "''", f"{key} is empty; it needs at least {shape.least} character", "write it"
        )


def _check_many(node: Node, shape: Many, key: str) -> Iterator[Problem]:
    if node.kind != "list":
        yield _problem(
            node,
            key,
            "type",
            _shown(node),
            f"{key} must be a list, and this is {_shown(node)}",
            "begin each item with `- `",
        )
        return
    if len(node.items) < shape.least:
        message = f"{key} has {len(node.items)} items; at least {shape.least} are needed"
        yield _problem(node, key, "count", str(len(node.items)), message, f"add {shape.least - len(node.items)} more")
    seen: dict[str, int] = {}
    for place, item in enumerate(node.items):
        if shape.unique:
            same = json.dumps(_told_apart(item), sort_keys=True)
            if same in seen:
                message = f"item {place + 1} of {key} is the same as item {seen[same] + 1}"
                yield _problem(
                    item, f"{key}[{place}]", "unique", _shown(item), message, "change or remove one of the two"
                )
            seen.setdefault(same, place)
        yield from _check(item, shape.of, f"{key}[{place}]")


def _check_fields(node: Node, shape: Fields, key: str) -> Iterator[Problem]:
    if node.kind != "map":
        name = key or "the file"
        fix = "begin the file with `created_by:`" if not key else "write `key: value` lines"
        yield _problem(node, key, "type", _shown(node), f"{name} must be a mapping, and this is {_shown(node)}", fix)
        return
    known = {**shape.needed, **shape.optional}
    given = {name.value: value for name, value in node.entries}
    for name in shape.needed:
        if name not in given:
            message = f"{name} is missing" + (f" in {key}" if key else "")
            yield _problem(node, _join(key, name), "required", "", message, f"add `{name}:`")
    for word, value in node.entries:
        if word.value in known:
            yield from _check(value, known[word.value], _join(key, str(word.value)))
        elif not shape.open:
            message = f"{word.text!r} is no key of {key or 'a leaf'}; the keys are {', '.join(known)}"
            yield _problem(word, _join(key, word.text), "unknown", word.text, message, "remove or rename it")


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _shown(node: Node) -> str:
    if node.kind == "scalar":
        return repr(node.text[:60]) if isinstance(node.value, str) else node.text[:60] or "nothing"
    return f"a list of {len(node.items)}" if node.kind == "list" else f"a mapping of {len(node.entries)}"


def _told_apart(node: Node) -> Any:
    """A value as JSON in which True is not 1 and a date is not its text."""
    if node.kind == "list":
        return [_told_apart(item) for item in node.items]
    if node.kind == "map":
        return {"map": {str(key.value): _told_apart(value) for key, value in node.entries}}
    return [type(node.value).__name__, str(node.value)]
