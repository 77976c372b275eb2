"""What the disk or the system refuses, as errors that a person can act on.

Left out: writing (rundir.py).
"""

from __future__ import annotations

import errno
import os
import re
from types import TracebackType

from bottega.core.errors import DiskFull, UserError

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}
_NO_PLACE = {errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
_TOO_MANY = {errno.EMFILE, errno.ENFILE}


class disk_errors:
    """Turn the disk's refusals (full, over quota, read-only, failing) into `DiskFull`; other errors pass.

    safetensors reports them in its own error type, with the system's number in the text; those are turned too.

    Raises:
        DiskFull: no space is left, a limit on file size is reached, the folder cannot be written, or the disk fails.
        UserError: the path cannot be a folder, or too many files are open.
        MemoryError: the system has no memory left for the call.
    """

    def __init__(self, place: str | os.PathLike[str] = "the run folder") -> None:
        self.place = place

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        number = _system_number(error)
        where = getattr(error, "filename", None) or self.place
        if number in _NO_PLACE:
            raise UserError(
                f"{where} cannot be a folder: a file is in its way, or the name is too long; choose another path"
            ) from error
        if number in _TOO_MANY:
            raise UserError(
                f"{where}: {os.strerror(number)}; raise the limit (`ulimit -n`) or stop other programs; "
                "what was saved before is sound, and the same command goes on from it"
            ) from error
        if number == errno.ENOMEM:
            raise MemoryError from error
        if number in _FULL:
            remedy = "free some space or choose another folder; what was saved before is sound"
        elif number in _CLOSED:
            remedy = "choose a folder that you can write"
        elif number == errno.EIO:
            remedy = "the disk fails: look at the system's log, and go on in a copy of the folder on another disk"
        else:
            return
        raise DiskFull(f"{where}: {os.strerror(number)}; {remedy}") from error


def _system_number(error: BaseException | None) -> int:
    """The errno behind an error; 0 where there is none."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"\(os error (\d+)\)", str(error)) if error is not None else None
    return int(found[1]) if found and type(error).__name__ == "SafetensorError" else 0
