"""Rows on disk: token ids in memory-mapped shards, read lazily, so that memory does not grow with the corpus.

Left out: making rows (prepare.py) and what a cache of them is keyed by (tokenise.py).

A folder of shards holds `header.json` and, for shard NAME, plain little-endian arrays without any head:

    NAME.ids      uint16 or uint32    the ids of all sequences, one after the other
    NAME.weights  uint8               for each id the place of its training weight in the header's `palette` of the shard
    NAME.starts   uint64              where each sequence starts in `ids`, and the end (sequences + 1)
    NAME.rows     uint64              the first sequence of each row, and the end (rows + 1)
    NAME.x.KEY    float64             one number a sequence (margin ...); not-a-number where a row has none

The first sequence of a row is its prefix (often empty), the others are its branches. The header says of every file how many
bytes it has and their sha256: sizes are checked when the folder is opened, sums when a shard is first read.
"""

from __future__ import annotations

import copy
import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from bottega.core import rundir
from bottega.core.errors import Unsafe
from bottega.core.types import Row, Tokens
from bottega.data.lazy import picked

HEADER = "header.json"
FORMAT = {"format": "bottega-rows", "version": 1}
SHARD_TOKENS = 4_000_000
"""A shard ends with the row that reaches so many ids: 8 to 16 MB, which a checksum takes some 20 ms to read."""
MAX_OPEN = 32
"""Shards mapped at a time; each takes a few file descriptors."""
PALETTE = 256


class Parts(NamedTuple):
    """The arrays of one shard, and the values behind its weight codes."""

    ids: np.ndarray
    weights: np.ndarray
    starts: np.ndarray
    rows: np.ndarray
    extras: dict[str, np.ndarray]
    palette: np.ndarray


class Writer:
    """Writes rows to the shards PREFIX-000, PREFIX-001, ... of a folder; `close` gives their entries of the header."""

    def __init__(self, folder: Path, prefix: str, *, ids: str) -> None:
        self.folder, self.prefix, self.kind = folder, prefix, np.dtype(ids)
        self.entries: list[dict[str, Any]] = []
        self._clear()

    def _clear(self) -> None:
        self.ids: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []
        self.starts, self.rows, self.tokens = [0], [0], 0
        self.extras: dict[str, dict[int, float]] = {}

    def add(self, row: Row) -> None:
        """One more row; a full shard is written."""
        for sequence in (row.prefix, *row.branches):
            self.ids.append(np.asarray(sequence.ids, dtype=self.kind))
            self.weights.append(np.asarray(sequence.trains, dtype=np.float32))
            self.tokens += len(sequence.ids)
            self.starts.append(self.tokens)
        for name, values in row.extras.items():
            first = self.rows[-1] + 1
            self.extras.setdefault(name, {}).update({first + i: float(v) for i, v in enumerate(values)})
        self.rows.append(len(self.starts) - 1)
        if self.tokens >= SHARD_TOKENS:
            self._flush()

    def _flush(self) -> None:
        flat = np.concatenate(self.weights)
        palette, codes = np.unique(flat, return_inverse=True)
        coded = len(palette) <= PALETTE
        arrays = {
            "ids": np.concatenate(self.ids),
            "weights": codes.astype(np.uint8) if coded else flat,
            "starts": np.array(self.starts, dtype=np.uint64),
            "rows": np.array(self.rows, dtype=np.uint64),
        }
        for name, values in self.extras.items():
            column = np.full(len(self.starts) - 1, np.nan)
            column[list(values)] = list(values.values())
            arrays[f"x.{name}"] = column
        shard = f"{self.prefix}-{len(self.entries):03d}"
        files = {}
        for name, array in arrays.items():
            content = array.tobytes()
            rundir.atomic_write(self.folder / f"{shard}.{name}", content)
            files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        self.entries.append(
            {
                "name": shard,
                "rows": len(self.rows) - 1,
                "tokens": self.tokens,
                "trained": int(np.count_nonzero(flat)),
                "ids": self.kind.name,
                "palette": palette.tolist() if coded else None,
                "files": files,
            }
        )
        self._clear()

    def close(self) -> list[dict[str, Any]]:
        """Write what is left."""
        if len(self.rows) > 1:
            self._flush()
        return self.entries


def write_header(folder: Path, shards: Sequence[dict[str, Any]], **facts: Any) -> None:
    """The header: what the shards are, and `facts` about how they came to be."""
    rundir.write_json(folder / HEADER, {**FORMAT, **facts, "shards": list(shards)})


class ShardRows(Sequence[Row]):
    """The rows of a folder of shards, each read when asked for; `first`: the index of row 0.

    Raises:
        Unsafe: a file was cut short, is gone, or (when its shard is first read) holds other bytes than were written.
    """

    def __init__(self, folder: str | Path, *, first: int = 0) -> None:
        self.folder, self.first = Path(folder), first
        self.header = rundir.read_json(self.folder / HEADER)
        if {key: self.header.get(key) for key in FORMAT} != FORMAT:
            raise Unsafe(f"{self.folder / HEADER} is no header of rows that this version reads; remove the folder")
        self.shards: list[dict[str, Any]] = self.header["shards"]
        self._ends = np.cumsum([shard["rows"] for shard in self.shards]).tolist()
        self._token_ends = np.cumsum([shard["tokens"] for shard in self.shards]).tolist()
        self._open: OrderedDict[int, Parts] = OrderedDict()
        self._checked: set[int] = set()
        for shard in self.shards:
            for name, known in shard["files"].items():
                path = self.folder / f"{shard['name']}.{name}"
                size = path.stat().st_size if path.is_file() else None
                if size != known["bytes"]:
                    self._damaged(path, "is gone" if size is None else f"has {size:,} bytes, not {known['bytes']:,}")

    def _damaged(self, path: Path, what: str) -> None:
        raise Unsafe(f"the shard {path} {what}; remove {self.folder} and run again: it will be made anew")

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def num_tokens(self) -> int:
        """Ids in all rows."""
        return self._token_ends[-1] if self._token_ends else 0

    def numbered(self, first: int) -> ShardRows:
        """The same rows, their indices counted from `first`."""
        twin = copy.copy(self)
        twin.first = first
        return twin

    def parts(self, number: int) -> Parts:
        """The arrays of a shard, mapped; its checksums are compared the first time."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        shard = self.shards[number]
        arrays: dict[str, np.ndarray] = {}
        for name, known in shard["files"].items():
            path = self.folder / f"{shard['name']}.{name}"
            if number not in self._checked and rundir.sha256(path) != known["sha256"]:
                self._damaged(path, "holds other bytes than were written (its sha256 differs)")
            arrays[name] = np.memmap(path, dtype=_dtype(name, shard), mode="r")
        self._checked.add(number)
        palette = np.array(shard["palette"] or [], dtype=np.float32)
        extras = {name[2:]: array for name, array in arrays.items() if name.startswith("x.")}
        made = Parts(arrays["ids"], arrays["weights"], arrays["starts"], arrays["rows"], extras, palette)
        self._open[number] = made
        while len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)
        return made

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        return picked(index, len(self), self._row)

    def _row(self, place: int) -> Row:
        number = bisect_right(self._ends, place)
        part = self.parts(number)
        own = place - (self._ends[number - 1] if number else 0)
        begin, end = int(part.rows[own]), int(part.rows[own + 1])
        prefix, *branches = (_tokens(part, i) for i in range(begin, end))
        extras = {
            name: column[begin + 1 : end].tolist()
            for name, column in part.extras.items()
            if not np.isnan(column[begin + 1])
        }
        return Row(index=self.first + place, prefix=prefix, branches=tuple(branches), extras=extras)

    def lengths(self) -> np.ndarray:
        """Ids of each row, int64: 8 bytes a row in memory."""
        found = []
        for number in range(len(self.shards)):
            part = self.parts(number)
            found.append(np.diff(part.starts[part.rows].astype(np.int64)))
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)

    def column(self, name: str) -> np.ndarray:
        """The number called `name` of each row, float64: 8 bytes a row in memory."""
        found = [
            self.parts(i).extras[name][self.parts(i).rows[:-1].astype(np.int64) + 1] for i in range(len(self.shards))
        ]
        return np.concatenate(found) if found else np.zeros(0)

    def stream(self, start: int, stop: int) -> np.ndarray:
        """The ids from place `start` to `stop` of all rows end to end, int32."""
        pieces = []
        number = bisect_right(self._token_ends, start)
        while start < stop and number < len(self.shards):
            before = self._token_ends[number - 1] if number else 0
            end = min(stop, self._token_ends[number])
            pieces.append(self.parts(number).ids[start - before : end - before].astype(np.int32))
            start, number = end, number + 1
        return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int32)


def _dtype(name: str, shard: dict[str, Any]) -> str:
    if name == "weights":
        return "uint8" if shard["palette"] is not None else "float32"
    return {"ids": shard["ids"], "starts": "uint64", "rows": "uint64"}.get(name, "float64")


def _tokens(part: Parts, sequence: int) -> Tokens:
    """One sequence, with the same types of arrays as rows in memory have."""
    begin, end = int(part.starts[sequence]), int(part.starts[sequence + 1])
    weights = part.weights[begin:end]
    trains = part.palette[weights] if weights.dtype == np.uint8 else np.array(weights)
    return Tokens(part.ids[begin:end].astype(np.int32), np.asarray(trains))


def write(folder: Path, rows: Iterable[Row], *, ids: str = "uint32", **facts: Any) -> None:
    """Rows to a folder of shards in one go."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = Writer(folder, "00000", ids=ids)
    for row in rows:
        writer.add(row)
    write_header(folder, writer.close(), **facts)
