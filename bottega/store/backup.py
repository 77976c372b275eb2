"""A backup of a whole store as JSON lines, and its way back into SQLite or PostgreSQL.

Left out: sessions and leases (people enter again) and incremental backups. The first line says what it is, the last has the sha256
of all before it; a backup that is cut or changed is refused whole. Tokens are in it as hashes: everybody's token works after a restore.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from bottega.core.errors import Mismatch, Unsafe
from bottega.core.rundir import atomic_write
from bottega.store.database import Database
from bottega.store.schema import MIGRATIONS

MARK = "bottega feedback backup"
TABLES = {
    "projects": ("name", "kind", "settings", "created"),
    "annotators": ("id", "name", "role", "projects", "token", "created", "revoked"),
    "items": ("seq", "id", "project", "body", "gold", "priority", "taken", "created"),
    "events": ("seq", "id", "item", "annotator", "kind", "body", "created"),
    "answers": ("item", "annotator", "event", "kind"),
}
"""Table -> columns, parents before children."""


def backup(db: Database, path: str | os.PathLike[str]) -> dict[str, int]:
    """Write everything to `path` (mode 0600), as it stands at one moment; returns the rows of each table."""
    lines = [json.dumps({"what": MARK, "version": len(MIGRATIONS)})]
    counts = {}
    with db.write() as run:  # a write, so that nobody adds a row between two tables
        for table, columns in TABLES.items():
            rows = run(f"SELECT {', '.join(columns)} FROM {table} ORDER BY {columns[0]}")
            counts[table] = len(rows)
            lines += [json.dumps([table, *row]) for row in rows]
    body = "\n".join(lines) + "\n"
    atomic_write(path, body + json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest()}) + "\n", mode=0o600)
    return counts


def is_backup(path: str | os.PathLike[str]) -> bool:
    """Whether the file says that it is one."""
    with open(path, "rb") as file:
        return MARK.encode() in file.readline(200)


def restore(db: Database, path: str | os.PathLike[str]) -> dict[str, int]:
    """Bring a backup back into an empty store; returns the rows of each table.

    Raises:
        Unsafe: the file is cut or changed. Mismatch: the store is not empty, or a newer bottega wrote the file.
    """
    text = Path(path).read_bytes().decode("utf-8", "replace")
    body, _, last = text.rstrip("\n").rpartition("\n")
    if last != json.dumps({"sha256": hashlib.sha256((body + "\n").encode()).hexdigest()}):
        raise Unsafe(f"{path} is cut or was changed (its sha256 does not fit); take another backup")
    head, *lines = body.split("\n")
    version = json.loads(head)["version"]
    if version > len(MIGRATIONS):
        raise Mismatch(f"{path} has version {version}, this bottega knows up to {len(MIGRATIONS)}; update bottega")
    counts = dict.fromkeys(TABLES, 0)
    with db.write() as run:
        for table in TABLES:
            if run(f"SELECT 1 FROM {table} LIMIT 1"):
                raise Mismatch(f"the store {db.name} is not empty ({table}); restore into a new one")
        for line in lines:
            table, *row = json.loads(line)
            columns = TABLES[table]
            run(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})", *row)
            counts[table] += 1
        _go_on_counting(db, run)
    return counts


def _go_on_counting(db: Database, run: Any) -> None:
    """PostgreSQL's counters do not follow rows that bring their own numbers; SQLite's do."""
    if db.is_postgres:
        for table in ("items", "events"):
            run(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'seq'), COALESCE(MAX(seq), 0) + 1, false) FROM {table}"
            )
