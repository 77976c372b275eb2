"""Records from a database, a Hub data set or an object store, named by a URL; nothing is opened that was not named.

Left out: writing to any of them. `sqlite:///notes.db#SELECT text FROM notes` and any SQLAlchemy URL (after # a query, or a table's
name), `hub://OWNER/NAME?split=train` or `hub:///folder`, `s3://bucket/rows.jsonl`, `gs://`, `memory://` (a file, or a folder of them).

A database is opened for reading, and only SELECT is run. Passwords are in no message: `str(remote)` masks them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import date, time, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit
from uuid import UUID

from bottega.core.errors import UserError
from bottega.core.types import Where
from bottega.data.sources import SUFFIXES, Problem, Read, Record, column_value, read_file

STORES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "memory": "fsspec"}
"""Schemes of object stores and the packages that open them."""
EXTRAS = {"s3fs": "s3", "gcsfs": "gcs", "fsspec": "s3", "datasets": "hub", "sqlalchemy": "sql"}
LOCAL = ("sqlite", "memory")
DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql", "mssql": "pyodbc", "oracle": "oracledb"}
BATCH = 1000
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.I)
_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):([^/@\s]*)@")
_SECRET_PARAMETER = re.compile(r"(?i)([?&](?:password|passwd|token|access_token|key|secret|sig|signature)=)[^&#\s]*")
_SELECT = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(\w*)", re.S)
_TABLE = re.compile(r"\w+(?:\.\w+)?")


@dataclass(frozen=True, slots=True)
class Remote:
    """A remote source: its URL, the query (or table) of a database, and a password that no text of it shows."""

    url: str = field(repr=False)
    query: str = ""
    password: str = field(default="", repr=False)

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0].lower()

    def __str__(self) -> str:
        name = masked(self.url)
        if not self.query:
            return name
        short = self.query if _TABLE.fullmatch(self.query) else f"query-{_hash(self.query)[:8]}"
        return f"{name}#{short}"

    def __fspath__(self) -> str:
        return str(self)


def is_remote(path: Any) -> bool:
    """Whether a path is a URL of a remote source."""
    return isinstance(path, Remote) or isinstance(path, str) and _URL.match(path) is not None


def remote(path: str | Remote, *, query: str = "", password: str = "") -> Remote:
    """The remote source that a text names; what stands behind `#` is its query."""
    if isinstance(path, Remote):
        return path
    url, _, after = path.partition("#")
    return Remote(url, query or after.strip(), password)


def masked(text: str) -> str:
    """A URL (or a message that holds some) without passwords and tokens: postgresql://me:***@host/db."""
    return _SECRET_PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))


def holds_password(url: str) -> bool:
    """Whether a URL has a password or a token written out."""
    return masked(url) != url


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def places(source: Remote) -> list[Remote]:
    """The files of a folder of an object store, sorted; any other source is one place.

    Raises:
        UserError: an unknown scheme, a package that is missing, --offline, or nothing to read there.
    """
    check(source)
    if source.scheme not in STORES:
        return [source]
    system, path = _store(source)
    with _plain_errors(source):
        if not system.isdir(path):
            return [source]
        inside = sorted(str(one) for one in system.find(path) if PurePosixPath(one).suffix.lower() in SUFFIXES)
    root = path.rstrip("/")
    inside = [one for one in inside if not any(p.startswith(".") for p in one[len(root) :].split("/"))]
    if not inside:
        raise UserError(f"{source} holds no file to read; expected one of {' '.join(SUFFIXES)}")
    return [replace(source, url=system.unstrip_protocol(one)) for one in inside]


def records(source: Remote) -> Iterator[Read]:
    """Every record of one place.

    Raises:
        UserError: it cannot be opened or read, or the query is not a SELECT.
    """
    check(source)
    if source.scheme in STORES:
        return _stored(source)
    if source.scheme == "hub":
        return _hub(source)
    return _rows(source, _sqlite(source) if source.scheme == "sqlite" else _sql(source))


def fingerprint(source: Remote) -> list[tuple[str, int, str]]:
    """(name, bytes, sha256) of each file; of a database or data set, of its records as lines of JSON.

    Raises:
        UserError: see `records`.
    """
    found = []
    for place in places(source):
        digest, size = hashlib.sha256(), 0
        if place.scheme in STORES:
            system, path = _store(place)
            with _plain_errors(place), system.open(path, "rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
                    size += len(piece)
        else:
            for _, record in records(place):
                told = record.reason if isinstance(record, Problem) else record
                line = json.dumps(told, ensure_ascii=True, sort_keys=True, default=str).encode() + b"\n"
                digest.update(line)
                size += len(line)
        found.append((str(place), size, digest.hexdigest()))
    return found


def check(source: Remote) -> None:
    """What can be known without opening anything.

    Raises:
        UserError: an unknown scheme, a query where there is no database, a missing package or file, or --offline.
    """
    scheme, base = source.scheme, source.scheme.partition("+")[0]
    sql = base == "sqlite" or base in DRIVERS
    if not (scheme in STORES or scheme == "hub" or sql):
        known = ", ".join(f"{name}://" for name in ("sqlite", *DRIVERS, "hub", *STORES))
        raise UserError(f"{source} has the scheme {scheme!r}, which is not read; known: {known}")
    if source.query and not sql:
        raise UserError(f"{source}: a query is for databases, and {scheme}:// is none; leave it out")
    if source.password and (not sql or scheme == "sqlite"):
        raise UserError(f"{source}: a password is for a database server, and {scheme}:// is none; leave it out")
    hub_folder = scheme == "hub" and _hub_name(source)[1]
    if _offline() and base not in LOCAL and not hub_folder and scheme != "hub":
        raise UserError(f"{source} opens a network connection, and --offline is set; leave one of the two out")
    package = STORES.get(scheme) or ("datasets" if scheme == "hub" else "" if scheme == "sqlite" else "sqlalchemy")
    if package and find_spec(package) is None:
        raise UserError(
            f"opening {scheme}:// needs {package}; install it with: pip install 'bottega[{EXTRAS[package]}]'"
        )
    if scheme == "sqlite":
        _database(source)
    elif hub_folder and not Path(_hub_name(source)[0]).is_dir():
        raise UserError(f"there is no folder {_hub_name(source)[0]} to read as a data set; check the path")


def _database(source: Remote) -> Path:
    path = Path(source.url.partition(":///")[2] or "-")
    if not path.is_file():
        raise UserError(f"there is no database file {masked(str(path))}; write sqlite:///FILE, or sqlite:////FULL/PATH")
    return path


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


class _plain_errors:
    """Turn what libraries raise for a source that cannot be read into one line without secrets."""

    def __init__(self, source: Remote) -> None:
        self.source = source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        named = {f"{cls.__module__.partition('.')[0]}" for cls in type(error).__mro__} if error is not None else set()
        foreign = named & {"botocore", "google", "gcsfs", "sqlalchemy", "datasets", "pyarrow", "aiohttp"}
        if error is None or isinstance(error, UserError) or not (foreign or isinstance(error, OSError | ValueError)):
            return
        reason = masked(str(getattr(error, "orig", None) or error).strip().split("\n")[0]) or type(error).__name__
        if self.source.password:
            reason = reason.replace(self.source.password, "***")
        if isinstance(error, FileNotFoundError):
            reason = "there is nothing at this address"
        raise UserError(f"{self.source} cannot be read: {reason[:300]}; check the address and your access") from None


def _store(source: Remote) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    with _plain_errors(source):
        system, path = url_to_fs(source.url)
    return system, path


def _stored(source: Remote) -> Iterator[Read]:
    """A file of an object store, fetched into a temporary file and read like a local one; its places name the URL."""
    system, path = _store(source)
    suffix = PurePosixPath(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{source} has the suffix {masked(suffix)!r}; expected one of {' '.join(SUFFIXES)}")
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / f"fetched{suffix}"
        with _plain_errors(source):
            system.get_file(path, str(local))
        for where, record in read_file(local) if local.stat().st_size else ():
            here = where._replace(file=str(source))
            yield (
                here,
                record._replace(where=record.where._replace(file=str(source)))
                if isinstance(record, Problem)
                else record,
            )


def _hub_name(source: Remote) -> tuple[str, bool]:
    """The name of a data set, and whether it is a local folder."""
    parts = urlsplit(source.url)
    folder = not parts.netloc or parts.netloc == "."
    return (f"{parts.netloc}{parts.path}", folder)


def _hub(source: Remote) -> Iterator[Read]:
    """A data set of the Hub, or a folder laid out like one, streamed: `?split=`, `name=` and `revision=` as load_dataset has them."""
    import datasets

    name, folder = _hub_name(source)
    options = dict(parse_qsl(urlsplit(source.url).query))
    unknown = sorted(set(options) - {"split", "name", "revision"})
    if unknown:
        raise UserError(f"{source}: there is no option {unknown[0]!r}; write split, name or revision")
    split = options.pop("split", "train")
    streams = folder or not _offline()  # offline a data set comes from the library's own cache, which is not streamed
    with _plain_errors(source):
        found: Any = datasets.load_dataset(name, split=split, streaming=streams, **options)
        for number, record in enumerate(found, 1):
            yield Where(str(source), number), dict(record)


def _query(source: Remote, tables: Sequence[str]) -> str:
    """The SELECT to run: the query, or all of the table that it names, or of the only table.

    Raises:
        UserError: it begins with another word, names no table, or there are several tables and no query.
    """
    have = ", ".join(tables[:20]) or "no table"
    if not source.query:
        if len(tables) != 1:
            raise UserError(
                f"{source} has {have}; say which rows: write #TABLE or #SELECT ... behind it, or `query:` in a recipe"
            )
        return f'SELECT * FROM "{tables[0]}"'
    if _TABLE.fullmatch(source.query):
        if source.query not in tables and "." not in source.query:
            raise UserError(f"there is no table {source.query!r} in {masked(source.url)}; it has {have}")
        return f"SELECT * FROM {source.query}" if "." in source.query else f'SELECT * FROM "{source.query}"'
    begins = _SELECT.match(source.query)
    first = begins[1] if begins else ""
    if first.upper() not in ("SELECT", "WITH", "VALUES"):
        raise UserError(
            f"the query of {masked(source.url)} begins with {first or source.query[:1]!r}; only SELECT (or WITH ... SELECT) is run"
        )
    return source.query


def _rows(source: Remote, found: Iterator[Sequence[Any]]) -> Iterator[Read]:
    """Rows with their columns' names; the first of `found` is the names."""
    names = [str(name) for name in next(found)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"the query of {masked(source.url)} gives two columns named {twice[0]!r}; rename one with AS")
    for number, values in enumerate(found, 1):
        where = Where(str(source), number)
        bad = next((i for i, value in enumerate(values) if isinstance(value, _Undecodable)), None)
        if bad is not None:
            yield where, Problem(where._replace(column=names[bad]), f"{values[bad]} is not utf-8 text")
        else:
            record: Record = {name: _value(name, value) for name, value in zip(names, values)}
            yield where, record


def _value(name: str, value: Any) -> Any:
    """A value of a database as JSON has it; turns that lie in a column as JSON text come out as turns."""
    if isinstance(value, str):
        return column_value(name, value)
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value) if isinstance(value, UUID | timedelta) else value


class _Undecodable(str):
    """What is wrong with a text that is not UTF-8."""


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return _Undecodable(f"byte {raw[error.start]:#04x} at {error.start + 1}")


def _sqlite(source: Remote) -> Iterator[Sequence[Any]]:
    """Rows of an SQLite file by the standard library: opened read-only, and nothing but reading is authorised."""
    import sqlite3

    path = _database(source)
    allowed = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}

    def authorise(action: int, *_: Any) -> int:
        return sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY

    try:
        address = f"file:{quote(str(path.resolve()))}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as connection:
            connection.text_factory = _text
            connection.set_authorizer(authorise)
            names = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name")
            tables = [row[0] for row in names if not row[0].startswith("sqlite_")]
            cursor = connection.execute(_query(source, tables))
            yield [column[0] for column in cursor.description]
            yield from cursor
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise UserError(_sqlite_said(str(error), path, locals().get("tables", []))) from None


def _sqlite_said(said: str, path: Path, tables: Sequence[str]) -> str:
    have = ", ".join(tables[:20]) or "none"
    if said.startswith("no such table"):
        return f"there is no table {said.partition(': ')[2]!r} in {path}; it has {have}"
    if said.startswith("no such column"):
        return f"there is no column {said.partition(': ')[2]!r} in the tables of the query of {path}; check its name"
    if "one statement at a time" in said:
        return f"the query of {path} holds several statements; give one SELECT"
    if "not authorized" in said or "prohibited" in said or "readonly" in said:
        return f"the query of {path} does more than read ({said}); only SELECT is run"
    return f"{path} cannot be read: {said}; check the file and the query"


def _sql(source: Remote) -> Iterator[Sequence[Any]]:
    """Rows of any database that SQLAlchemy knows, in batches, in a transaction that is never committed."""
    import sqlalchemy

    base = source.scheme.partition("+")[0]
    try:
        with _plain_errors(source):
            address = sqlalchemy.make_url(source.url)
            if source.password:
                address = address.set(password=source.password)
            options: dict[str, Any] = {"postgresql_readonly": True} if base == "postgresql" else {}
            engine = sqlalchemy.create_engine(address)
            with closing(engine.connect()) as connection:
                connection = connection.execution_options(stream_results=True, yield_per=BATCH, **options)
                if base == "sqlite":
                    connection.exec_driver_sql("PRAGMA query_only = ON")
                looked = sqlalchemy.inspect(connection)
                result = connection.exec_driver_sql(
                    _query(source, [*looked.get_table_names(), *looked.get_view_names()])
                )
                yield list(result.keys())
                yield from result
                connection.rollback()
    except ImportError as error:
        driver = DRIVERS.get(base, error.name)
        raise UserError(f"opening {base}:// needs a driver; install it with: pip install {driver}") from None
