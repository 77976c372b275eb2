"""Whether a JSON value fits a JSON schema: the words of draft 2020-12 that describe structured answers.

Left out: $dynamicRef, unevaluated..., dependent..., contains, format, and schemas in other files; a schema with a word that is not
known is refused, for it would be passed over in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bottega.core.config import closest
from bottega.core.errors import UserError

TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "integer": lambda v: isinstance(v, int | float) and not isinstance(v, bool) and float(v).is_integer(),
}
NUMBERS: dict[str, Callable[[float, float], bool]] = {
    "minimum": lambda v, bound: v >= bound,
    "maximum": lambda v, bound: v <= bound,
    "exclusiveMinimum": lambda v, bound: v > bound,
    "exclusiveMaximum": lambda v, bound: v < bound,
    "multipleOf": lambda v, bound: abs(v / bound - round(v / bound)) < 1e-9,
}
SIZES: dict[str, tuple[type, Callable[[int, int], bool]]] = {
    "minLength": (str, int.__ge__),
    "maxLength": (str, int.__le__),
    "minItems": (list, int.__ge__),
    "maxItems": (list, int.__le__),
    "minProperties": (dict, int.__ge__),
    "maxProperties": (dict, int.__le__),
}
SAID = ("$schema", "$id", "$defs", "definitions", "title", "description", "default", "examples", "$comment")
"""Words that ask nothing of a value."""
OTHERS = (
    "$ref", "type", "enum", "const", "pattern", "uniqueItems", "required", "properties", "patternProperties", "additionalProperties",
    "items", "prefixItems", "allOf", "anyOf", "oneOf", "not", "if", "then", "else",
)  # fmt: skip
WORDS = (*NUMBERS, *SIZES, *SAID, *OTHERS)
MAX_DEPTH = 64
Schema = Mapping[str, Any] | bool


def read_schema(source: Any) -> Schema:
    """A schema: a mapping, JSON text, or the path of a JSON file; checked.

    Raises:
        UserError: it is none, or has a word that is not known.
    """
    found = source
    if isinstance(source, str):
        text = source if source.lstrip().startswith("{") else _read(source)
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"the schema {source[:60]!r} is no JSON ({error}): mend it") from None
    check(found)
    assert isinstance(found, dict | bool)
    return found


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the schema {path} cannot be read ({error}): give a JSON file, or the schema itself") from None


def check(schema: Any, root: Any = None, where: str = "#") -> None:
    """Raises UserError where `schema` has a word that is not known, or holds something that is no schema."""
    root = schema if root is None else root
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise UserError(f"the schema at {where} is {schema!r}, and a schema is a mapping: mend it")
    for word, value in schema.items():
        if word not in WORDS:
            raise UserError(f"the schema at {where} has {word!r}, which is not known here{closest(word, WORDS)}")
        if word == "type" and (unknown := [one for one in _several(value) if one not in TYPES]):
            raise UserError(f"the schema at {where} has the type {unknown[0]!r}; there are {', '.join(TYPES)}")
        if word == "$ref":
            _target(root, value)
        inner = _inner(word, value)
        for name, one in inner.items():
            check(one, root, f"{where}/{word}{name}")


def _inner(word: str, value: Any) -> Mapping[str, Any]:
    """The schemas inside a word's value."""
    if word in ("properties", "patternProperties", "$defs", "definitions") and isinstance(value, dict):
        return {f"/{name}": one for name, one in value.items()}
    if word in ("allOf", "anyOf", "oneOf", "prefixItems") and isinstance(value, list):
        return {f"/{i}": one for i, one in enumerate(value)}
    if word in ("items", "additionalProperties", "not", "if", "then", "else"):
        return {"": value}
    return {}


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _target(root: Any, reference: Any) -> Schema:
    """What a `$ref` within the schema points to."""
    found = root
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise UserError(f"the schema refers to {reference!r}; only parts of itself (#/$defs/NAME) can be referred to")
    for part in reference.lstrip("#").strip("/").split("/") if reference.strip("#/") else []:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or name not in found:
            raise UserError(f"the schema refers to {reference!r}, which it does not hold: mend it")
        found = found[name]
    assert isinstance(found, dict | bool)
    return found


def fits(value: Any, schema: Schema, root: Schema | None = None, depth: int = 0) -> bool:
    """Whether `value` (as json reads it) fits a schema that was read by `read_schema`."""
    if isinstance(schema, bool):
        return schema
    if depth > MAX_DEPTH:
        return False
    root = schema if root is None else root

    def inside(part: Any, one: Any) -> bool:
        return fits(part, one, root, depth + 1)

    if "$ref" in schema and not inside(value, _target(root, schema["$ref"])):
        return False
    if "type" in schema and not any(TYPES[one](value) for one in _several(schema["type"])):
        return False
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        return False
    if "const" in schema and not _same(value, schema["const"]):
        return False
    return (
        _plain(value, schema)
        and (not isinstance(value, dict) or _object(value, schema, inside))
        and (not isinstance(value, list) or _array(value, schema, inside))
        and _combined(value, schema, inside)
    )


def _same(left: Any, right: Any) -> bool:
    """Equal as JSON: 1 is 1.0, and not true."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    return bool(left == right)


def _plain(value: Any, schema: Mapping[str, Any]) -> bool:
    """Bounds of numbers, sizes, and the pattern of a text."""
    for word, holds in NUMBERS.items():
        if word in schema and TYPES["number"](value) and not holds(value, schema[word]):
            return False
    for word, (kind, compares) in SIZES.items():
        if word in schema and isinstance(value, kind) and not compares(len(value), schema[word]):  # type: ignore[arg-type]
            return False
    return not ("pattern" in schema and isinstance(value, str) and re.search(schema["pattern"], value) is None)


def _object(value: dict[str, Any], schema: Mapping[str, Any], inside: Callable[[Any, Any], bool]) -> bool:
    named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    rest = schema.get("additionalProperties", True)
    if any(name not in value for name in schema.get("required", ())):
        return False
    for name, one in value.items():
        wanted = [named[name]] if name in named else []
        wanted += [inner for pattern, inner in patterns.items() if re.search(pattern, name)]
        if not all(inside(one, inner) for inner in wanted or [rest]):
            return False
    return True


def _array(value: list[Any], schema: Mapping[str, Any], inside: Callable[[Any, Any], bool]) -> bool:
    first = schema.get("prefixItems", [])
    if not all(inside(one, inner) for one, inner in zip(value, first)):
        return False
    if not all(inside(one, schema.get("items", True)) for one in value[len(first) :]):
        return False
    return not schema.get("uniqueItems") or not any(
        _same(one, other) for i, one in enumerate(value) for other in value[:i]
    )


def _combined(value: Any, schema: Mapping[str, Any], inside: Callable[[Any, Any], bool]) -> bool:
    if "allOf" in schema and not all(inside(value, one) for one in schema["allOf"]):
        return False
    if "anyOf" in schema and not any(inside(value, one) for one in schema["anyOf"]):
        return False
    if "oneOf" in schema and sum(inside(value, one) for one in schema["oneOf"]) != 1:
        return False
    if "not" in schema and inside(value, schema["not"]):
        return False
    if "if" in schema:
        return inside(value, schema.get("then" if inside(value, schema["if"]) else "else", True))
    return True
