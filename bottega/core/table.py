"""Tables of lazy "module:name" entries, and what options an entry takes, read from its source without importing it.

Left out: entry points of other packages (they join when there is a first one).

A recipe's mistakes must be found before torch is imported, and the options of an objective or a method are the
keyword-only parameters of a function or a class (or the fields of a dataclass) in a module that imports torch. So the
signature is read from the file with `ast`: names, annotations, literal defaults.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

REQUIRED = object()
_TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool, "None": None, "Path": Path, "Any": Any}
_GENERIC: dict[str, Any] = {"tuple": tuple, "list": list, "dict": dict, "Sequence": tuple, "Mapping": dict}


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One option: its type (`Any` where the annotation is not plain) and default (`REQUIRED`: none)."""

    name: str
    kind: Any
    default: Any = REQUIRED


def resolve(target: str) -> Any:
    """Import what "module:name" names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def options(target: str) -> dict[str, Option]:
    """The options of the function, class or dataclass that "module:name" names, by name, in order of definition."""
    tree = _tree(target)
    node: ast.AST = _definition(tree, target)
    aliases = _aliases(tree)
    if isinstance(node, ast.ClassDef):
        makers = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        if makers:
            node = makers[0]
    if isinstance(node, ast.ClassDef):
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
        found = [(f.target.id, f.annotation, f.value) for f in fields if not _is_internal(f)]  # type: ignore[union-attr]
    else:
        assert isinstance(node, ast.FunctionDef)
        pairs = zip(node.args.kwonlyargs, node.args.kw_defaults)
        found = [(argument.arg, argument.annotation or ast.Name("Any"), default) for argument, default in pairs]
    return {name: _option(name, annotation, default, aliases) for name, annotation, default in found}


def keys(target: str) -> list[str]:
    """The keys of the literal dict that "module:NAME" names."""
    name = target.partition(":")[2]
    for node in _tree(target).body:
        names = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        value = getattr(node, "value", None)
        if isinstance(value, ast.Dict) and any(isinstance(n, ast.Name) and n.id == name for n in names):
            return [str(ast.literal_eval(key)) for key in value.keys if key is not None]
    raise AssertionError(f"{target} names no literal dict")


def _tree(target: str) -> ast.Module:
    module = target.partition(":")[0]
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, f"{target} names a module that does not exist"
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _definition(tree: ast.Module, target: str) -> ast.FunctionDef | ast.ClassDef:
    name = target.partition(":")[2]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node
    raise AssertionError(f"{target} names no function or class")


def _aliases(tree: ast.Module) -> dict[str, Any]:
    """Module-level names of types and of literal values: `Init = Literal[...]`, `ALL = "all-linear"`."""
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node.value
    return found


def _is_internal(field: ast.AnnAssign) -> bool:
    """A field that users do not set: ClassVar, or a name that starts with an underscore, or the table's `name`."""
    name = field.target.id if isinstance(field.target, ast.Name) else ""
    return name.startswith("_") or name == "name" or "ClassVar" in ast.dump(field.annotation)


def _option(name: str, annotation: ast.expr, default: ast.expr | None, aliases: dict[str, ast.expr]) -> Option:
    value: Any = REQUIRED
    if default is not None:
        if isinstance(default, ast.Call):  # field(default=...), option(...): the literal in it, if there is one
            literal = [k.value for k in default.keywords if k.arg == "default"] + default.args[:1]
            default = literal[0] if literal else ast.Constant(None)
        if isinstance(default, ast.Name):
            default = aliases.get(default.id, ast.Constant(None))
        try:
            value = ast.literal_eval(default)
        except ValueError:
            value = None
    return Option(name=name, kind=_kind(annotation, aliases), default=value)


def _kind(node: ast.expr | None, aliases: dict[str, ast.expr]) -> Any:
    """A Python type from an annotation's source; `Any` for what is not one of the plain types."""
    if isinstance(node, ast.Constant):
        return _kind(ast.parse(node.value, mode="eval").body, aliases) if isinstance(node.value, str) else None
    if isinstance(node, ast.Name):
        if node.id in aliases:
            return _kind(aliases[node.id], {})
        return _TYPES.get(node.id, _GENERIC.get(node.id, Any))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        left, right = _kind(node.left, aliases), _kind(node.right, aliases)
        return Any if Any in (left, right) else left | right
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        arguments = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if node.value.id == "Literal":
            return Literal[tuple(ast.literal_eval(argument) for argument in arguments)]
        if node.value.id in _GENERIC:
            return _generic(_GENERIC[node.value.id], arguments, aliases)
    return Any


def _generic(origin: Any, arguments: list[ast.expr], aliases: dict[str, ast.expr]) -> Any:
    inner = [... if isinstance(a, ast.Constant) and a.value is ... else _kind(a, aliases) for a in arguments]
    if origin is tuple and len(inner) == 1:
        inner.append(...)
    return origin[tuple(inner)]
