"""What a run was made of, so that going on with other inputs is noticed: data, recipe, base, tokenizer, template.

Left out: running (stages.py).

The record (run.json) holds, for every stage that has begun, its recipe with each file's content hash in place of its
path (a file that moved has not changed), and the identities of the base, the tokenizer and the template.
"""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from bottega.core import rundir, table
from bottega.core.config import plain
from bottega.core.errors import Mismatch
from bottega.data.remote import fingerprint as remote_fingerprint
from bottega.data.remote import is_remote, masked
from bottega.data.sources import find
from bottega.models.methods import METHODS
from bottega.train.objectives import OBJECTIVES
from bottega.workshop import cleaning, recipe_online
from bottega.workshop.recipe import LOOP, Part, Recipe, Stage, on_device, without_none

FREE = ("keep", "save_every", "samples", "allow_loss", "self_check", "parallel")
"""Keys of a stage that change nothing of what is trained; `eval_every` does where a run may stop early."""
IDENTITIES = ("base", "tokenizer", "template")
"""What is known of a stage only when its model is loaded."""
SETTLED = ("micro_tokens", "precision")
"""Settings whose word `usual` is written down as what it was on the device that the stage began on."""
MAX_SHOWN = 12


def fingerprint(part: Part) -> dict[str, Any]:
    """The files of a source with size and sha256, and one hash over them all, names relative to the source."""
    import hashlib

    root, whole = Path(part.path), hashlib.sha256()
    files: list[dict[str, Any]] = []
    if is_remote(part.path):
        read = [(masked(name), size, content) for name, size, content in remote_fingerprint(part.source)]
        files += [{"name": name, "bytes": size, "sha256": content} for name, size, content in read]
    else:
        for path in find([root]):
            name = path.relative_to(root).as_posix() if root.is_dir() else path.name
            files.append({"name": name, "bytes": path.stat().st_size, "sha256": rundir.sha256(path)})
    for file in files:
        whole.update(f"{file['sha256']}\0".encode())
    options = without_none(
        {
            "weight": part.weight,
            "epochs": part.epochs,
            "query": part.query,
            "format": part.format,
            "columns": part.columns,
            "clean": cleaning.record(part.clean),
        }
    )
    return {"sha256": whole.hexdigest(), "files": files, **options}


def stage_record(stage: Stage, seed: int) -> dict[str, Any]:
    """What can be known of a stage before a model is loaded."""
    fields = plain(stage)
    loop = fields.pop("loop")
    free = FREE if stage.early_stop else (*FREE, "eval_every")
    kept = {
        key: value for key, value in {**fields, **loop}.items() if key not in (*free, "data", "validation", "template")
    }
    validation = stage.validation
    data = {"data": [fingerprint(part) for part in stage.data]}
    if validation is not None:
        held_out = [fingerprint(part) for part in validation.data]
        data["validation"] = held_out if validation.share is None else [{"share": validation.share}]
    told = recipe_online.record(kept)
    return without_none({**kept, "clean": cleaning.record(stage.clean), "seed": seed, **data, **told})


def differences(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """(key, old, new) for every value that differs; keys are paths such as `method.rank`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for name in [*old, *(name for name in new if name not in old)]:
            found += differences(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
        return found
    same_length = isinstance(old, list) and isinstance(new, list) and len(old) == len(new)
    if same_length and any(isinstance(item, Mapping) for item in old):
        return [one for i, (a, b) in enumerate(zip(old, new)) for one in differences(a, b, f"{key}.{i}")]
    return [] if old == new else [(key, old, new)]


def is_default(stage: Mapping[str, Any], key: str, value: Any) -> bool:
    """Whether `key` of a stage's record holds its default: a setting that came with a later version changes nothing."""
    head, _, name = key.rpartition(".")
    if not head:
        return key in LOOP and LOOP[key] == value
    if head not in ("objective.options", "method.options"):
        return False
    kind = head.partition(".")[0]
    chosen = stage[kind]["name"]
    known = table.options(OBJECTIVES[chosen].function if kind == "objective" else METHODS[chosen])
    return name in known and plain(known[name].default) == value


class Record:
    """run.json of one run folder."""

    def __init__(self, folder: Path, recipe: Recipe, allow_change: Iterable[str] = ()) -> None:
        self.path = folder / "run.json"
        self.allowed = tuple(allow_change)
        first = {"schema": 1, "name": recipe.name, "model": recipe.model, "seed": recipe.seed}
        self.data: dict[str, Any] = {**first, "stages": {}, "changes": []}
        if self.path.is_file():
            self.data = rundir.read_json(self.path)

    def settled(self, recipe: Recipe, device: str | None, *, half: bool = True) -> Recipe:
        """The recipe with every `micro_tokens` and `precision` of `usual` as what it was when the stage began, else what suits the
        device.

        Args:
            device: its kind (cpu, cuda); None leaves the word. half: whether it computes in bfloat16.
        """
        stages = []
        for stage in recipe.stages:
            begun = self.data["stages"].get(stage.name, {})
            known = {key: begun[key] for key in SETTLED if key in begun and stage.loop[key] == "usual"}
            stage = dataclasses.replace(stage, loop={**stage.loop, **known})
            stages.append(stage if device is None else on_device(stage, device, half=half))
        return dataclasses.replace(recipe, stages=tuple(stages))

    def check_order(self, names: Sequence[str], made: AbstractSet[str]) -> None:
        """The stages that have made something are the recipe's first ones, in order; others are forgotten.

        Args:
            names: the recipe's stages. made: those of them that have a checkpoint or a result.

        Raises:
            Mismatch: they are not.
        """
        stages = self.data["stages"]
        self.data["stages"] = {name: stages[name] for name in stages if name in made or name not in names}
        begun = list(self.data["stages"])
        if begun != list(names[: len(begun)]):
            self._settle("stages", [("stages", begun, list(names))])
            self.data["stages"] = {name: self.data["stages"][name] for name in names if name in self.data["stages"]}

    def compare(self, stage: str, new: Mapping[str, Any]) -> None:
        """Compare what is known of a stage now with what was recorded when it began.

        Raises:
            Mismatch: something differs that no --allow-change names.
        """
        old = self.data["stages"].get(stage)
        if old is not None:
            identities = [key for key in IDENTITIES if key not in new]
            found = differences({k: v for k, v in old.items() if k not in identities}, dict(new))
            self._settle(stage, [one for one in found if not (one[1] is None and is_default(new, one[0], one[2]))])

    def check(self, stage: str, new: Mapping[str, Any]) -> None:
        """`compare`, then record it.

        Raises:
            Mismatch: see `compare`.
        """
        self.compare(stage, new)
        self.data["stages"][stage] = {**self.data["stages"].get(stage, {}), **new}
        rundir.write_json(self.path, self.data)

    def _settle(self, stage: str, found: Sequence[tuple[str, Any, Any]]) -> None:
        refused = []
        for key, old, new in found:
            full = key if key == stage else f"{stage}.{key}"
            if any(_covers(allowed, full) for allowed in self.allowed):
                self.data["changes"].append({"key": full, "from": old, "to": new})
            elif not key.endswith((".bytes", ".name")):
                refused.append((full, old, new))
        if refused:
            lines = [f"{key}: {_brief(old)} -> {_brief(new)}" for key, old, new in refused[:MAX_SHOWN]]
            more = f" (and {len(refused) - MAX_SHOWN} more)" if len(refused) > MAX_SHOWN else ""
            first = _top(refused[0][0])
            raise Mismatch(
                f"{self.path.parent} was made of other inputs: {'; '.join(lines)}{more}; put them back, choose another "
                f"--out, or go on with --allow-change {first}"
            )


def _top(key: str) -> str:
    """`adapt.data.0.files.0.sha256` -> `adapt.data`."""
    return ".".join(key.split(".")[:2])


def _covers(allowed: str, key: str) -> bool:
    """Does --allow-change ALLOWED speak of `key`? `adapt`, `adapt.data` and `data` all cover `adapt.data.0.sha256`."""
    parts, wanted = key.split("."), allowed.split(".")
    return parts[: len(wanted)] == wanted or parts[1 : 1 + len(wanted)] == wanted


def _brief(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:16]}..."


def git_commit() -> dict[str, Any]:
    """The commit this code runs from and whether files differ from it; nulls where it is an installed package."""
    folder = Path(__file__).parent
    found = [_git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--", str(folder.parent))]
    return {"commit": found[0] or None, "changed": bool(found[1]) if found[0] else None}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
