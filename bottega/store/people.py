"""Who may do what: annotators with tokens, their sessions in a browser, and the projects that each one sees.

Left out: passwords (a token of 256 random bits is all there is) and what people said (feedback.py). Tokens and sessions are kept as
hashes only: who reads the database cannot enter with what it holds.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bottega.core.errors import UserError
from bottega.store.database import Database, Row

ROLES = ("annotator", "lead")
"""An annotator sees items and their own answers; a lead also sees what others said, agreement, people and the export."""
SESSION_S = 12 * 3600
MAX_PEOPLE = 10_000
_NAME = re.compile(r"[\w.@+-][\w .@+-]{0,63}")
_COLUMNS = "id, name, role, projects, revoked"


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotator:
    """A person (or a program that stands in for one). projects: names, or ("*",) for all."""

    id: str
    name: str
    role: str
    projects: tuple[str, ...]
    revoked: bool = False

    @property
    def leads(self) -> bool:
        return self.role == "lead"

    def sees(self, project: str) -> bool:
        """Whether this person may know that the project is there."""
        return project in self.projects or "*" in self.projects


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A browser that entered; `form` is the secret that each of its forms carries."""

    who: Annotator
    form: str


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _annotator(row: Row) -> Annotator:
    return Annotator(
        id=row[0], name=row[1], role=row[2], projects=tuple(json.loads(row[3])), revoked=row[4] is not None
    )


def add(db: Database, name: str, *, role: str = "annotator", projects: Sequence[str] = ("*",)) -> tuple[Annotator, str]:
    """A new annotator and their token, which is shown this once.

    Raises:
        UserError: the name is taken or cannot be one; an unknown role.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} is no name; use 1 to 64 letters, digits, spaces and . @ + - _")
    if role not in ROLES:
        raise UserError(f"{role!r} is no role; use {' or '.join(ROLES)}")
    token, who = secrets.token_urlsafe(32), secrets.token_hex(8)
    with db.write() as run:
        if run("SELECT 1 FROM annotators WHERE name = ?", name):
            raise UserError(f"there is already an annotator {name!r}; choose another name, or renew their token")
        if run("SELECT COUNT(*) FROM annotators")[0][0] >= MAX_PEOPLE:
            raise UserError(f"there are {MAX_PEOPLE:,} annotators, which is the limit; use another store")
        run(
            "INSERT INTO annotators (id, name, role, projects, token, created) VALUES (?, ?, ?, ?, ?, ?)",
            who,
            name,
            role,
            json.dumps(list(projects)),
            _hash(token),
            time.time(),
        )
    return Annotator(id=who, name=name, role=role, projects=tuple(projects)), token


def renew(db: Database, name: str) -> str:
    """A new token for an annotator; the old one and all their sessions end.

    Raises:
        UserError: nobody has this name.
    """
    token = secrets.token_urlsafe(32)
    with db.write() as run:
        found = run("UPDATE annotators SET token = ?, revoked = NULL WHERE name = ? RETURNING id", _hash(token), name)
        if not found:
            raise UserError(f"there is no annotator {name!r}")
        run("DELETE FROM sessions WHERE annotator = ?", found[0][0])
    return token


def revoke(db: Database, who: str) -> None:
    """End an annotator's token and sessions by their id; what they said stays."""
    with db.write() as run:
        run("UPDATE annotators SET revoked = ? WHERE id = ?", time.time(), who)
        run("DELETE FROM sessions WHERE annotator = ?", who)
        run("DELETE FROM leases WHERE annotator = ?", who)


def everybody(db: Database) -> list[Annotator]:
    """All annotators by name."""
    return [_annotator(row) for row in db.read(f"SELECT {_COLUMNS} FROM annotators ORDER BY name")]


def by_token(db: Database, token: str) -> Annotator | None:
    """Whose token this is; None for a wrong or revoked one."""
    rows = db.read(f"SELECT {_COLUMNS} FROM annotators WHERE token = ? AND revoked IS NULL", _hash(token))
    return _annotator(rows[0]) if rows else None


def enter(db: Database, token: str) -> str | None:
    """A session for whoever holds this token: the cookie's value; None for a wrong token."""
    who = by_token(db, token)
    if who is None:
        return None
    cookie, now = secrets.token_urlsafe(32), time.time()
    with db.write() as run:
        run("DELETE FROM sessions WHERE expires < ?", now)
        run(
            "INSERT INTO sessions VALUES (?, ?, ?, ?)",
            _hash(cookie),
            who.id,
            secrets.token_urlsafe(32),
            now + SESSION_S,
        )
    return cookie


def session(db: Database, cookie: str) -> Session | None:
    """The session of a cookie; None if it ended."""
    rows = db.read(
        "SELECT a.id, a.name, a.role, a.projects, a.revoked, s.form FROM sessions s JOIN annotators a ON a.id = s.annotator "
        "WHERE s.hash = ? AND s.expires > ? AND a.revoked IS NULL",
        _hash(cookie),
        time.time(),
    )
    return Session(who=_annotator(rows[0]), form=rows[0][5]) if rows else None


def leave(db: Database, cookie: str) -> None:
    """End a session."""
    with db.write() as run:
        run("DELETE FROM sessions WHERE hash = ?", _hash(cookie))
