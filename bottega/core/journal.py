"""Answers from outside, kept in SQLite the moment they come, so that a run that was killed goes on without asking twice.

Left out: the questions themselves (a key is their hash), failures (they are asked again), and sharing between machines.

An answer is keyed by everything it depends on: model, revision, prompt, sampling and seed. Each is committed before its
caller sees it (write-ahead log, synced): a process that dies at any moment has either no answer or the whole of it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bottega.core.errors import DiskFull, Unsafe, UserError

SCHEMA = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answers (
  key BLOB PRIMARY KEY, text TEXT NOT NULL, finish TEXT NOT NULL,
  prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL
) WITHOUT ROWID;
"""


class Answer(NamedTuple):
    """What came back for one question, and what it took in tokens."""

    text: str
    finish: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Spent(NamedTuple):
    """What all answers of a journal took."""

    calls: int
    prompt_tokens: int
    completion_tokens: int


def key(model: str, revision: str, prompt: Any, sampling: Mapping[str, Any], seed: int) -> bytes:
    """The name of a question: sha256 (32 bytes) of what its answer depends on; `prompt` and `sampling` are JSON values."""
    parts = [model, revision, prompt, dict(sampling), seed]
    return hashlib.sha256(
        json.dumps(parts, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass")
    ).digest()


class Journal:
    """The answers of one folder; one process at a time writes it (`rundir.lock`). Use it in a `with`."""

    def __init__(self, path: str | Path) -> None:
        """Open the journal, or begin one.

        Raises:
            Unsafe: the file is damaged, or was written by a later version.
        """
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._plainly():
            self._db = sqlite3.connect(self.path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_TABLES)
            if self._db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise Unsafe(f"{self.path} is damaged; restore it, or remove it and ask again")
        found = int(self.fact("schema", str(SCHEMA)))
        if found > SCHEMA:
            raise Unsafe(f"{self.path} has schema {found}, this version knows {SCHEMA}; use the version that wrote it")

    def get(self, name: bytes) -> Answer | None:
        """The answer to a question, or None."""
        with self._plainly():
            row = self._db.execute(
                "SELECT text, finish, prompt_tokens, completion_tokens FROM answers WHERE key = ?", (name,)
            ).fetchone()
        return Answer(*row) if row else None

    def put(self, name: bytes, answer: Answer) -> None:
        """Keep an answer; when this returns it survives the process and the machine."""
        text = answer.text.encode("utf-8", "replace").decode()
        with self._plainly():
            self._db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", (name, text, *answer[1:]))

    def spent(self) -> Spent:
        """The sums over all answers."""
        with self._plainly():
            row = self._db.execute(
                "SELECT count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0) FROM answers"
            ).fetchone()
        return Spent(*row)

    def fact(self, name: str, default: str) -> str:
        """A value that is written down once (when the work began): the one that is there, else `default`, kept."""
        with self._plainly():
            self._db.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, default))
            return str(self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()[0])

    def close(self) -> None:
        """Close the file; its write-ahead log is folded in."""
        with self._plainly():
            self._db.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """SQLite's errors in one sentence."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if (
                "full" in str(error)
                or "I/O" in str(error)
                or "readonly" in str(error)
                or "unable to open" in str(error)
            ):
                raise DiskFull(f"{self.path}: {error}; make room, or choose a folder that you can write") from error
            if "locked" in str(error):
                raise UserError(f"{self.path} is held by another process; wait until it ends") from error
            raise
        except sqlite3.DatabaseError as error:
            raise Unsafe(f"{self.path} is damaged ({error}); restore it, or remove it and ask again") from error
