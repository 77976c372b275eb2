"""Other tools' training configurations as recipes, with the list of every key that was not carried over.

Left out: data sets themselves; what a file names is used where it lies, or given beside it (`bottega init DATA --from FILE`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from bottega.core.config import dump_yaml, load_yaml
from bottega.core.errors import UserError
from bottega.workshop.importers.keys import Keys, Lost, without_none

IMPORTERS: dict[str, tuple[tuple[str, ...], str]] = {
    "LLaMA-Factory": (("model_name_or_path", "finetuning_type"), "bottega.workshop.importers.llamafactory:convert"),
    "Axolotl": (("base_model", "datasets"), "bottega.workshop.importers.axolotl:convert"),
    "LLM Foundry": (("max_duration", "train_loader"), "bottega.workshop.importers.llmfoundry:convert"),
    "InstructLab": (("train", "generate", "serve"), "bottega.workshop.importers.instructlab:convert"),
}
"""Tool -> keys that its files have at the top, and the function (keys, folder) -> recipe."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """A recipe as plain data; `lost`: every key that was not carried over; `notes`: what means something else here."""

    tool: str
    recipe: dict[str, Any]
    lost: tuple[Lost, ...]
    notes: tuple[str, ...]
    carried: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As `bottega init --from --json` prints it."""
        return {
            "tool": self.tool,
            "carried": list(self.carried),
            "not_carried": [{"key": lost.key, "value": lost.value, "why": lost.why} for lost in self.lost],
            "notes": list(self.notes),
        }


def read(file: str | os.PathLike[str], *, data: str | None = None, model: str | None = None) -> Imported:
    """Read another tool's configuration.

    Args:
        data: a file or folder that stands for the data it names. model: stands for its model.

    Raises:
        UserError: it is not there, belongs to no tool that is known, has a part without counterpart that a run needs, or names
            no data that could be found.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"there is no file {path} to import")
    raw, _ = load_yaml(path.read_bytes(), file=str(path))
    if not isinstance(raw, Mapping):
        raise UserError(f"{path} holds no mapping, so it is no tool's configuration")
    tool = _tool(raw, path)
    module, _, name = IMPORTERS[tool][1].partition(":")
    convert: Callable[[Keys, Path], dict[str, Any]] = getattr(import_module(module), name)
    keys = Keys(raw, str(path))
    made = convert(keys, path.parent.absolute())
    if model is not None:
        made["model"] = model
    if not made.get("model"):
        raise UserError(f"{path} names no model; give one: bottega init --from {path} --model MODEL")
    _with_data(made, data, path, keys)
    lost = tuple(keys.left())
    gone = {one.key for one in lost}
    return Imported(
        tool=tool,
        recipe=_tidy(made),
        lost=lost,
        notes=tuple(keys.notes),
        carried=tuple(key for key in keys.values if key not in gone),
    )


def render(imported: Imported, file: str, recipe: Mapping[str, Any] | None = None) -> str:
    """The recipe's text (of `recipe`, where its paths were rewritten); what was not carried over stands in its head."""
    head = [f"# Made from {file} ({imported.tool}) by `bottega init --from`."]
    head += [f"# Note: {note}" for note in imported.notes]
    if imported.lost:
        head.append("# Not carried over:")
        head += [f"#   {lost.key}: {_short(lost.value)}  ({lost.why})" for lost in imported.lost]
    return "\n".join([*head, dump_yaml(recipe or imported.recipe)])


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _tool(raw: Mapping[str, Any], path: Path) -> str:
    for tool, (wanted, _) in IMPORTERS.items():
        if all(key in raw for key in wanted):
            return tool
    known = "; ".join(f"{tool} ({', '.join(wanted)})" for tool, (wanted, _) in IMPORTERS.items())
    raise UserError(f"{path} is of no tool that is known by its keys: {known}")


def _with_data(made: dict[str, Any], data: str | None, path: Path, keys: Keys) -> None:
    """Every stage has data: what was given, or what the file names."""
    gone = ", ".join(keys.missing)
    for entry in made["stages"]:
        for name, stage in entry.items():
            if data is not None:
                stage["data"] = data
            elif not stage["data"]:
                what = f" ({gone})" if gone else ""
                raise UserError(
                    f"{path}: the data of {name} is not here{what}; give it: bottega init DATA --from {path}"
                )
            if isinstance(stage.get("validation"), list) and data is not None:
                stage["validation"] = 0.1
                keys.notes.append(
                    f"{name}: a tenth of the data given is kept out, in place of the file's validation data"
                )
    if gone and data is None:
        keys.notes.append(f"data sets that are not here were left out: {gone}")


def _tidy(made: dict[str, Any]) -> dict[str, Any]:
    """Without what is null, and names fit for a folder."""
    made = {
        **made,
        "name": "".join(c if c.isalnum() or c in "-_." else "-" for c in made["name"]).lstrip(".") or "imported",
    }
    if not made.get("track"):
        made.pop("track", None)
    stages = [{name: _stage(stage) for name, stage in entry.items()} for entry in made.pop("stages")]
    return {"schema": 1, **without_none(made), "stages": stages}


def _stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    tidy = without_none(dict(stage))
    for key in ("data", "validation"):
        if isinstance(tidy.get(key), list):
            tidy[key] = [without_none(part) for part in tidy[key]]
    return tidy


def relative(recipe: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The recipe with the paths of its data seen from `folder`."""

    def seen(value: Any) -> Any:
        if isinstance(value, str) and os.path.isabs(value):
            return os.path.relpath(value, folder)
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [seen(item) for item in value]
        if isinstance(value, Mapping):
            local = "path" in value and "://" not in value["path"]
            return {**value, "path": os.path.relpath(value["path"], folder)} if local else dict(value)
        return value

    stages = []
    for entry in recipe["stages"]:
        stages.append(
            {
                name: {key: seen(value) if key in ("data", "validation") else value for key, value in stage.items()}
                for name, stage in entry.items()
            }
        )
    return {**recipe, "stages": stages}
