"""Plain data to frozen dataclasses, strictly: every mistake is found in one pass and shown with its place.

Left out: YAML itself (strictyaml), defaults that depend on other fields (each dataclass's own business), code of any
kind in configuration files.

The dataclass is the schema: its annotations are the types, its defaults the defaults, `option(...)` adds help and
bounds. A dataclass may have a static method `shorthand(value) -> value` that turns a short way of writing into the
mapping.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from bottega.core.errors import UserError
from bottega.core.strictyaml import Marks, dump_yaml, load_yaml, scalar
from bottega.core.strictyaml import Path as Keys

__all__ = ["Marks", "Secret", "build", "closest", "convert", "dump_yaml", "load_yaml", "option", "plain", "scalar"]

T = TypeVar("T")


class Secret(str):
    """`${env:NAME}`: the name of a secret, never its value, so that it can be written down; `reveal` reads it."""

    __slots__ = ()

    def reveal(self) -> str:
        """The secret's value from the environment.

        Raises:
            UserError: the variable is not set.
        """
        import os

        name = self.removeprefix("${env:").removesuffix("}")
        if name not in os.environ:
            raise UserError(f"the environment variable {name} is not set; set it, since a recipe names it as a secret")
        return os.environ[name]


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    factory: Any = dataclasses.MISSING,
) -> Any:
    """A dataclass field with one sentence of help and bounds: low <= value <= high, value > above."""
    metadata = {"help": help, "low": low, "high": high, "above": above}
    if factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def build(cls: type[T], data: Any, *, marks: Marks | None = None, path: Keys = ()) -> T:
    """Build the dataclass `cls` from plain data.

    Raises:
        UserError: unknown keys ("did you mean"), missing keys, wrong types, values out of bounds: all, a line each.
    """
    reader = _Reader(marks or Marks())
    value = reader.read(cls, data, path)
    if reader.errors:
        raise UserError("\n".join(reader.errors))
    return typing.cast(T, value)


def convert(kind: Any, data: Any, *, marks: Marks | None = None, path: Keys = ()) -> tuple[Any, list[str]]:
    """`data` as the type `kind`, and the mistakes found on the way (empty: none)."""
    reader = _Reader(marks or Marks())
    return reader.read(kind, data, path), reader.errors


def closest(word: str, known: Iterable[str]) -> str:
    """` (did you mean X?)`, or what there is, or nothing.

    >>> closest("epoch", ["epochs", "steps"])
    '; did you mean epochs?'
    """
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known: {', '.join(names)}" if 0 < len(names) <= 30 else ""


def plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as the plain data they were built from (JSON and YAML can hold it)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, str | Path):
        return str(value)
    return value


def name_of(kind: Any) -> str:
    """A type in the words of a person who writes YAML."""
    origin = get_origin(kind)
    if origin is Literal:
        return "one of " + ", ".join(str(arg) for arg in get_args(kind))
    if origin in (Union, types.UnionType):
        return " or ".join(name_of(arg) for arg in get_args(kind))
    if origin in (tuple, list, Sequence):
        return f"a list of {name_of(get_args(kind)[0])}" if get_args(kind) else "a list"
    if origin in (dict, Mapping) or kind in (dict, Mapping):
        return "a mapping"
    words = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        type(None): "null",
        Path: "a path",
    }
    return words.get(kind, "a mapping" if dataclasses.is_dataclass(kind) else "a value")


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class _Reader:
    """Walks data and types together and collects every mistake."""

    def __init__(self, marks: Marks) -> None:
        self.marks = marks
        self.errors: list[str] = []

    def fail(self, path: Keys, message: str, *, key: bool = False) -> None:
        place = self.marks.at_key(path) if key else self.marks.at(path)
        self.errors.append(f"{place}: {message}" if place else message)

    def read(self, kind: Any, data: Any, path: Keys) -> Any:
        """`data` as `kind`; a mistake is recorded and None returned."""
        origin = get_origin(kind)
        if kind is Any:
            return data
        if origin in (Union, types.UnionType):
            return self.union(kind, data, path)
        if origin is Literal:
            choices = get_args(kind)
            if any(data == choice and type(data) is type(choice) for choice in choices):
                return data
            near = closest(str(data), [str(c) for c in choices])
            return self.wrong(kind, data, path, near if "did you mean" in near else "")
        if dataclasses.is_dataclass(kind):
            return self.dataclass(kind, data, path)
        if origin in (tuple, list, Sequence):
            return self.sequence(kind, data, path)
        if origin in (dict, Mapping) or kind in (dict, Mapping):
            return self.mapping(kind, data, path)
        return self.simple(kind, data, path)

    def wrong(self, kind: Any, data: Any, path: Keys, more: str = "") -> None:
        label = next((part for part in reversed(path) if isinstance(part, str)), "the value")
        self.fail(path, f"{label} is {_show(data)}, but needs {name_of(kind)}{more}")

    def union(self, kind: Any, data: Any, path: Keys) -> Any:
        """The first member that takes the data as it is; if none does, the mistakes of the likeliest one."""
        likeliest: list[str] | None = None
        if Secret in get_args(kind) and isinstance(data, str):  # a secret written out is not shown
            return self.simple(Secret, data, path)
        for member in get_args(kind):
            trial = _Reader(self.marks)
            value = trial.read(member, data, path)
            if not trial.errors:
                return value
            is_mapping = dataclasses.is_dataclass(member) or get_origin(member) in (dict, Mapping)
            inside = isinstance(data, dict) and is_mapping
            inside = inside or (isinstance(data, list) and get_origin(member) in (tuple, list, Sequence))
            if inside or (get_origin(member) is Literal and likeliest is None and isinstance(data, str)):
                likeliest = trial.errors
        if likeliest is None:
            return self.wrong(kind, data, path)
        self.errors += likeliest
        return None

    def sequence(self, kind: Any, data: Any, path: Keys) -> Any:
        if not isinstance(data, list | tuple):
            return self.wrong(kind, data, path)
        args = get_args(kind)
        if get_origin(kind) is tuple and args and args[-1] is not Ellipsis:
            if len(args) != len(data):
                return self.wrong(kind, data, path, f" of length {len(args)}")
            return tuple(self.read(arg, item, (*path, i)) for i, (arg, item) in enumerate(zip(args, data)))
        items = [self.read(args[0] if args else Any, item, (*path, i)) for i, item in enumerate(data)]
        return items if get_origin(kind) is list else tuple(items)

    def mapping(self, kind: Any, data: Any, path: Keys) -> Any:
        if not isinstance(data, Mapping):
            return self.wrong(kind, data, path)
        args = get_args(kind) or (Any, Any)
        return {self.read(args[0], k, (*path, k)): self.read(args[1], v, (*path, k)) for k, v in data.items()}

    def simple(self, kind: Any, data: Any, path: Keys) -> Any:
        if kind is float and type(data) is int:
            return float(data)
        if kind is Secret:
            if isinstance(data, str) and data.startswith("${env:") and data.endswith("}"):
                return Secret(data)
            label = path[-1] if path else "the value"
            self.fail(path, f"{label} is a secret: write ${{env:NAME}} and set the variable NAME")
            return None
        if kind is Path and isinstance(data, str):
            return Path(data)
        if type(data) is not kind:
            return self.wrong(kind, data, path)
        if isinstance(data, str) and "${env:" in data:
            self.fail(path, f"{_show(data)}: environment variables are read for secrets only; write the value itself")
            return None
        if isinstance(data, float) and not math.isfinite(data):
            self.fail(path, f"{path[-1] if path else 'the value'} is {data}, but needs a finite number")
            return None
        return data

    def dataclass(self, cls: Any, data: Any, path: Keys) -> Any:
        shorthand = getattr(cls, "shorthand", None)
        if shorthand is not None:
            data = shorthand(data)
        if not isinstance(data, Mapping):
            return self.wrong(cls, data, path)
        hints, fields = get_type_hints(cls), {f.name: f for f in dataclasses.fields(cls) if f.init}
        count = len(self.errors)
        for key in data:
            if key not in fields:
                self.fail((*path, key), f"unknown key {str(key)!r}{closest(str(key), fields)}", key=True)
        values: dict[str, Any] = {}
        for name, spec in fields.items():
            if name in data:
                values[name] = self.read(hints[name], data[name], (*path, name))
                self.bounds(spec, values[name], (*path, name))
            elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
                help = spec.metadata.get("help")
                self.fail(path, f"the key {name!r} is missing" + (f" ({help})" if help else ""))
        if len(self.errors) > count:
            return None
        try:
            return cls(**values)
        except UserError as error:  # raised by the dataclass's own __post_init__
            self.fail(path, str(error))
            return None

    def bounds(self, spec: dataclasses.Field[Any], value: Any, path: Keys) -> None:
        if type(value) not in (int, float):
            return
        low, high, above = (spec.metadata.get(name) for name in ("low", "high", "above"))
        if low is not None and value < low:
            self.fail(path, f"{spec.name} is {value}, but must be at least {low}")
        if high is not None and value > high:
            self.fail(path, f"{spec.name} is {value}, but must be at most {high}")
        if above is not None and value <= above:
            self.fail(path, f"{spec.name} is {value}, but must be above {above}")
