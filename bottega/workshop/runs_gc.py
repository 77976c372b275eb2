"""`bottega runs gc`: what run folders hold that their results do not need, how much that is, and, on request, its removal.

Left out: results, logs, scorecards and reports, which are never touched, and the cache of tokenised data, which is no run's own.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bottega.core import rundir
from bottega.core.errors import FolderInUse, UserError
from bottega.core.strictyaml import load_yaml
from bottega.core.textio import table
from bottega.train.pins import pinned
from bottega.workshop.runs import run_folder


def runs_gc(runs: tuple[str, ...] = (), *, root: str = "runs", remove: bool = False) -> dict[str, Any]:
    """Find, and with `remove` delete, checkpoints and caches of stages that have ended with a sound result.

    A stage without a sound result keeps everything, for it goes on from there; pinned checkpoints stay. A run that is in use, or
    that still has stages to do, loses only what its ended stages left.

    Args:
        runs: run folders; none: every one under `root`.

    Returns:
        {"removed": bool, "bytes", "found": [{"run", "path", "bytes"}], "kept": [{"run", "why"}]}.

    Raises:
        UserError: one is no run folder.
    """
    folders = [run_folder(run) for run in runs] or [p.parent for p in sorted(Path(root).glob("*/run.json"))]
    if not folders:
        raise UserError(f"there is no run folder under {root}; name one, or another --root")
    found: list[dict[str, Any]] = []
    kept: list[dict[str, str]] = []
    for folder in folders:
        try:
            with rundir.lock(folder):
                if remove:
                    rundir.sweep(folder)
                for path in _needless(folder, kept):
                    found.append({"run": str(folder), "path": str(path), "bytes": _size(path)})
                    if remove:
                        _remove(path, folder)
        except FolderInUse:
            kept.append({"run": str(folder), "why": "another process works in it"})
    return {"removed": remove, "bytes": sum(one["bytes"] for one in found), "found": found, "kept": kept}


def runs_gc_text(facts: dict[str, Any]) -> str:
    """The same for people."""
    rows = [(one["path"], f"{one['bytes'] / 1e6:.1f} MB") for one in facts["found"]]
    lines = [table(rows, ("not needed", "size"))] if rows else ["nothing to remove"]
    lines += [f"kept: {one['run']}: {one['why']}" for one in facts["kept"]]
    if rows and facts["removed"]:
        lines.append(f"removed: {facts['bytes'] / 1e6:.1f} MB")
    elif rows:
        lines.append(f"{facts['bytes'] / 1e6:.1f} MB in all; nothing was removed: add --remove")
    return "\n".join(lines)


def _needless(folder: Path, kept: list[dict[str, str]]) -> Iterator[Path]:
    from bottega.train.checkpoint import path_of, steps_in

    plan, _ = load_yaml((folder / "recipe.yaml").read_bytes(), file=str(folder / "recipe.yaml"))
    pins = {name: set(stage.get("pin") or ()) for entry in plan["stages"] for name, stage in entry.items()}
    for stage in sorted((folder / "stages").glob("*")):
        result = stage / "result"
        if not (stage / "stage.json").is_file() or not (result / rundir.MANIFEST).is_file():
            kept.append({"run": str(folder), "why": f"{stage.name} has no result yet and goes on from its checkpoints"})
            continue
        problems = rundir.verify_manifest(result)
        if problems:
            kept.append({"run": str(folder), "why": f"{stage.name}: its result is damaged ({problems[0]})"})
            continue
        spared = pinned(stage / "checkpoints") | pins.get(stage.name.partition("-")[2], set())
        for step in steps_in(stage / "checkpoints"):
            if step not in spared:
                yield path_of(stage / "checkpoints", step)
        if (stage / "cache").is_dir():
            yield stage / "cache"


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _remove(path: Path, folder: Path) -> None:
    """Renamed first, so that a kill in between leaves nothing that looks whole."""
    with rundir.disk_errors(folder):
        gone = path.with_name(f".{path.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        path.rename(gone)
        shutil.rmtree(gone)
