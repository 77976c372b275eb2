"""Files to records: json, jsonl, csv, tsv, parquet, arrow, MDS shards and documents, each record with the place it was read at.

Left out: compressed files; remote sources (SQL, Hub, object stores), which remote.py reads; what a record means, which is
the business of formats.py.

A bad record never disappears: it is yielded as a Problem, in its place, and reading goes on behind it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from bottega.core.errors import UserError
from bottega.core.types import Where
from bottega.data import documents, mds

MAX_LINE_BYTES = 64_000_000
TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather", ".mds")
LINES = (".jsonl", ".ndjson")
SUFFIXES = (*TABLES, *documents.SUFFIXES)
CHUNK = 1 << 20
UTF16 = (b"\xff\xfe", b"\xfe\xff")
TYPE_KEY = "__lmflow_type__"


class Problem(NamedTuple):
    """A record that cannot be used: where it is and why, in one sentence."""

    where: Where
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class Span(NamedTuple):
    """A stretch of a file: bytes from `start` to `end` (None: the file's end), and the number of its first line."""

    start: int = 0
    end: int | None = None
    line: int = 1


WHOLE = Span()
FIELD = re.compile(r"\{\{\s*([^{}|\s][^{}|]*?)\s*\}\}")
"""`{{ column }}` in a text made of a row's columns."""
Record = dict[str, Any]
Read = tuple[Where, "Record | Problem"]


def find(paths: Iterable[str | Path]) -> list[Path]:
    """Files behind `paths`, folders opened (sorted by name, hidden ones left out).

    Raises:
        UserError: a path does not exist, has an unknown suffix, or is a folder without a readable file.
    """
    found: list[Path] = []
    for given in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(given)
        if path.is_dir():
            inside = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
            inside = [file for file in inside if not any(p.startswith(".") for p in file.relative_to(path).parts)]
            mds.refuse_compressed(path)
            inside = [file for file in inside if not mds.is_index(file)]
            if not inside:
                raise UserError(f"the folder {path} holds no file to read; expected one of {' '.join(SUFFIXES)}")
            found += inside
        elif not path.is_file():
            raise UserError(f"there is no file {path}; check the path")
        elif path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path} has the suffix {path.suffix!r}; expected one of {' '.join(SUFFIXES)}")
        else:
            found.append(path)
    return found


def places(paths: Any) -> list[Any]:
    """Files behind `paths` as `find` gives them, and remote sources (remote.py) where a path is a URL.

    Raises:
        UserError: as `find` and `remote.places`.
    """
    found: list[Any] = []
    listed: list[Any] = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    for given in listed:
        if isinstance(given, Path) or "://" not in os.fspath(given):
            found += find([given])
        else:
            from bottega.data import remote

            found += remote.places(remote.remote(given))
    return found


def read(paths: str | Path | Iterable[str | Path], *, columns: Mapping[str, str] | None = None) -> Iterator[Read]:
    """Every record of every file, in order, each with its place; what cannot be read is a Problem in its place.

    Args:
        paths: files or folders, one or many.
        columns: for plain tables: wanted name -> name in the file, or a text with `{{ name }}` in it, e.g. {"prompt":
            "{{ ort }}: {{ frage }}", "response": "antwort"}.

    Raises:
        UserError: a path is missing, a file is empty, or an optional package for its kind is not installed.
    """
    for path in places(paths):
        if isinstance(path, Path) and path.stat().st_size == 0:
            raise UserError(f"{path} is empty; give a file with at least one row")
        any_record = False
        for where, record in _open(path):
            any_record = True
            yield where, (_renamed(record, columns, where) if columns and not isinstance(record, Problem) else record)
        if not any_record:
            raise UserError(f"{path} holds no row; give a file with at least one row")


def read_span(path: str | Path, span: Span, *, columns: Mapping[str, str] | None = None) -> Iterator[Read]:
    """The records of a stretch of a file that `spans` found, with the places they have in the whole file."""
    for where, record in _read_jsonl(Path(path), span) if span != WHOLE else read_file(Path(path)):
        yield where, (_renamed(record, columns, where) if columns and not isinstance(record, Problem) else record)


def spans(path: str | Path, *, size: int) -> tuple[str, list[Span]]:
    """The sha256 of a file, and stretches of about `size` bytes that can be read apart (jsonl; other kinds are one whole).

    Where the cuts lie depends on the file alone. The file is read once, in pieces: memory does not grow with it.
    """
    digest, found = hashlib.sha256(), []
    start = at = 0
    line = first = 1
    with open(path, "rb") as file:
        cuts = Path(path).suffix.lower() in LINES and file.read(2) not in UTF16
        file.seek(0)
        while piece := file.read(CHUNK):
            digest.update(piece)
            if cuts:
                line += piece.count(b"\n")
                if at + len(piece) - start >= size and (end := piece.rfind(b"\n") + 1):
                    found.append(Span(start, at + end, first))
                    start, first = at + end, line
            at += len(piece)
    if start < at or not found:
        found.append(Span(start, at, first))
    return digest.hexdigest(), [WHOLE] if len(found) == 1 or not cuts else found


def _open(place: Any) -> Iterator[Read]:
    if isinstance(place, Path):
        return read_file(place)
    from bottega.data import remote

    return remote.records(place)


def read_file(path: Path) -> Iterator[Read]:
    suffix = path.suffix.lower()
    if suffix in LINES:
        return _read_jsonl(path)
    if suffix == ".json":
        return _read_json(path)
    if suffix in (".csv", ".tsv"):
        return _read_csv(path, "\t" if suffix == ".tsv" else ",")
    if suffix == mds.SUFFIX:
        return _read_mds(path)
    if suffix in TABLES:
        return _read_arrow(path)
    return _read_document(path)


def _renamed(record: Record, columns: Mapping[str, str], where: Where) -> Record | Problem:
    asked = [name for value in columns.values() for name in (FIELD.findall(value) if "{{" in value else [value])]
    missing = [name for name in asked if name not in record]
    if missing:
        have = ", ".join(list(record)[:8])
        return Problem(where._replace(column=missing[0]), f"there is no column {missing[0]!r}; the row has {have}")
    taken = {value for value in columns.values() if "{{" not in value}
    return {name: _filled(value, record) for name, value in columns.items()} | {
        name: value for name, value in record.items() if name not in taken and name not in columns
    }


def _filled(value: str, record: Record) -> Any:
    """A column's value, or a text with `{{ column }}` in it filled in."""
    if "{{" not in value:
        return record[value]
    return FIELD.sub(lambda match: "" if record[match[1]] is None else str(record[match[1]]), value)


def _parse(text: str, where: Where) -> Record | Problem:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        return Problem(where, f"broken JSON at character {error.pos + 1}: {error.msg}")
    except (RecursionError, ValueError) as error:
        return Problem(where, f"JSON that cannot be read: {error}")
    if not isinstance(record, dict):
        return Problem(where, f"expected an object {{...}}, found {_kind(record)}")
    return record


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def decode(raw: bytes, where: Where) -> str | Problem:
    """UTF-8 (or UTF-16 with its mark) to text without a byte order mark; NUL and undecodable bytes are a Problem."""
    encoding = "utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        return Problem(
            where, f"byte {raw[error.start]:#04x} at {error.start + 1} is not {encoding[:6].rstrip('-')} text"
        )
    if "\x00" in text:
        return Problem(where, f"a NUL character at {text.index(chr(0)) + 1}; this is not a text file")
    return text


def _lines(file: IO[bytes], end: int | None) -> Iterator[bytes]:
    """Lines from where the file stands; `end`: the byte before which the last one begins."""
    while (end is None or file.tell() < end) and (raw := file.readline(MAX_LINE_BYTES + 1)):
        yield raw


def _read_jsonl(path: Path, span: Span = WHOLE) -> Iterator[Read]:
    with path.open("rb") as file:
        if file.read(2) in UTF16:
            whole = decode(path.read_bytes(), Where(str(path)))
            lines: Iterable[bytes] = whole.encode().splitlines(keepends=True) if isinstance(whole, str) else ()
        else:
            file.seek(span.start)
            lines = _lines(file, span.end)
        number = span.line - 1
        skipping = False
        for raw in lines:
            was_skipping, skipping = skipping, len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n")
            if was_skipping:
                continue
            number += 1
            where = Where(str(path), number)
            if skipping:
                yield where, Problem(where, f"a line of more than {MAX_LINE_BYTES:,} bytes; split it")
            elif raw.strip():
                text = decode(raw, where)
                yield where, text if isinstance(text, Problem) else _parse(text, where)


def _read_json(path: Path) -> Iterator[Read]:
    """One array of objects, one object (with its rows under `instances`, `data` or `rows`, or a row itself)."""
    top = Where(str(path), 1)
    text = decode(path.read_bytes(), top)
    if isinstance(text, Problem):
        yield top, text
        return
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            yield from _read_jsonl(path)
            return
        where = top._replace(row=error.lineno)
        yield where, Problem(where, f"broken JSON at line {error.lineno}, character {error.colno}: {error.msg}")
        return
    except (RecursionError, ValueError) as error:
        yield top, Problem(top, f"JSON that cannot be read: {error}")
        return
    kind = data.get("type") if isinstance(data, dict) else None
    rows = data
    if isinstance(data, dict):
        rows = next((data[key] for key in ("instances", "data", "rows") if isinstance(data.get(key), list)), [data])
    if not isinstance(rows, list):
        yield top, Problem(top, f"expected a list of objects, found {_kind(rows)}")
        return
    for number, row in enumerate(rows, 1):
        where = Where(str(path), number)
        if not isinstance(row, dict):
            yield where, Problem(where, f"expected an object {{...}}, found {_kind(row)}")
        elif isinstance(kind, str) and rows is data.get("instances"):
            yield where, {**row, TYPE_KEY: kind}
        else:
            yield where, row


def _read_csv(path: Path, delimiter: str) -> Iterator[Read]:
    text = decode(path.read_bytes(), Where(str(path), 1))
    if isinstance(text, Problem):
        yield text.where, text
        return
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            where, line = Where(str(path), line), reader.line_num + 1
            if not any(cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                twice = sorted({name for name in header if header.count(name) > 1})
                if twice:
                    raise UserError(f"{path} has two columns named {twice[0]!r}; rename one")
            elif len(cells) != len(header):
                yield where, Problem(where, f"{len(cells)} cells where the header has {len(header)}")
            else:
                yield where, {name: column_value(name, cell) for name, cell in zip(header, cells)}
    except csv.Error as error:
        where = Where(str(path), reader.line_num)
        yield where, Problem(where, f"broken table from here on: {error}")


def column_value(name: str, text: str) -> Any:
    """A cell as its text; nothing when empty; turns (and alpaca's history) written as JSON as what they are."""
    if not (text.startswith("[") and text.endswith("]")):
        return text or None
    try:
        value = json.loads(text)
    except ValueError:
        return text
    turns = all(isinstance(item, dict) and {"role", "from"} & set(item) for item in value)
    return value if value and (turns or name in ("history", "tools", "responses", "labels")) else text


def _read_arrow(path: Path) -> Iterator[Read]:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"reading {path.name} needs pyarrow; install it with: pip install 'bottega[data]'") from error
    number = 0
    try:
        for batch in _arrow_batches(path, pyarrow):
            for record in batch.to_pylist():
                number += 1
                yield Where(str(path), number), record
    except (pyarrow.ArrowException, OSError) as error:
        where = Where(str(path), number + 1)
        yield where, Problem(where, f"not a readable {path.suffix[1:]} file: {str(error).splitlines()[0]}")


def _arrow_batches(path: Path, pyarrow: Any) -> Iterator[Any]:
    if path.suffix.lower() == ".parquet":
        with pyarrow.parquet.ParquetFile(path) as table:
            yield from table.iter_batches(batch_size=1024)
        return
    with pyarrow.memory_map(str(path)) as file:
        try:
            opened = pyarrow.ipc.open_file(file)
        except pyarrow.ArrowInvalid:
            file.seek(0)
            yield from pyarrow.ipc.open_stream(file)
            return
        for index in range(opened.num_record_batches):
            yield opened.get_batch(index)


def _read_mds(path: Path) -> Iterator[Read]:
    """Samples of a shard; arrays as lists, so that a record is what a line of JSON would be."""
    for number, sample in enumerate(mds.read_shard(path), 1):
        record = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in sample.items()}
        yield Where(str(path), number), record


def _read_document(path: Path) -> Iterator[Read]:
    where = Where(str(path), 1)
    try:
        text = documents.read_text(path)
    except documents.Unreadable as error:
        yield where, Problem(where, str(error))
        return
    if not text.strip():
        yield where, Problem(where, "no text found in this document")
        return
    yield where, {"text": text}
