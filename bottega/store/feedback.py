"""What people said: events that are only ever added, each once, and what stands after them.

Left out: who may say it (the caller knows the person) and what it is turned into (rows.py).

Every event has an id that the caller chose before sending it, so that sending it twice (a double click, a retry after a lost reply) is
one row. An `undo` is an event too; nothing is taken away.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bottega.core.errors import Mismatch, UserError
from bottega.store.database import Cursor, Database
from bottega.store.kinds import Json, check_answer
from bottega.store.people import Annotator
from bottega.store.queue import LEASE_S, Project

_KEY = re.compile(r"[A-Za-z0-9_-]{8,64}")
MAX_POLL = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What one person says of one item, as it stands. seq: its event's number. gold: the known answer, where there is one."""

    seq: int
    item: str
    body: Json
    annotator: str
    answer: Json
    gold: Json | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One line of the log: kind is `answer`, `skip` or `undo`; body is the answer, the reason, or {"undoes": event id}."""

    seq: int
    id: str
    item: str
    annotator: str
    kind: str
    body: Json
    item_body: Json


def _record(run: Cursor, of: Project, who: Annotator, item: str, kind: str, body: Mapping[str, Any], key: str) -> bool:
    """Add an event; False if it was there. The item must be of the project."""
    if not _KEY.fullmatch(key):
        raise UserError(f"{key[:80]!r} is no key of an event; use 8 to 64 of letters, digits, - and _")
    rows = run("SELECT body FROM items WHERE id = ? AND project = ?", item, of.name)
    if not rows:
        raise UserError(f"there is no item {item[:80]!r} in the project {of.name}; its answers cannot be kept")
    made = check_answer(of.kind, of.settings, json.loads(rows[0][0]), body) if kind == "answer" else dict(body)
    text = json.dumps(made, sort_keys=True)
    added = run(
        "INSERT INTO events (id, item, annotator, kind, body, created) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO NOTHING RETURNING seq",
        *(key, item, who.id, kind, text, time.time()),
    )
    if added:
        return True
    there = run("SELECT item, annotator, kind, body FROM events WHERE id = ?", key)[0]
    if there[:3] != (item, who.id, kind) or _but_seconds(there[3]) != _but_seconds(text):
        raise Mismatch(f"the event {key} is already there with other content; send a new one with a new key")
    return False


def _but_seconds(text: str) -> Json:
    """The second click of a double click comes a moment later: it says the same."""
    return {name: value for name, value in json.loads(text).items() if name != "seconds"}


def answer(db: Database, of: Project, who: Annotator, item: str, given: Mapping[str, Any], key: str) -> bool:
    """Keep what `who` says of an item; True if this is news, False if the event `key` was kept before.

    A later answer to the same item takes the place of the earlier one; both stay in the log.

    Raises:
        UserError: no such item in this project, no such choice, no key. Mismatch: `key` was used for something else.
    """
    with db.write() as run:
        if not _record(run, of, who, item, "answer", given, key):
            return False
        _stands(run, who, item, key, "answer")
    return True


def skip(db: Database, of: Project, who: Annotator, item: str, key: str, *, reason: str = "") -> bool:
    """`who` does not want to answer this item; it is not shown to them again. Raises and returns as `answer`."""
    with db.write() as run:
        if not _record(run, of, who, item, "skip", {"reason": reason[:1000]}, key):
            return False
        _stands(run, who, item, key, "skip")
    return True


def _stands(run: Cursor, who: Annotator, item: str, event: str, kind: str) -> None:
    """From here on `event` is what this person says of the item."""
    run(
        "INSERT INTO answers VALUES (?, ?, ?, ?) ON CONFLICT (item, annotator) DO UPDATE SET event = excluded.event, "
        "kind = excluded.kind",
        *(item, who.id, event, kind),
    )
    _settle(run, who, item)


def _settle(run: Cursor, who: Annotator, item: str) -> None:
    run("DELETE FROM leases WHERE item = ? AND annotator = ?", item, who.id)
    run(
        "UPDATE items SET taken = (SELECT COUNT(*) FROM answers WHERE item = ? AND kind = 'answer') WHERE id = ?",
        item,
        item,
    )


def undo(db: Database, of: Project, who: Annotator, key: str) -> str | None:
    """Take back the newest answer or skip of `who`; the item is theirs again. Returns it; None if there is nothing to take back."""
    with db.write() as run:
        seen = run("SELECT item FROM events WHERE id = ? AND annotator = ? AND kind = 'undo'", key, who.id)
        if seen:
            return str(seen[0][0])
        last = run(
            "SELECT e.id, e.item FROM answers a JOIN events e ON e.id = a.event JOIN items i ON i.id = a.item "
            "WHERE a.annotator = ? AND i.project = ? ORDER BY e.seq DESC LIMIT 1",
            *(who.id, of.name),
        )
        if not last:
            return None
        event, item = last[0]
        _record(run, of, who, item, "undo", {"undoes": event}, key)
        run("DELETE FROM answers WHERE item = ? AND annotator = ?", item, who.id)
        _settle(run, who, item)
        run(
            "INSERT INTO leases VALUES (?, ?, ?, ?) ON CONFLICT (annotator, project) DO UPDATE SET item = excluded.item, "
            "until = excluded.until",
            *(who.id, of.name, item, time.time() + LEASE_S),
        )
    return str(item)


def judgements(db: Database, of: Project, who: Annotator | None = None) -> list[Judgement]:
    """Everything that stands in a project, in the order it was said; of one person if `who` is given."""
    rows = db.read(
        "SELECT e.seq, a.item, i.body, a.annotator, e.body, i.gold FROM answers a JOIN events e ON e.id = a.event "
        "JOIN items i ON i.id = a.item WHERE i.project = ? AND a.kind = 'answer' ORDER BY e.seq",
        of.name,
    )
    return [
        Judgement(
            seq=seq,
            item=item,
            body=json.loads(body),
            annotator=annotator,
            answer=json.loads(said),
            gold=json.loads(gold) if gold else None,
        )
        for seq, item, body, annotator, said, gold in rows
        if who is None or annotator == who.id
    ]


def since(db: Database, of: Project, cursor: int = 0, *, limit: int = MAX_POLL) -> tuple[list[Event], int]:
    """Events after `cursor`, oldest first, and the cursor to ask with next time: who keeps it misses nothing and sees nothing twice.

    Events of gold questions are among them; undo events name what they undo.
    """
    rows = db.read(
        "SELECT e.seq, e.id, e.item, e.annotator, e.kind, e.body, i.body FROM events e JOIN items i ON i.id = e.item "
        "WHERE i.project = ? AND e.seq > ? ORDER BY e.seq LIMIT ?",
        *(of.name, cursor, max(1, min(limit, MAX_POLL))),
    )
    events = [
        Event(
            seq=seq,
            id=event,
            item=item,
            annotator=annotator,
            kind=kind,
            body=json.loads(body),
            item_body=json.loads(item_body),
        )
        for seq, event, item, annotator, kind, body, item_body in rows
    ]
    return events, events[-1].seq if events else cursor


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a project is. items: without gold; done: with as many answers as wanted; mine: answers of one person."""

    items: int
    done: int
    answers: int
    skips: int
    mine: int


def progress(db: Database, of: Project, who: Annotator | None = None) -> Progress:
    """Counts of a project, and of one person's share in it."""
    items, done = db.read(
        "SELECT COUNT(*), COALESCE(SUM(CASE WHEN taken >= ? THEN 1 ELSE 0 END), 0) FROM items "
        "WHERE project = ? AND gold IS NULL",
        *(of.settings.per_item, of.name),
    )[0]
    counts = {
        (annotator, kind): number
        for annotator, kind, number in db.read(
            "SELECT a.annotator, a.kind, COUNT(*) FROM answers a JOIN items i ON i.id = a.item WHERE i.project = ? "
            "GROUP BY a.annotator, a.kind",
            of.name,
        )
    }
    return Progress(
        items=items,
        done=int(done),
        answers=sum(number for (_, kind), number in counts.items() if kind == "answer"),
        skips=sum(number for (_, kind), number in counts.items() if kind == "skip"),
        mine=counts.get((who.id, "answer"), 0) if who else 0,
    )
