"""Routes for programs: a bearer token in, JSON out. A training run puts samples and polls ratings; a simulated annotator answers.

Left out: everything a page does besides. No cookie counts here, so no other site can make a browser use these routes.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from starlette.responses import JSONResponse, Response

from bottega.core.errors import UserError
from bottega.store import queue
from bottega.store.feedback import MAX_POLL, answer, since
from bottega.store.kinds import Settings
from bottega.studio.guard import Ask, Refused
from bottega.studio.pages import visible

MAX_DEPTH = 20


def _json(ask: Ask) -> dict[str, Any]:
    try:
        found = json.loads(ask.body, parse_constant=lambda word: (_ for _ in ()).throw(ValueError(word)))
    except (ValueError, RecursionError):
        raise UserError("the body is no JSON") from None
    if not isinstance(found, dict):
        raise UserError("the body is no JSON object")
    return found


def ask_next(ask: Ask) -> Response:
    """The next question: {item, kind, body}; item is null where nothing is left. Sources and gold are not in it."""
    of = visible(ask)
    asked = queue.ask(ask.db, of, ask.person)
    if asked is None:
        return JSONResponse({"item": None, "kind": of.kind, "body": None})
    body = {name: value for name, value in asked.body.items() if name != "meta"}
    if "answers" in body:
        body["answers"] = [{"text": one["text"]} for one in body["answers"]]
    return JSONResponse({"item": asked.item, "kind": of.kind, "body": body})


def take_answer(ask: Ask) -> Response:
    """{item, key, answer} -> {new}: false when this key was kept before."""
    sent = _json(ask)
    item, key = sent.get("item"), sent.get("key")
    if not isinstance(item, str) or not isinstance(key, str):
        raise UserError("item and key are texts")
    return JSONResponse({"new": answer(ask.db, visible(ask), ask.person, item, sent.get("answer") or {}, key)})


def take_items(ask: Ask) -> Response:
    """{items, priorities} -> {ids}: samples into the queue."""
    sent = _json(ask)
    items, weights = sent.get("items"), sent.get("priorities", [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UserError("items is a list of objects")
    if not isinstance(weights, list) or weights and len(weights) != len(items):
        raise UserError("priorities is a list with one number an item")
    if any(isinstance(w, bool) or not isinstance(w, int | float) or abs(w) > 1e9 for w in weights):
        raise UserError("a priority is a number from -1e9 to 1e9")
    return JSONResponse({"ids": queue.put(ask.db, visible(ask), items, priorities=weights)})


def open_project(ask: Ask) -> Response:
    """{kind, scale, per_item} -> the project's own: made if it is not there and this lead may see every project."""
    sent, name = _json(ask), ask.path["project"]
    known = {one.name for one in queue.projects(ask.db)}
    if not ask.person.sees(name) or (name not in known and "*" not in ask.person.projects):
        raise Refused(404, "There is no such project.")
    given = {key: sent[key] for key in ("scale", "per_item") if key in sent}
    if any(isinstance(value, bool) or not isinstance(value, int) for value in given.values()):
        raise UserError("scale and per_item are whole numbers")
    of = queue.open_project(ask.db, name, str(sent.get("kind")), None if name in known else Settings(**given))
    return JSONResponse({"kind": of.kind, "scale": of.settings.scale, "per_item": of.settings.per_item})


def ratings(ask: Ask) -> Response:
    """?since=CURSOR&limit=N -> {events, cursor}: what people said after it, at most N events (and 1,000)."""
    cursor, most = ask.query.get("since", "0"), ask.query.get("limit", str(MAX_POLL))
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise Refused(400, "since is a whole number, the cursor of the answer before.")
    if not most.isascii() or not most.isdigit() or not 1 <= int(most[:8]) <= MAX_POLL:
        raise Refused(400, f"limit is a whole number from 1 to {MAX_POLL}.")
    events, now = since(ask.db, visible(ask), int(cursor), limit=int(most))
    return JSONResponse({"events": [asdict(event) for event in events], "cursor": now})
