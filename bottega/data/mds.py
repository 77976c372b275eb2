"""MosaicML's MDS shards, version 2: read one sample at a time from a mapped file, and written so that its own package reads them.

Left out: compressed shards (refused by name), pickled columns (never read) and pictures.

A shard is: uint32 number of samples n; n + 1 uint32 offsets into the file; a JSON head that names its columns, their encodings and
fixed sizes; the samples. A sample is: a uint32 length for each column without a fixed size; then the columns' bytes, in the order of
their names. `index.json` beside the shards lists them with their sizes. All numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bottega.core import rundir
from bottega.core.errors import Unsafe, UserError

SUFFIX = ".mds"
INDEX = "index.json"
SIZE_LIMIT = 1 << 26
SCALARS = tuple(f"{kind}{bits}" for kind in ("uint", "int") for bits in (8, 16, 32, 64)) + (
    "float16",
    "float32",
    "float64",
)
PLAIN = ("bytes", "str", "int", "json", "str_int", "str_float", "str_decimal")
PICKLED = ("pkl", "pickle")
ARRAY = "ndarray"
SHAPES = ("uint8", "uint16", "uint32", "uint64")
VALUES = {
    8: "uint8", 9: "int8", 16: "uint16", 17: "int16", 18: "float16", 32: "uint32", 33: "int32", 34: "float32",
    64: "uint64", 65: "int64", 66: "float64",
}  # fmt: skip
"""The byte that stands for an array's type, and the type."""


def is_index(path: Path) -> bool:
    """Whether a file is the index of shards that lie beside it (and not a table of its own)."""
    if path.name != INDEX:
        return False
    return any(path.parent.glob(f"*{SUFFIX}")) or any(path.parent.glob(f"*{SUFFIX}.*"))


def refuse_compressed(folder: Path) -> None:
    """Compressed shards are named, not passed over.

    Raises:
        UserError: there is one.
    """
    for path in sorted(folder.rglob(f"*{SUFFIX}.*")):
        if not path.name.startswith("."):
            raise UserError(
                f"{path} is compressed ({path.suffix[1:]}); unpack every shard beside it, or write them with compression=None"
            )


def read_shard(path: Path) -> Iterator[dict[str, Any]]:
    """The samples of one shard, in order; checked against `index.json` where that lies beside it.

    Raises:
        Unsafe: it was cut short or changed, or a column is pickled. UserError: a column holds pictures or is unknown.
    """
    _check_index(path)
    with path.open("rb") as file:
        size = path.stat().st_size
        if size < 8:
            raise Unsafe(f"the shard {path} was cut short: {size} bytes hold no head; get it again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            count = int.from_bytes(data[:4], "little")
            head = 4 * (count + 2)
            offsets = np.frombuffer(data[4:head], "<u4").astype(np.int64) if head <= size else np.array([size, head])
            if offsets[-1] != size or offsets[0] < head or (np.diff(offsets) < 0).any():
                raise Unsafe(
                    f"the shard {path} is damaged: {size:,} bytes, where its head says {int(offsets[-1]):,}; get it again"
                )
            columns = _columns(data[head : int(offsets[0])], path)
            for number in range(count):
                raw = data[int(offsets[number]) : int(offsets[number + 1])]
                yield _sample(raw, columns, f"{path}:{number + 1}")


def _check_index(path: Path) -> None:
    index = path.parent / INDEX
    if not index.is_file():
        return
    known = rundir.read_json(index)
    shards = known.get("shards", []) if isinstance(known, dict) else []
    for shard in shards:
        raw = shard.get("raw_data") if isinstance(shard, dict) else None
        if not isinstance(raw, dict) or raw.get("basename") != path.name:
            continue
        if raw.get("bytes") != path.stat().st_size:
            raise Unsafe(f"the shard {path} has {path.stat().st_size:,} bytes, and {index} says {raw.get('bytes')}")
        for name, wanted in (raw.get("hashes") or {}).items():
            if name in hashlib.algorithms_guaranteed and not name.startswith("shake"):
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, name).hexdigest()
                if found != wanted:
                    raise Unsafe(
                        f"the shard {path} has changed: {name} {found}, and {index} says {wanted}; get it again"
                    )


def _columns(head: bytes, path: Path) -> list[tuple[str, str, int | None]]:
    """Name, encoding and fixed size of each column."""
    try:
        known = json.loads(head)
        columns = list(zip(known["column_names"], known["column_encodings"], known["column_sizes"], strict=True))
        whole = all(isinstance(n, str) and isinstance(e, str) for n, e, _ in columns)
        whole = whole and all(size is None or (isinstance(size, int) and size > 0) for _, _, size in columns)
    except (ValueError, KeyError, TypeError, RecursionError):
        whole, columns = False, []
    if not whole:
        raise Unsafe(
            f"the shard {path} is damaged: its head of {len(head)} bytes names no columns; get it again"
        ) from None
    for name, encoding, _ in columns:
        check_encoding(name, encoding, str(path))
    return columns


def check_encoding(name: str, encoding: str, where: str) -> None:
    """An encoding that can be read and written.

    Raises:
        Unsafe: it is pickled. UserError: it is none that is known here.
    """
    base = encoding.partition(":")[0]
    if base in PICKLED:
        raise Unsafe(
            f"{where}: the column {name!r} is pickled, which can run code when it is read; write it again as json, str or ndarray"
        )
    if base not in (*PLAIN, *SCALARS, ARRAY):
        raise UserError(f"{where}: the column {name!r} is {encoding}; read are {', '.join(PLAIN)}, {ARRAY} and numbers")


def _sample(raw: bytes, columns: list[tuple[str, str, int | None]], where: str) -> dict[str, Any]:
    at, sizes = 0, []
    for _, _, fixed in columns:
        if fixed:
            sizes.append(fixed)
        else:
            sizes.append(int.from_bytes(raw[at : at + 4], "little"))
            at += 4
    if at + sum(sizes) != len(raw):
        raise Unsafe(
            f"{where} is damaged: its columns take {at + sum(sizes):,} bytes and it has {len(raw):,}; get it again"
        )
    sample = {}
    for (name, encoding, _), size in zip(columns, sizes, strict=True):
        try:
            sample[name] = decode(encoding, raw[at : at + size])
        except (ValueError, TypeError, IndexError, KeyError, RecursionError):
            raise Unsafe(f"{where}: the column {name!r} does not hold {encoding}; get the shard again") from None
        at += size
    return sample


def decode(encoding: str, raw: bytes) -> Any:
    """The value of one column; the reverse of `encode`."""
    base, _, rest = encoding.partition(":")
    if base == ARRAY:
        return _decode_array(raw, *_array_type(rest))
    if base in SCALARS:
        return np.frombuffer(raw, np.dtype(base).newbyteorder("<"))[0].item()
    if base == "int":
        return int.from_bytes(raw, "little", signed=True)
    if base == "bytes":
        return raw
    text = raw.decode()
    if base == "json":
        return json.loads(text)
    return int(text) if base == "str_int" else float(text) if base == "str_float" else text


def encode(encoding: str, value: Any) -> bytes:
    """The bytes of one value.

    Raises:
        UserError: the value is not of this kind.
    """
    base, _, rest = encoding.partition(":")
    try:
        if base == ARRAY:
            return _encode_array(np.asarray(value), *_array_type(rest))
        if base in SCALARS:
            return np.asarray(value, np.dtype(base).newbyteorder("<")).tobytes()
        if base == "int":
            return int(value).to_bytes(8, "little", signed=True)
        if base == "bytes":
            return bytes(value)
        return json.dumps(value).encode() if base == "json" else str(value).encode()
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"{str(value)[:40]!r} cannot be written as {encoding} ({error}); choose another encoding"
        ) from None


def _array_type(rest: str) -> tuple[str | None, tuple[int, ...] | None]:
    """`int32:3,4` -> its type and shape, as far as they are fixed."""
    kind, _, shape = rest.partition(":")
    return kind or None, tuple(map(int, shape.split(","))) if shape else None


def _decode_array(raw: bytes, kind: str | None, shape: tuple[int, ...] | None) -> np.ndarray:
    at = 0
    if kind is None:
        kind, at = VALUES[raw[0]], 1
    if shape is None:
        axes, width = raw[at] >> 2, 1 << (raw[at] & 3)
        at += 1
        shape = tuple(np.frombuffer(raw[at : at + axes * width], f"<u{width}").tolist())
        at += axes * width
    return np.frombuffer(raw[at:], np.dtype(kind).newbyteorder("<")).reshape(shape)


def _encode_array(array: np.ndarray, kind: str | None, shape: tuple[int, ...] | None) -> bytes:
    codes = {name: code for code, name in VALUES.items()}
    if array.dtype.name not in codes or array.size == 0 or array.ndim == 0:
        raise ValueError(f"an array of {array.dtype} with shape {array.shape}")
    if kind not in (None, array.dtype.name) or shape not in (None, array.shape):
        raise ValueError(f"an array of {array.dtype} with shape {array.shape} in a column of one type or shape")
    head = b"" if kind else bytes([codes[array.dtype.name]])
    if shape is None:
        width = next(i for i, name in enumerate(SHAPES) if max(array.shape) <= np.iinfo(name).max)
        head += bytes([array.ndim << 2 | width]) + np.array(array.shape, f"<u{1 << width}").tobytes()
    return head + np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _fixed_size(encoding: str) -> int | None:
    base, _, rest = encoding.partition(":")
    if base == "int":
        return 8
    if base in SCALARS:
        return np.dtype(base).itemsize
    kind, shape = _array_type(rest) if base == ARRAY else (None, None)
    return int(np.prod(shape)) * np.dtype(kind).itemsize if kind and shape else None


def columns_of(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Encodings for records: str, int, bytes or ndarray where every record has that kind in the column, else json."""
    kinds: dict[str, list[str]] = {}
    count = 0
    for record in records:
        count += 1
        for name, value in record.items():
            kind = {str: "str", int: "int", bytes: "bytes", np.ndarray: ARRAY}.get(type(value), "json")
            if kind == "int" and not -(2**63) <= value < 2**63:
                kind = "json"
            kinds.setdefault(name, []).append(kind)
    return {
        name: found[0] if len(set(found)) == 1 and len(found) == count else "json"
        for name, found in sorted(kinds.items())
    }


def write(
    folder: str | Path,
    records: Iterable[Mapping[str, Any]],
    *,
    columns: Mapping[str, str],
    size_limit: int = SIZE_LIMIT,
) -> int:
    """Records as shards of at most `size_limit` bytes (one sample at least) with their index, written last; returns their number.

    Args:
        columns: name -> encoding; a record without a column has null there, which only `json` can hold.

    Raises:
        UserError: there are shards already, a value does not fit its encoding, or there is no record.
    """
    folder = Path(folder)
    if any(folder.glob(f"*{SUFFIX}*")) or (folder / INDEX).exists():
        raise UserError(f"{folder} holds shards already; name another folder")
    names = sorted(columns)
    for name in names:
        check_encoding(name, columns[name], str(folder))
    sizes = [_fixed_size(columns[name]) for name in names]
    config: dict[str, Any] = {
        "version": 2,
        "format": "mds",
        "compression": None,
        "hashes": ["sha256"],
        "size_limit": size_limit,
        "column_names": names,
        "column_encodings": [columns[name] for name in names],
        "column_sizes": sizes,
    }
    head = json.dumps(config, sort_keys=True).encode()
    shards = [
        _write_shard(folder, number, samples, head)
        for number, samples in enumerate(
            _grouped(records, dict(zip(names, sizes)), columns, size_limit - len(head) - 8)
        )
    ]
    if not shards:
        raise UserError(f"there is no record to write to {folder}; give at least one")
    index = [{**config, "samples": count, "raw_data": raw, "zip_data": None} for count, raw in shards]
    rundir.write_json(folder / INDEX, {"version": 2, "shards": index})
    return sum(count for count, _ in shards)


def _grouped(
    records: Iterable[Mapping[str, Any]], sizes: Mapping[str, int | None], columns: Mapping[str, str], limit: int
) -> Iterator[list[bytes]]:
    """The samples of each shard; as many as fit, one at least."""
    waiting: list[bytes] = []
    filled = 0
    for record in records:
        values = {name: encode(columns[name], record.get(name)) for name in sizes}
        lengths = b"".join(len(values[name]).to_bytes(4, "little") for name in sizes if sizes[name] is None)
        sample = lengths + b"".join(values.values())
        if waiting and filled + len(sample) + 4 > limit:
            yield waiting
            waiting, filled = [], 0
        waiting.append(sample)
        filled += len(sample) + 4
    if waiting:
        yield waiting


def _write_shard(folder: Path, number: int, samples: list[bytes], head: bytes) -> tuple[int, dict[str, Any]]:
    offsets = np.cumsum([4 + 4 * (len(samples) + 1) + len(head), *map(len, samples)])
    if offsets[-1] >= 1 << 32:
        raise UserError(f"a sample of {max(map(len, samples)):,} bytes does not fit a shard of 4 GB; cut it")
    content = b"".join([len(samples).to_bytes(4, "little"), offsets.astype("<u4").tobytes(), head, *samples])
    name = f"shard.{number:05d}{SUFFIX}"
    rundir.atomic_write(folder / name, content)
    hashes = {"sha256": hashlib.sha256(content).hexdigest()}
    return len(samples), {"basename": name, "bytes": len(content), "hashes": hashes}
