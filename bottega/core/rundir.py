"""Files that survive: atomic writes, manifests with sha256, publishing a folder whole, one process a folder.

Left out: what lies in a run folder (workshop/stages.py) and in a checkpoint (train/checkpoint.py).

Everything that must not be half there is written beside its place, synced and renamed. A crash leaves the old file,
or the new one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from bottega.core.errors import FolderInUse, Unsafe
from bottega.core.refusals import disk_errors as disk_errors

MANIFEST = "MANIFEST.json"
LOCK = ".lock"
CACHE = "BOTTEGA_CACHE"
"""The environment variable that names the folder of caches."""
_LEFT = re.compile(r"\.(?P<name>.+?)\.((?P<pid>\d+)\.)?(?P<kind>tmp|old|draft|gone)")
_NO_FLOCK = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


def atomic_write(path: str | os.PathLike[str], content: bytes | str, *, mode: int | None = None) -> None:
    """Write a file so that at any moment its old or its new content is there, whole. `mode`: permission bits.

    Raises:
        DiskFull: see `disk_errors`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode() if isinstance(content, str) else content
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                if mode is not None:
                    os.chmod(temporary, mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:  # an interrupt and a lack of memory leave nothing half there either
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def put(draft: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Sync the file `draft` and rename it to `path`, which holds its old or its new content at any moment."""
    with open(draft, "rb") as file:
        os.fsync(file.fileno())
    os.replace(draft, path)
    sync_folder(Path(path).parent)


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write `obj` as JSON, atomically. Not-a-number and infinity are our bug (ValueError): JSON cannot hold them."""
    atomic_write(path, json.dumps(obj, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file that we wrote.

    Raises:
        Unsafe: it is not JSON any more. FileNotFoundError: it is not there.
    """
    raw = Path(path).read_bytes()
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise Unsafe(
            f"{path} is damaged (not JSON, {len(raw)} bytes); restore it, or remove its folder and run again"
        ) from None


def user_cache(name: str) -> Path:
    """The folder `name` of this user's cache: below $BOTTEGA_CACHE, else bottega/ in the usual cache folder."""
    if root := os.environ.get(CACHE):
        return Path(root) / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bottega" / name


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make renames in `folder` durable (where the system can sync a folder)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    """Every file under `folder` but its manifest, in a fixed order."""
    return sorted(
        (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink() and p != folder / MANIFEST),
        key=lambda p: p.relative_to(folder).as_posix(),
    )


def write_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Write MANIFEST.json: size and sha256 of every file under `folder`."""
    folder = Path(folder)
    files = {p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in _files(folder)}
    manifest = {"schema": 1, "files": files}
    write_json(folder / MANIFEST, manifest)
    return manifest


def verify_manifest(folder: str | os.PathLike[str]) -> list[str]:
    """What in `folder` is not as its manifest says; each line names the file and both sha256. Empty: all is sound."""
    folder = Path(folder)
    try:
        listed = read_json(folder / MANIFEST)["files"].items()
    except FileNotFoundError:
        return [f"{folder}: there is no {MANIFEST}, so it was never finished"]
    except (Unsafe, KeyError, TypeError, AttributeError):
        return [f"{folder / MANIFEST} is damaged"]
    problems = []
    for name, entry in listed:
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            problems.append(f"{folder / MANIFEST}: {name!r} lies outside the folder")
        elif not path.is_file():
            problems.append(f"{path} is missing (sha256 {entry['sha256']} expected)")
        elif (found := sha256(path)) != entry["sha256"]:
            size = path.stat().st_size
            problems.append(
                f"{path} has changed: sha256 {found} ({size} bytes), "
                f"expected {entry['sha256']} ({entry['bytes']} bytes)"
            )
    return problems


def publish(temporary: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    """Sync everything in `temporary` and rename it to `folder`: it appears whole or not at all.

    A `folder` that is there already is replaced (moved aside, then removed).
    """
    temporary, folder = Path(temporary), Path(folder)
    with disk_errors(folder):
        for path in [p for p in temporary.rglob("*") if p.is_file() and not p.is_symlink()]:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        for path in [*(p for p in temporary.rglob("*") if p.is_dir()), temporary]:
            sync_folder(path)
        aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        if folder.exists():
            os.rename(folder, aside)
        try:
            os.rename(temporary, folder)
        except OSError:
            if aside.exists():
                os.rename(aside, folder)
            raise
        sync_folder(folder.parent)
        shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: str | os.PathLike[str]) -> None:
    """Remove what killed processes left half done under `folder`, which the caller holds alone (`lock`).

    A folder that was moved aside for a successor that never came is put back.
    """
    for path in sorted(Path(folder).rglob(".*")):
        found = _LEFT.fullmatch(path.name)
        if found is None or not path.exists():
            continue
        pid = int(found["pid"] or os.getpid())  # whoever had this process' number is dead
        if pid != os.getpid() and _alive({"host": socket.gethostname(), "pid": pid}):
            continue
        with disk_errors(path):
            if found["kind"] == "old" and not path.with_name(found["name"]).exists():
                path.rename(path.with_name(found["name"]))
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


@contextmanager
def lock(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold `folder` alone. The lock dies with its process, so that a dead holder's folder is taken over.

    Raises:
        FolderInUse: a live process holds it; its id, machine and start are named.
        DiskFull: the folder cannot be written.
    """
    folder = Path(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _try_lock(handle):
            raise FolderInUse(f"{folder} is in use by {_holder(handle)}; wait until it ends, or stop it")
        info = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        with disk_errors(folder):
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(info).encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    """Take the lock without waiting. Where there is no flock, a recorded process that lives is a holder."""
    try:
        import fcntl
    except ImportError:
        return not _alive(_info(handle))
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        return not _alive(_info(handle))


def _info(handle: int) -> dict[str, Any]:
    os.lseek(handle, 0, os.SEEK_SET)
    try:
        info = json.loads(os.read(handle, 4096) or b"{}")
    except ValueError:
        return {}
    return info if isinstance(info, dict) else {}


def _alive(info: Mapping[str, Any]) -> bool:
    if not info or info.get("host") != socket.gethostname():
        return bool(info)
    try:
        os.kill(int(info["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _holder(handle: int) -> str:
    info = _info(handle)
    if not info:
        return "another process"
    left = "" if _alive(info) else ", which has ended but left a child that still holds the folder"
    return f"process {info.get('pid')} on {info.get('host')} since {info.get('since')}{left}"


class JsonLines:
    """An open file to which one JSON object a line is appended. Numbers that JSON cannot hold become null."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with disk_errors(path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _drop_torn_line(self.path)
            self._file: IO[str] = open(self.path, "a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one line and hand it to the system (it survives the process, not the machine)."""
        with disk_errors(self.path):
            self._file.write(json.dumps(_finite(record), ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Make what was written survive the machine too."""
        with disk_errors(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        with disk_errors(self.path):
            self._file.close()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def append_jsonl(path: str | os.PathLike[str]) -> JsonLines:
    """Open `path` to append JSON lines; a last line that a crash cut short is removed first."""
    return JsonLines(path)


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a JSON-lines file that we wrote; a last line that a crash cut short is left out."""
    lines = Path(path).read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1] if line]


def trim_jsonl(path: str | os.PathLike[str], keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite a JSON-lines file with the records that `keep` (after a resume: those up to the step resumed at)."""
    if Path(path).exists():
        kept = [record for record in read_jsonl(path) if keep(record)]
        atomic_write(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))


def _drop_torn_line(path: Path) -> None:
    if not path.exists() or not path.stat().st_size:
        return
    with open(path, "r+b") as file:
        content = file.read()
        if not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def free_bytes(folder: str | os.PathLike[str]) -> int:
    """Space left on the disk that holds `folder` (or its nearest existing parent)."""
    path = Path(folder).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def peak_memory_bytes() -> int | None:
    """The most memory this process has held; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def environment() -> dict[str, Any]:
    """What a run's numbers depend on: Python, platform, versions of the packages that compute, thread settings."""
    import platform
    from importlib import metadata

    versions = {}
    for name in ("bottega", "torch", "transformers", "tokenizers", "peft", "safetensors", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed as a package"
    threads = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ}
    return {
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "packages": versions,
        "threads": threads,
    }
