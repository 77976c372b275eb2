"""From a recipe's file to plain data with the place of every value: `base:`, paths, overrides, forms of stages.

Left out: what the keys mean (recipe.py).

Paths in a recipe are relative to the file they stand in; paths in overrides (`data=new.jsonl`) to where the command is
typed. `base:` names one other file: mappings are merged key by key, stages by name, other lists are replaced.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from bottega.core.config import Marks, closest, load_yaml, plain
from bottega.core.errors import UserError
from bottega.core.strictyaml import Mark

PATHS = ("data", "validation", "path", "store")
MAYBE_PATHS = ("model", "teacher", "template", "tasks", "against", "judge", "adapters")
"""Keys whose texts are paths; keys whose texts are names unless such a file or folder is there."""
ONE_OF = {"steps": "epochs", "epochs": "steps"}
"""Keys that say the same: given on the command line, one replaces the other."""
OPAQUE = ("columns", "objective", "method", "notify", "samples")


def read(
    source: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Sequence[str],
    *,
    top_keys: AbstractSet[str],
    stage_keys: AbstractSet[str],
) -> tuple[dict[str, Any], Marks]:
    """The recipe as data, `stages` a list of mappings with their `name`, paths absolute, overrides applied.

    Raises:
        UserError: it is not there, is not a mapping, or an override names no key.
    """
    if isinstance(source, Mapping):
        data, marks = _by_name(_anchored(copy.deepcopy(plain(source)), Path.cwd()), Marks())
    else:
        data, marks = _by_name(*_read_file(Path(source)))
    for override in overrides:
        _override(data, override, marks, top_keys, stage_keys, overrides)
    return _listed(data, marks)


def short(path: str) -> str:
    """A path as the user would type it: relative to here when it lies below."""
    relative_path = os.path.relpath(path) if not os.path.isabs(path) or Path(path).is_relative_to(Path.cwd()) else path
    return str(relative_path)


def _read_file(path: Path, *, inherited: bool = False) -> tuple[dict[str, Any], Marks]:
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise UserError(
            f"there is no recipe {path}{closest(path.name, near) if near else '; `bottega init DATA` writes one'}"
        )
    data, marks = load_yaml(path.read_bytes(), file=str(path))
    if data is None:
        raise UserError(f"{path} is empty; `bottega init DATA` writes a recipe")
    if not isinstance(data, dict):
        raise UserError(
            f"{path}:1:1: a recipe is a mapping with name, model and stages; this file holds something else"
        )
    base = data.pop("base", None)
    data = _anchored(data, path.parent)
    if base is None:
        return data, marks
    place = marks.at(("base",))
    if inherited:
        raise UserError(f"{place}: {path.name} is a base and inherits itself; a recipe inherits from one other file")
    if not isinstance(base, str):
        raise UserError(f"{place}: base is the path of one other file")
    parent, parent_marks = _by_name(*_read_file(path.parent / base, inherited=True))
    data, marks = _by_name(data, marks)
    return _merge(parent, data), Marks({**parent_marks, **marks})


def _merge(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        both = {key: _merge(old[key], new[key]) if key in new else old[key] for key in old}
        return {**both, **{key: value for key, value in new.items() if key not in old}}
    return new


def _by_name(data: dict[str, Any], marks: Marks) -> tuple[dict[str, Any], Marks]:
    """`stages: [{adapt: {...}}]` -> `stages: {adapt: {...}}`, the marks moved along."""
    stages = data.get("stages")
    if isinstance(stages, dict) or stages is None:
        return data, marks
    place = marks.at(("stages",))
    if not isinstance(stages, list) or not all(isinstance(s, dict) and len(s) == 1 for s in stages):
        raise UserError(f"{place}: stages is a list of `- name: {{objective: ..., data: ...}}`".removeprefix(": "))
    names = [str(next(iter(stage))) for stage in stages]
    for i, name in enumerate(names):
        if name in names[:i]:
            place = marks.at_key(("stages", i, name))
            raise UserError(f"{place}: two stages are called {name!r}; give each its own name".removeprefix(": "))
    moved = Marks()
    for path, mark in marks.items():
        inside = len(path) >= 3 and path[0] == "stages" and isinstance(path[1], int)
        if inside or len(path) < 2 or path[0] != "stages":
            moved[("stages", str(path[2]), *path[3:]) if inside else path] = mark
    return {**data, "stages": {str(next(iter(s))): next(iter(s.values())) for s in stages}}, moved


def _listed(data: dict[str, Any], marks: Marks) -> tuple[dict[str, Any], Marks]:
    """`stages: {adapt: {...}}` -> `stages: [{name: adapt, ...}]`, the marks moved along."""
    stages = data.get("stages", {})
    if not isinstance(stages, dict):
        raise UserError(f"{marks.at(('stages',))}: stages is a list of `- name: {{objective: ..., data: ...}}`")
    for name, stage in stages.items():
        if not isinstance(stage, dict):
            raise UserError(
                f"{marks.at(('stages', name))}: the stage {name} is a mapping (objective, data, method, ...)"
            )
    numbers = {name: i for i, name in enumerate(stages)}
    moved = Marks()
    for path, mark in marks.items():
        inside = len(path) >= 2 and path[0] == "stages" and path[1] in numbers
        moved[("stages", numbers[path[1]], *path[2:]) if inside else path] = mark  # type: ignore[index]
    return {**data, "stages": [{"name": name, **stage} for name, stage in stages.items()]}, moved


def _anchored(data: Any, folder: Path, key: str = "") -> Any:
    """`data` with every path in it absolute, seen from `folder`."""
    if isinstance(data, dict):
        return {k: v if k in OPAQUE else _anchored(v, folder, k if isinstance(k, str) else "") for k, v in data.items()}
    if isinstance(data, list):
        return [
            _anchored(item, folder, "" if key == "judge" else key) for item in data
        ]  # a stage's judge lists rewards
    if not isinstance(data, str) or key not in PATHS + MAYBE_PATHS:
        return data
    if "://" in data:
        return _moved(data, lambda path: os.path.normpath(os.path.join(os.path.abspath(folder), path)))
    if key == "tasks" and "=" in data:
        return _with_data(data, lambda path: str(_anchored(path, folder, key)))
    path = os.path.normpath(os.path.join(os.path.abspath(folder), os.path.expanduser(data)))
    return path if key in PATHS or os.path.exists(path) else data


def relative(data: Any, folder: Path, key: str = "") -> Any:
    """`data` with every absolute path in it relative to `folder` (where there is a way)."""
    if isinstance(data, dict):
        return {k: v if k in OPAQUE else relative(v, folder, k if isinstance(k, str) else "") for k, v in data.items()}
    if isinstance(data, list):
        return [relative(item, folder, key) for item in data]
    if isinstance(data, str) and key in PATHS and "://" in data:
        return _moved(data, lambda path: os.path.relpath(path, folder))
    if isinstance(data, str) and key == "tasks" and "=" in data:
        return _with_data(data, lambda path: str(relative(path, folder, key)))
    if not isinstance(data, str) or key not in PATHS + MAYBE_PATHS or not os.path.isabs(data):
        return data
    try:
        return os.path.relpath(data, folder)
    except ValueError:  # another drive
        return data


def _with_data(task: str, move: Callable[[str], str]) -> str:
    """NAME=FILE with both parts moved: a task that is given its data."""
    name, _, data = task.partition("=")
    return f"{move(name)}={move(data)}"


def _moved(url: str, move: Callable[[str], str]) -> str:
    """A URL of a local file or folder (sqlite:///FILE, hub://./FOLDER) with its path moved; any other URL as it is."""
    if not url.startswith(("sqlite:///", "hub:///", "hub://./")):
        return url
    prefix = "sqlite:///" if url.startswith("sqlite") else "hub://"
    path, mark, rest = re.split(r"([?#]|$)", url.removeprefix(prefix), maxsplit=1)
    path = move(path)
    near = "./" if prefix == "hub://" and not os.path.isabs(path) else ""
    return f"{prefix}{near}{path}{mark}{rest}"


def _override(
    data: dict[str, Any],
    override: str,
    marks: Marks,
    top_keys: AbstractSet[str],
    stage_keys: AbstractSet[str],
    others: Sequence[str] = (),
) -> None:
    """Set one `key=value`: a path (`evaluate.limit`, `adapt.lr`), or a stage's key where there is one stage.

    `steps` takes the place of the recipe's `epochs`, and the other way round, unless `others` gives that one too.
    """
    key, equals, text = override.partition("=")
    place = f"command line ({override})"
    if not equals or not key:
        raise UserError(f"{override!r} is not key=value, such as lr=1e-4")
    value, _ = load_yaml(text, file=place)
    keys = _full_path(data, key.split("."), place, top_keys, stage_keys)
    holder: Any = data
    path: list[Any] = []
    for part in keys[:-1]:
        part = _index(holder, part, place)
        following = holder.get(part) if isinstance(holder, dict) else holder[part]
        if isinstance(following, str) and part in ("objective", "method"):
            following = {"name": following}
        if following is None:
            following = {"name": "lora"} if part == "method" else {}  # the method of a stage that names none
        if not isinstance(following, dict | list):
            raise UserError(f"{place}: {part} is {following!r} and has no keys of its own")
        holder[part] = following
        holder, path = following, [*path, part]
    last = _index(holder, keys[-1], place)
    named = next((k for k in reversed([*path, last]) if isinstance(k, str)), "")
    opaque = any(k in OPAQUE for k in path)
    given = {other.partition("=")[0].split(".")[-1] for other in others}
    if last in ONE_OF and isinstance(holder, dict) and ONE_OF[last] not in given:
        holder.pop(ONE_OF[last], None)
    holder[last] = value if opaque else _anchored({named: value}, Path.cwd())[named]
    marks[(*path, last)] = Mark(place, place)


def _index(holder: Any, part: str, place: str) -> Any:
    """A key of a mapping, or a place in a list."""
    if isinstance(holder, dict):
        return part
    if part.isdigit() and int(part) < len(holder):
        return int(part)
    raise UserError(f"{place}: {part!r} is no place in a list of {len(holder)}")


def _full_path(
    data: dict[str, Any], keys: list[str], place: str, top_keys: AbstractSet[str], stage_keys: AbstractSet[str]
) -> list[str]:
    stages = list(data.get("stages") or {})
    if keys[0] == "stages" and len(keys) > 1 and keys[1] not in stages:
        raise UserError(f"{place}: there is no stage {keys[1]!r}{closest(keys[1], stages)}")
    if keys[0] in top_keys:
        return keys
    if keys[0] in stages and len(keys) > 1:
        return ["stages", *keys]
    if keys[0] in stage_keys and len(stages) > 1:
        raise UserError(f"{place}: which stage? write {' or '.join(f'{name}.{keys[0]}=...' for name in stages)}")
    if keys[0] in stage_keys and stages:
        return ["stages", stages[0], *keys]
    known = {*top_keys, *stages, *(stage_keys if len(stages) == 1 else ())}
    raise UserError(f"{place}: unknown key {keys[0]!r}{closest(keys[0], known)}")
