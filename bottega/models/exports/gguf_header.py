"""The header of a GGUF file, read and checked by hand before any library maps the file: sizes, counts, types and extents.

Left out: the numbers themselves, and big-endian files. No torch here, and no gguf package.

Layout: magic, version, number of tensors and of keys; the keys with their values; a table of names, shapes, types and offsets; the
data, aligned. Every length is compared with what is left of the file before anything of that length is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from bottega.core.errors import Unsafe

MAX_HEADER_BYTES = 200_000_000
MAX_TENSORS = 1_000_000
MAX_KEYS = 100_000
MAX_NAME = 65_535
MAX_DIMS = 4
_FIXED = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84), 11: (256, 110),
    12: (256, 144), 13: (256, 176), 14: (256, 210), 20: (32, 18), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4),
    27: (1, 8), 28: (1, 8), 30: (1, 2),
}  # fmt: skip
"""ggml type -> numbers in a block and bytes of it: F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, K-quants, IQ4, integers, BF16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What a GGUF file says of itself: keys (arrays of strings as lists), and tensors name -> (shape, type, bytes)."""

    keys: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], int, int]]

    @property
    def architecture(self) -> str:
        """general.architecture."""
        return str(self.keys.get("general.architecture", ""))


class _Reader:
    """Reads forward and never past the end of the file or the limit on headers."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file, self.size, self.at = path, file, size, 0

    def take(self, count: int, what: str) -> bytes:
        if count > self.size - self.at or self.at + count > MAX_HEADER_BYTES:
            raise damaged(self.path, f"{what} claims {count} bytes at byte {self.at} of {self.size}")
        self.at += count
        return self.file.read(count)

    def number(self, form: str, what: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form), what))[0]

    def text(self, what: str) -> str:
        raw = self.take(self.number("<Q", what), what)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise damaged(self.path, f"{what} is not UTF-8") from None

    def value(self, kind: int, key: str) -> Any:
        if kind in _FIXED:
            return self.number(_FIXED[kind], key)
        if kind == _STRING:
            return self.text(key)
        if kind != _ARRAY:
            raise damaged(self.path, f"{key!r} has the unknown type {kind}")
        element, count = self.number("<I", key), self.number("<Q", key)
        if element in _FIXED:
            form = _FIXED[element]
            raw = self.take(count * struct.calcsize(form), key)
            return [one[0] for one in struct.iter_unpack(form, raw)]
        if element != _STRING or count > (self.size - self.at) // 8:
            raise damaged(self.path, f"{key!r} claims an array of {count} values of type {element}")
        return [self.text(key) for _ in range(count)]


def check_gguf(path: str | Path) -> Header:
    """Read and check the header of a GGUF file (version 2 or 3, little-endian).

    Raises:
        Unsafe: it is damaged, forged or larger than a header may be; the sentence says where.
    """
    path = Path(path)
    size = path.stat().st_size
    with open(path, "rb") as file:
        reader = _Reader(path, file, size)
        if reader.take(4, "the magic") != b"GGUF":
            raise damaged(path, "it does not start with GGUF")
        version = reader.number("<I", "the version")
        if version not in (2, 3):
            raise damaged(path, f"it has version {version}, and 2 and 3 are read here")
        num_tensors, num_keys = reader.number("<Q", "the counts"), reader.number("<Q", "the counts")
        if num_tensors > MAX_TENSORS or num_keys > MAX_KEYS:
            raise damaged(
                path, f"it claims {num_tensors} tensors and {num_keys} keys (limits {MAX_TENSORS}, {MAX_KEYS})"
            )
        keys: dict[str, Any] = {}
        for _ in range(num_keys):
            key = reader.text("a key")
            if key in keys or len(key) > MAX_NAME:
                raise damaged(path, f"the key {key[:80]!r} comes twice or is too long")
            keys[key] = reader.value(reader.number("<I", key), key)
        table = list(_table(reader, num_tensors))
        align = keys.get("general.alignment", 32)
        if type(align) is not int or not 8 <= align <= 65_536 or align & (align - 1):
            raise damaged(path, f"its alignment is {align!r}")
        data = (reader.at + align - 1) // align * align
    return Header(keys=keys, tensors=_extents(path, table, size - data, align))


def _table(reader: _Reader, count: int) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
    for _ in range(count):
        name = reader.text("a tensor's name")
        dims = reader.number("<I", name)
        if dims > MAX_DIMS:
            raise damaged(reader.path, f"tensor {name[:80]!r} has {dims} dimensions")
        shape = tuple(reader.number("<Q", name) for _ in range(dims))
        kind, offset = reader.number("<I", name), reader.number("<Q", name)
        yield name, shape[::-1], kind, offset


def _extents(
    path: Path, table: list[tuple[str, tuple[int, ...], int, int]], room: int, align: int
) -> dict[str, tuple[tuple[int, ...], int, int]]:
    found: dict[str, tuple[tuple[int, ...], int, int]] = {}
    spans = []
    for name, shape, kind, offset in table:
        if kind not in BLOCKS:
            raise damaged(path, f"tensor {name!r} has the type {kind}, which is not read here")
        numbers, num_bytes = BLOCKS[kind]
        total = 1
        for length in shape:
            total *= length
        if name in found or offset % align or (shape and shape[-1] % numbers):
            raise damaged(path, f"tensor {name!r} comes twice, is not aligned, or is no whole number of blocks")
        size = total // numbers * num_bytes
        if offset + size > room:
            raise damaged(path, f"tensor {name!r} ends at byte {offset + size} of {max(0, room)} bytes of data")
        found[name] = (shape, kind, size)
        spans.append((offset, offset + size, name))
    spans.sort()
    for (_, end, name), (begin, _, other) in zip(spans, spans[1:]):
        if begin < end:
            raise damaged(path, f"tensors {name!r} and {other!r} overlap")
    return found


def damaged(path: Path, what: str) -> Unsafe:
    """The error of a file that is not what it says."""
    return Unsafe(f"{path} is damaged or forged: {what}; download it again, or do not use it")
