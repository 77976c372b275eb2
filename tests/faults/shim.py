"""Faults at the n-th write in this process: every call that changes a file under one folder is counted, and one of them goes wrong.

`install` puts wrappers around the standard library's calls (open for writing, write, fsync, rename, unlink, mkdir, rmdir, truncate) and
around safetensors' writer; it is called in a forked child of a test alone, which ends afterwards. Nothing of bottega is touched. Left
out: what other libraries write below Python (tokenizers' one file), which the calls around it stand for.

Kinds: kill (before the call), torn (half of the call, then kill), EIO | ENOSPC | EMFILE | MemoryError (half of a write, then the error;
once), full (ENOSPC from here on), delay.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

KINDS = ("kill", "torn", "EIO", "ENOSPC", "EMFILE", "MemoryError", "full", "delay")
GROWS = ("open", "write", "mkdir", "safetensors", "fsync")
"""What a full disk refuses; it lets things be renamed and removed."""


@dataclass
class Faults:
    """What goes wrong, and where: `at` is the number of the call, from 1 on; 0 only counts. log: a file of a line per call."""

    under: str
    at: int = 0
    kind: str = "kill"
    log: int = -1
    seen: int = 0
    names: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def watches(self, place: Any, dir_fd: int | None = None) -> str | None:
        """The full path of what a call is about to change, if it lies under the folder."""
        if isinstance(place, int):
            path = self._of_handle(place)
        else:
            path = os.fsdecode(place)
            if dir_fd is not None:
                path = os.path.join(self._of_handle(dir_fd), path)
        path = os.path.abspath(path)
        return path if path.startswith(self.under) else None

    @staticmethod
    def _of_handle(handle: int) -> str:
        try:
            return os.readlink(f"/proc/self/fd/{handle}")
        except OSError:
            return ""

    def point(self, what: str, path: str | None, act: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Do `act`, or what the fault makes of it."""
        if path is None:
            return act()
        self.seen += 1
        if self.log >= 0:
            self.names["write"](self.log, (json.dumps([what, path]) + "\n").encode())
        late = self.kind == "full" and 0 < self.at < self.seen and what in GROWS
        if self.seen != self.at and not late:
            return act()
        if self.kind == "delay":
            time.sleep(0.1)
            return act()
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "torn":
            (half or act)()
            os.kill(os.getpid(), signal.SIGKILL)
        if half is not None:
            half()
        if self.kind == "MemoryError":
            raise MemoryError
        number = errno.ENOSPC if self.kind == "full" else getattr(errno, self.kind)
        if what == "safetensors":
            from safetensors import SafetensorError

            raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")
        raise OSError(number, os.strerror(number), path)


def install(faults: Faults) -> None:
    """Put the wrappers in place, for the rest of this process' life."""
    keep = faults.names
    for name in ("write", "pwrite", "fsync", "open", "replace", "rename", "unlink", "mkdir", "rmdir", "ftruncate"):
        keep[name] = getattr(os, name)
    keep["builtin"] = builtins.open

    def handle_call(name: str) -> Callable[..., Any]:
        def call(handle: int, *rest: Any) -> Any:
            def half() -> Any:
                return keep[name](handle, bytes(rest[0])[: len(rest[0]) // 2], *rest[1:])

            torn = half if name in ("write", "pwrite") else None
            what = "write" if name == "pwrite" else name
            return faults.point(what, faults.watches(handle), lambda: keep[name](handle, *rest), torn)

        return call

    def path_call(name: str) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **options: Any) -> Any:
            where = faults.watches(path, options.get("dir_fd", options.get("src_dir_fd")))
            if name == "mkdir" and os.path.isdir(path):
                where = None  # changes nothing
            return faults.point(name, where, lambda: keep[name](path, *rest, **options))

        return call

    def os_open(path: Any, flags: int, *rest: Any, **options: Any) -> Any:
        where = faults.watches(path, options.get("dir_fd"))
        return faults.point("open", where, lambda: keep["open"](path, flags, *rest, **options))

    for name in ("write", "pwrite", "fsync", "ftruncate"):
        setattr(os, name, handle_call(name))
    for name in ("replace", "rename", "unlink", "mkdir", "rmdir"):
        setattr(os, name, path_call(name))
    os.open = os_open
    os.remove = os.unlink
    builtins.open = io.open = _opening(faults)
    _wrap_safetensors(faults)


def _opening(faults: Faults) -> Callable[..., Any]:
    """`open` as the standard library describes it, over a raw file whose calls are counted."""

    class Raw(io.FileIO):
        def __init__(self, path: Any, mode: str) -> None:
            self.path = faults.watches(path)
            faults.point("open", self.path, lambda: io.FileIO.__init__(self, path, mode))

        def write(self, data: Any) -> Any:
            raw = bytes(data)
            whole = super().write
            return faults.point("write", self.path, lambda: whole(raw), lambda: whole(raw[: len(raw) // 2]))

        def truncate(self, size: int | None = None) -> int:
            whole = super().truncate
            return faults.point("ftruncate", self.path, lambda: whole(size))

    def opened(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **options: Any) -> Any:
        inside = not isinstance(file, int) and not options.get("opener") and len(rest) < 5
        if not inside or not set(mode) & set("wax+") or faults.watches(file) is None:
            return faults.names["builtin"](file, mode, buffering, *rest, **options)
        raw = Raw(file, mode.replace("t", "").replace("b", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        names = dict(zip(("encoding", "errors", "newline"), rest)) | options
        names.pop("closefd", None)
        text = io.TextIOWrapper(buffered, **names, line_buffering=buffering == 1)
        text.mode = mode  # type: ignore[misc]
        return text

    return opened


def _wrap_safetensors(faults: Faults) -> None:
    """Its writer is one call from here; half of it is a file cut short."""
    import safetensors.numpy
    import safetensors.torch

    for module in (safetensors.torch, safetensors.numpy):
        whole = module.serialize_file

        def call(tensors: Any, filename: Any, *rest: Any, whole: Any = whole, **options: Any) -> Any:
            def half() -> None:
                whole(tensors, filename, *rest, **options)
                os.truncate(filename, os.path.getsize(filename) // 2)

            act = lambda: whole(tensors, filename, *rest, **options)  # noqa: E731
            return faults.point("safetensors", faults.watches(filename), act, half)

        module.serialize_file = call
