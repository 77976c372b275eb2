"""Tensors of safetensors files, read one by one and by name into memory that the caller owns.

Left out: mapping the files. A mapped file that is cut short kills the process (SIGBUS) where a read says so, and the
mapping of safetensors' own reader is private and writable, so that the system charges it in full to RLIMIT_DATA.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bottega.core.errors import Unsafe, UserError
from bottega.models import safety

ALIGN = 64
"""Bytes. Products of matrices at other alignments may round otherwise (MKL, float32, a few rows), so a tensor is put where it
would lie in memory if its file were mapped, as transformers maps it."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Entry(NamedTuple):
    """Where a tensor lies: the number of its file, its dtype and shape, its first byte and how many there are."""

    file: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    num_bytes: int


class TensorFiles:
    """The tensors of some safetensors files by name; each file stays open, none is held in memory.

    Raises:
        Unsafe: a header is damaged or forged. UserError: a dtype that is not read here.
    """

    def __init__(self, paths: Iterable[str | Path]) -> None:
        self.paths = [Path(path) for path in paths]
        self._entries: dict[str, Entry] = {}
        self._handles: list[int] = []
        self._states: list[tuple[int, int]] = []
        for number, path in enumerate(self.paths):
            header = safety.check_safetensors(path)
            handle = os.open(path, os.O_RDONLY)
            self._handles.append(handle)
            self._states.append(_state(handle))
            data = 8 + int.from_bytes(os.pread(handle, 8, 0), "little")
            for name, entry in header.items():
                if entry["dtype"] not in DTYPES:
                    raise UserError(
                        f"{path}: tensor {name!r} is {entry['dtype']}, which is not read by layer; there are: "
                        f"{', '.join(DTYPES)}"
                    )
                begin, end = entry["data_offsets"]
                place = Entry(number, DTYPES[entry["dtype"]], tuple(entry["shape"]), data + begin, end - begin)
                self._entries[name] = place

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def entry(self, name: str) -> Entry:
        """Where the tensor `name` lies."""
        return self._entries[name]

    def read_into(self, name: str, bytes_N: Tensor) -> Tensor:
        """Read a tensor's bytes into the front of `bytes_N` (uint8, CPU, contiguous); returns it as what it is, a view.

        Raises:
            Unsafe: its file was changed or cut short since it was opened; the file is named.
        """
        entry = self._entries[name]
        path, handle = self.paths[entry.file], self._handles[entry.file]
        if _state(handle) != self._states[entry.file]:
            raise Unsafe(f"{path} was changed while it was being read; restore it and start again")
        own = bytes_N[: entry.num_bytes]
        if own.data_ptr() % entry.dtype.itemsize:
            raise Unsafe(f"{path} has tensor {name!r} at the odd byte {entry.start}; save the model again")
        bytes_here: Any = own.numpy()
        room, done = memoryview(bytes_here), 0
        while done < entry.num_bytes:
            try:
                got = os.preadv(handle, [room[done:]], entry.start + done)
            except OSError as error:
                raise Unsafe(f"{path} cannot be read at tensor {name!r} ({error.strerror}); restore it") from error
            if got == 0:
                raise Unsafe(f"{path} ends inside tensor {name!r}; restore it")
            done += got
        return own.view(entry.dtype).view(entry.shape)

    def read(self, name: str) -> Tensor:
        """A tensor of its own, aligned as in its file.

        Raises:
            Unsafe: see `read_into`.
        """
        entry = self._entries[name]
        lead = entry.start % ALIGN
        return self.read_into(name, torch.empty(lead + entry.num_bytes, dtype=torch.uint8)[lead:])

    def close(self) -> None:
        """Close the files; nothing can be read afterwards."""
        for handle in self._handles:
            os.close(handle)
        self._handles = []


def _state(handle: int) -> tuple[int, int]:
    found = os.fstat(handle)
    return found.st_size, found.st_mtime_ns
