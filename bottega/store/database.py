"""The database behind the store: one SQLite file by default, PostgreSQL by URL, and one dialect of SQL for both.

Left out: the tables (schema.py) and what they mean. An object-relational layer was left out too: a dozen statements do not need one.

A write is one transaction, and writes come one after the other (SQLite: BEGIN IMMEDIATE behind a lock of this process; PostgreSQL: an
advisory lock), so that numbers given in order are seen in order: who polls "everything after 41" misses nothing. A write that
returned is on the disk (WAL with synchronous=FULL; PostgreSQL's own default).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from bottega.core.errors import DiskFull, FolderInUse, Unsafe, UserError

SEATS = 16
"""Connections at a time; who comes later waits. PostgreSQL allows 100 by default, for all its clients together."""
WAIT_S = 60.0
_LOCK_KEY = 7_362_114
"""The number of the advisory lock that orders writes in PostgreSQL."""

Row = tuple[Any, ...]


class Cursor(Protocol):
    """Statements within one transaction."""

    def __call__(self, sql: str, *values: Any) -> list[Row]:
        """Run a statement with `?` for values; returns its rows."""


class Database:
    """Connections to one database, lent one at a time.

    Args:
        url: a path or `sqlite:///path` (created with mode 0600), or `postgresql://...`; its password may come from PGPASSWORD.
        wait_s: the longest wait for a lock that another process holds.
    """

    def __init__(self, url: str | os.PathLike[str], *, wait_s: float = WAIT_S) -> None:
        name = os.fspath(url)
        self.is_postgres = name.startswith(("postgresql://", "postgres://"))
        self.name = _without_password(name)
        self.wait_s = wait_s
        self._open: Callable[[], Any] = _postgres(name, wait_s) if self.is_postgres else _sqlite(name, wait_s)
        self._idle: list[Any] = []
        self._seats = threading.BoundedSemaphore(SEATS)
        self._guard = threading.Lock()
        self._turn = threading.Lock()

    @contextmanager
    def _lent(self) -> Iterator[Any]:
        with self._seats:
            with self._guard:
                connection = self._idle.pop() if self._idle else None
            connection = connection or self._open()
            try:
                yield connection
            except BaseException:
                connection.close()  # whatever state it is in ends here
                raise
            with self._guard:
                self._idle.append(connection)

    def _run(self, connection: Any, sql: str, values: Sequence[Any]) -> list[Row]:
        cursor = connection.execute(sql.replace("?", "%s") if self.is_postgres else sql, values)
        return cursor.fetchall() if cursor.description else []

    def read(self, sql: str, *values: Any) -> list[Row]:
        """The rows of one statement, as they stand now."""
        with _refusals(self), self._lent() as connection:
            return self._run(connection, sql, values)

    @contextmanager
    def write(self) -> Iterator[Cursor]:
        """One transaction: all of it is on the disk when the block ends, or none of it happened."""
        with _refusals(self), self._lent() as connection:
            if self.is_postgres:
                with connection.transaction():
                    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
                    yield lambda sql, *values: self._run(connection, sql, values)
                return
            with self._turn:  # threads of this process queue here, in order; other processes at BEGIN IMMEDIATE
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield lambda sql, *values: self._run(connection, sql, values)
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._guard:
            while self._idle:
                self._idle.pop().close()


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":***@") if "://" in url and parts.password else url


def _sqlite(name: str, wait_s: float) -> Callable[[], sqlite3.Connection]:
    """Opens a SQLite file that only its owner may read; journal and index files take over its mode."""
    if "://" in name.removeprefix("sqlite:///"):
        raise UserError(f"{name} is no store; give a file, sqlite:///FILE or postgresql://USER@HOST/NAME")
    path = Path(name.removeprefix("sqlite:///"))
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file in it, such as {path / 'feedback.db'}")
    if not path.parent.is_dir():
        path.parent.mkdir(mode=0o700, parents=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise DiskFull(f"{path} cannot be written ({error.strerror}); name another file with --store") from None

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=wait_s, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    return connect


def _postgres(url: str, wait_s: float) -> Callable[[], Any]:
    try:
        import psycopg
    except ImportError:
        raise UserError("a store in PostgreSQL needs psycopg; install bottega[postgres], or name a file") from None
    limit = f"-c lock_timeout={int(1000 * wait_s)}"
    return lambda: psycopg.connect(url, autocommit=True, connect_timeout=max(1, min(10, int(wait_s))), options=limit)


@contextmanager
def _refusals(database: Database) -> Iterator[None]:
    """What a database says of a disk, a lock or a damaged file, in one sentence."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorname", "")
        if code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            raise Unsafe(f"{database.name} is damaged or no SQLite file ({error}); restore a backup") from None
        if code.startswith(("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR")):
            raise DiskFull(f"{database.name} cannot be written ({error}); free space or name another file") from None
        if code.startswith("SQLITE_BUSY"):
            raise FolderInUse(
                f"{database.name} was locked by another process for {database.wait_s:g} s; try again"
            ) from None
        raise
    except Exception as error:
        if database.is_postgres and type(error).__name__ == "LockNotAvailable":
            raise FolderInUse(
                f"{database.name} was locked by another process for {database.wait_s:g} s; try again"
            ) from None
        if database.is_postgres and type(error).__name__ in ("OperationalError", "ConnectionTimeout"):
            said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"{database.name} does not answer ({said}); check the URL and that the server runs"
            ) from None
        raise
