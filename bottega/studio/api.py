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
from bottega.store.feedback import answer, since
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


def ratings(ask: Ask) -> Response:
    """?since=CURSOR -> {events, cursor}: what people said after it."""
    cursor = ask.query.get("since", "0")
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise Refused(400, "since is a whole number, the cursor of the answer before.")
    events, now = since(ask.db, visible(ask), int(cursor))
    return JSONResponse({"events": [asdict(event) for event in events], "cursor": now})
