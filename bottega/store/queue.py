"""What people are asked next: projects, their items, and for each person the next item that is worth their time.

Left out: what they answer (feedback.py) and which items teach most (grade/teach.py gives the numbers; `prioritise` takes them).

The order is: highest priority first, then oldest. An item that somebody else has on the screen is lent to them for some minutes,
so that two people do not answer it where one is enough. About one question in `gold_every` has a known answer; it looks like any other.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bottega.core.errors import Mismatch, UserError
from bottega.store.database import Cursor, Database
from bottega.store.kinds import Json, Settings, check_answer, check_item, check_settings
from bottega.store.people import Annotator

LEASE_S = 900.0
MAX_ITEMS = 10_000
"""Items in one call of `put`."""
_PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """A set of questions of one kind."""

    name: str
    kind: str
    settings: Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """An item on a person's screen. `before`: what this person said of it and took back; number: their answers so far."""

    item: str
    body: Json
    number: int
    before: Json | None = None
    swapped: bool = False


def open_project(db: Database, name: str, kind: str, settings: Settings | None = None) -> Project:
    """The project of this name, made if it is not there; with `settings` an old one takes them over.

    Raises:
        UserError: no name, no such kind, a bad setting. Mismatch: the project is there with another kind.
    """
    if not _PROJECT.fullmatch(name):
        raise UserError(f"{name!r} is no project's name; use 1 to 40 of a-z, 0-9, - and _")
    with db.write() as run:
        rows = run("SELECT kind, settings FROM projects WHERE name = ?", name)
        if rows and rows[0][0] != kind:
            raise Mismatch(f"the project {name} asks for {rows[0][0]}, not {kind}; choose another name")
        if rows and settings is None:
            return Project(name=name, kind=kind, settings=Settings.loads(rows[0][1]))
        settings = settings or Settings()
        check_settings(kind, settings)
        run(
            "INSERT INTO projects VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET settings = excluded.settings",
            name,
            kind,
            settings.dumps(),
            time.time(),
        )
    return Project(name=name, kind=kind, settings=settings)


def projects(db: Database, who: Annotator | None = None) -> list[Project]:
    """All projects by name, or those that `who` may see."""
    found = [
        Project(name=name, kind=kind, settings=Settings.loads(settings))
        for name, kind, settings in db.read("SELECT name, kind, settings FROM projects ORDER BY name")
    ]
    return [project for project in found if who is None or who.sees(project.name)]


def project(db: Database, name: str) -> Project:
    """One project.

    Raises:
        UserError: there is none of this name.
    """
    found = next((one for one in projects(db) if one.name == name), None)
    if found is None:
        names = ", ".join(one.name for one in projects(db)[:10])
        raise UserError(f"there is no project {name!r}; the store has {names or 'none'}")
    return found


def put(
    db: Database, to: Project, items: Sequence[Mapping[str, Any]], *, priorities: Sequence[float] = ()
) -> list[str]:
    """Put items into the queue; what is there already is not put twice. Returns their ids, in order.

    Args:
        items: as kinds.py says; `id` names one (else its content does), `gold` is its known answer.
        priorities: one a item, higher first; default 0. An item that is there takes its new one over.

    Raises:
        UserError: an item cannot be asked; none is put. Mismatch: an id was used before for other content.
    """
    if len(items) > MAX_ITEMS:
        raise UserError(f"{len(items):,} items at once; at most {MAX_ITEMS:,} go into one call")
    rows = []
    for number, item in enumerate(items):
        try:
            body = check_item(to.kind, to.settings, item)
            gold = None if item.get("gold") is None else check_answer(to.kind, to.settings, body, item["gold"])
        except UserError as error:
            raise UserError(f"item {number + 1}: {error}") from None
        content = json.dumps(body, sort_keys=True)
        own = item.get("id")
        name = json.dumps([to.name, content if own is None else str(own), gold is not None])
        known = None if gold is None else json.dumps(gold, sort_keys=True)
        rows.append((hashlib.sha256(name.encode()).hexdigest()[:32], content, known, own))
    with db.write() as run:
        for number, (key, content, known, own) in enumerate(rows):
            weight = float(priorities[number]) if priorities else 0.0
            run(
                "INSERT INTO items (id, project, body, gold, priority, created) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO NOTHING",
                *(key, to.name, content, known, weight, time.time()),
            )
            if run("SELECT body FROM items WHERE id = ?", key)[0][0] != content:
                raise Mismatch(f"item {number + 1}: the id {own!r} was used before for another text; choose a new id")
            if priorities:
                run("UPDATE items SET priority = ? WHERE id = ?", weight, key)
    return [row[0] for row in rows]


def prioritise(db: Database, priorities: Mapping[str, float]) -> None:
    """New priorities by item id: what a refreshed reward model finds hard comes first.

    Raises:
        UserError: a priority is not finite, or there is no such item.
    """
    with db.write() as run:
        for item, weight in priorities.items():
            if not math.isfinite(weight):
                raise UserError(f"the priority of item {item} is {weight}; a finite number is needed")
            if not run("UPDATE items SET priority = ? WHERE id = ? RETURNING seq", float(weight), item):
                raise UserError(f"there is no item {item}")


def open_items(db: Database, of: Project) -> list[tuple[str, Json]]:
    """The items without gold that still need an answer: (id, body), in the order of the queue."""
    rows = db.read(
        "SELECT id, body FROM items WHERE project = ? AND gold IS NULL AND taken < ? ORDER BY priority DESC, seq",
        of.name,
        of.settings.per_item,
    )
    return [(item, json.loads(body)) for item, body in rows]


def is_swapped(item: str, who: str) -> bool:
    """Whether this person sees the second answer on the left: half of all (item, person), the same at every look."""
    return hashlib.sha256(f"{item}/{who}".encode()).digest()[0] % 2 == 1


def ask(db: Database, of: Project, who: Annotator) -> Asked | None:
    """The next item for this person, lent to them; None when nothing is left for them."""
    now = time.time()
    with db.write() as run:
        number = run(
            "SELECT COUNT(*) FROM answers a JOIN items i ON i.id = a.item "
            "WHERE a.annotator = ? AND a.kind = 'answer' AND i.project = ?",
            *(who.id, of.name),
        )[0][0]
        found = _lent(run, of, who, now) or _gold(run, of, who, number) or _next(run, of, who, now)
        if found is None:
            return None
        item = found
        run(
            "INSERT INTO leases VALUES (?, ?, ?, ?) ON CONFLICT (annotator, project) DO UPDATE SET item = excluded.item, "
            "until = excluded.until",
            *(who.id, of.name, item, now + LEASE_S),
        )
        body = run("SELECT body FROM items WHERE id = ?", item)[0][0]
        said = run(
            "SELECT body FROM events WHERE item = ? AND annotator = ? AND kind = 'answer' ORDER BY seq DESC LIMIT 1",
            *(item, who.id),
        )
    return Asked(
        item=item,
        body=json.loads(body),
        number=number,
        before=json.loads(said[0][0]) if said else None,
        swapped=is_swapped(item, who.id),
    )


def _one(rows: Iterable[Sequence[Any]]) -> str | None:
    return next((str(row[0]) for row in rows), None)


_UNSEEN = "NOT EXISTS (SELECT 1 FROM answers a WHERE a.item = i.id AND a.annotator = ?)"


def _lent(run: Cursor, of: Project, who: Annotator, now: float) -> str | None:
    """What is on their screen already."""
    return _one(
        run(
            "SELECT l.item FROM leases l JOIN items i ON i.id = l.item "
            f"WHERE l.annotator = ? AND l.project = ? AND l.until > ? AND {_UNSEEN}",
            *(who.id, of.name, now, who.id),
        )
    )


def _gold(run: Cursor, of: Project, who: Annotator, number: int) -> str | None:
    """A question with a known answer, at places that nobody can count out."""
    every = of.settings.gold_every
    draw = hashlib.sha256(f"{of.name}/{who.id}/{number}".encode()).digest()
    if not every or int.from_bytes(draw[:4], "big") % every:
        return None
    return _one(
        run(
            f"SELECT i.id FROM items i WHERE i.project = ? AND i.gold IS NOT NULL AND {_UNSEEN} ORDER BY i.seq LIMIT 1",
            *(of.name, who.id),
        )
    )


def _next(run: Cursor, of: Project, who: Annotator, now: float) -> str | None:
    return _one(
        run(
            "SELECT i.id FROM items i WHERE i.project = ? AND i.gold IS NULL AND i.taken + "
            "(SELECT COUNT(*) FROM leases l WHERE l.item = i.id AND l.annotator <> ? AND l.until > ?) < ? "
            f"AND {_UNSEEN} ORDER BY i.priority DESC, i.seq LIMIT 1",
            *(of.name, who.id, now, of.settings.per_item, who.id),
        )
    )
