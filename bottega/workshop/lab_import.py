"""`bottega lab import`: an InstructLab home (configuration, taxonomy, data sets) as a folder of ours, and a list of what stays behind.

Left out: its models and logs, which are named and left where they lie; links are not followed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bottega.core import rundir
from bottega.core.config import dump_yaml, load_yaml
from bottega.core.errors import UserError
from bottega.core.textio import printable

BASES = ("", ".config/instructlab", ".local/share/instructlab", ".cache/instructlab")
"""Where such a home keeps its parts, below the folder that is named (a user's home, or one of these)."""
LEAF = ("qna.yaml", "qna.yml", "attribution.txt")
KNOWN = {
    "models": "weights of models: name one as `model:` of a recipe where it lies",
    "checkpoints": "trained weights: name one as `model:`, or as `start:`, where it lies",
    "phased": "a journal of that program's training; a run here keeps its own",
    "chatlogs": "conversations, which nothing here reads",
    "internal": "that program's own files",
    "generated": "that program's log of synthetic data; the rows themselves are in datasets",
    "train_configuration": "profiles for machines: see `bottega plan`",
    "system_profiles": "profiles for machines: see `bottega plan`",
    "profile.yaml": "a profile for a machine: see `bottega plan`",
}


def import_home(
    home: str | os.PathLike[str], *, out: str | os.PathLike[str], model: str | None = None
) -> dict[str, Any]:
    """Copy leaves and data sets, write recipe.yaml from the configuration, and IMPORT.md with all that was not carried over.

    Args:
        home: a folder with config.yaml, taxonomy or datasets, or a user's home that holds them where InstructLab puts them.
        out: a folder that is empty or not there. model: in place of the one that the configuration names.

    Returns: {"out", "leaves", "leaf_errors", "datasets", "recipe", "not_carried", "notes"}.

    Raises:
        UserError: it holds none of the three, or `out` holds something.
    """
    root, folder = Path(home), Path(out)
    bases = [path for path in (root / base for base in BASES) if path.is_dir()]
    found = {name: next((base / name for base in bases if (base / name).exists()), None) for name in PARTS}
    if not any(found.values()):
        raise UserError(f"{root} holds no config.yaml, taxonomy or datasets; name the folder of an InstructLab home")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there and not empty; name a new folder")
    config = _config(found["config.yaml"])
    left: list[dict[str, str]] = []
    result: dict[str, Any] = {
        "out": str(folder),
        "leaves": 0,
        "leaf_errors": 0,
        "datasets": [],
        "recipe": None,
        "notes": [],
    }
    with rundir.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if found["taxonomy"] is not None:
            result |= _leaves(found["taxonomy"], folder / "taxonomy", left)
        if found["datasets"] is not None:
            result["datasets"] = _datasets(found["datasets"], folder / "datasets", left)
        if config is not None:
            result |= _recipe(config, folder, bool(result["datasets"]), model, left)
        for base in bases:
            left += [
                {"what": str(path.relative_to(root)), "why": KNOWN.get(path.name, "not known to be InstructLab's")}
                for path in sorted(base.iterdir())
                if path.name not in PARTS and not path.name.startswith(".")
            ]
        result["not_carried"] = left
        rundir.atomic_write(folder / "IMPORT.md", _page(root, result))
    return result


PARTS = ("config.yaml", "taxonomy", "datasets")


def import_home_text(result: Mapping[str, Any]) -> str:
    """What came over, what did not, and what to do next."""
    rows = sum(one["rows"] for one in result["datasets"])
    lines = [
        f"{result['leaves']} leaves ({result['leaf_errors']} errors), {len(result['datasets'])} data sets of {rows:,} rows, "
        f"{'a recipe' if result['recipe'] else 'no recipe'} in {result['out']}",
        *(f"note  {note}" for note in result["notes"]),
        f"{len(result['not_carried'])} things were not carried over: {result['out']}/IMPORT.md",
    ]
    if result["leaf_errors"]:
        lines.append(f"next  bottega taxonomy check {result['out']}/taxonomy")
    if result["recipe"]:
        lines.append(f"next  bottega plan {result['recipe']}")
    return "\n".join(lines)


def _files(root: Path, left: list[dict[str, str]]) -> Iterator[Path]:
    """Files below `root` in order; links and hidden folders are left out, links by name."""
    for place, folders, names in os.walk(root):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        for name in [*folders, *sorted(names)]:
            path = Path(place, name)
            if path.is_symlink():
                left.append(
                    {"what": str(Path(root.name) / path.relative_to(root)), "why": "a link, which is not followed"}
                )
            elif path.is_file():
                yield path
        folders[:] = [one for one in folders if not Path(place, one).is_symlink()]


def _leaves(source: Path, target: Path, left: list[dict[str, str]]) -> dict[str, int]:
    from bottega.synth.taxonomy import examine_all

    if (source / ".git").exists():
        left.append({"what": "taxonomy/.git", "why": "its history: contribute from the checkout where it lies"})
    for path in _files(source, left):
        if path.name not in LEAF:
            left.append({"what": f"taxonomy/{path.relative_to(source)}", "why": "no leaf and no attribution"})
            continue
        to = target / path.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
    examined = list(examine_all(target)) if target.is_dir() else []
    return {
        "leaves": sum(one.is_leaf for one in examined),
        "leaf_errors": sum(len(one.of("error")) for one in examined),
    }


def _datasets(source: Path, target: Path, left: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Each file of rows copied, with how many a run can use."""
    from bottega.data import report

    found = []
    for path in _files(source, left):
        name = str(path.relative_to(source))
        if path.suffix != ".jsonl":
            left.append({"what": f"datasets/{name}", "why": "no rows: a recipe of that program, or its log"})
            continue
        to = target / name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
        try:
            seen = report.check([str(to)])["files"][0]
            found.append({"file": name, "rows": seen["rows"], "format": seen["format"], "unusable": seen["bad"]})
        except UserError as error:
            found.append({"file": name, "rows": 0, "format": None, "unusable": 0})
            left.append({"what": f"datasets/{name}", "why": str(error).replace(str(target), "datasets")})
    return found


def _config(path: Path | None) -> dict[str, Any] | None:
    """What the configuration says; read before anything is written.

    Raises:
        UserError: it is no YAML, or no mapping.
    """
    if path is None:
        return None
    raw, _ = load_yaml(path.read_bytes(), file=str(path))
    if not isinstance(raw, dict):
        raise UserError(
            f"{path} holds no mapping, so it is no configuration; mend it, or take it away to import the rest"
        )
    return raw


def _recipe(
    config: dict[str, Any], folder: Path, data: bool, model: str | None, left: list[dict[str, str]]
) -> dict[str, Any]:
    """recipe.yaml from the configuration, its data sets those that were copied; why there is none goes to `left`."""
    from bottega.workshop import importers

    train = config.get("train")
    if not isinstance(train, dict) or not data:
        why = (
            "there are no data sets, so that a recipe would have nothing to read"
            if train
            else "it has no section train"
        )
        left.append({"what": "config.yaml", "why": why})
        return {}
    named, copy = train.get("data_path"), folder / "config.yaml"
    rundir.atomic_write(copy, dump_yaml({**config, "train": {**train, "data_path": "datasets"}}))
    try:
        try:
            made = importers.read(copy, model=model)
        except UserError:  # the phases' own files are not there by their names
            made = importers.read(copy, data=str(folder.absolute() / "datasets"), model=model)
    except UserError as error:
        left.append({"what": "config.yaml", "why": str(error).replace(str(copy), "config.yaml")})
        return {}
    shown = importers.relative(made.recipe, folder.absolute())
    rundir.atomic_write(folder / "recipe.yaml", importers.render(made, "config.yaml", shown))
    left += [{"what": f"config.yaml: {one.key}", "why": one.why} for one in made.lost]
    notes = [*made.notes, f"train.data_path was {printable(named)}; the recipe reads the data sets copied here"]
    return {"recipe": str(folder / "recipe.yaml"), "notes": notes}


def _page(root: Path, result: Mapping[str, Any]) -> str:
    lines = [
        f"# Imported from {root.name}",
        "",
        f"{result['leaves']} leaves, {result['leaf_errors']} errors in them.",
        "",
    ]
    lines += [
        f"- datasets/{one['file']}: {one['rows']:,} rows, {one['unusable']} of no use" for one in result["datasets"]
    ]
    lines += ["", *(f"- note: {note}" for note in result["notes"]), "", "## Not carried over", ""]
    lines += [f"- {printable(one['what'])}: {printable(one['why'])}" for one in result["not_carried"]]
    return "\n".join(lines) + "\n"
