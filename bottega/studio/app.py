"""The application: one table of routes, each with who may come in.

Left out: the handlers (pages.py, lead.py, api.py), the checks before them (guard.py), the process (serve.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from bottega.store.database import Database
from bottega.studio import api, lead, pages
from bottega.studio.guard import Ask, Handler, Headers, Refused, guarded
from bottega.studio.render import HERE

ASSETS = {"studio.css": "text/css; charset=utf-8", "studio.js": "text/javascript; charset=utf-8"}


class Way(NamedTuple):
    """A route: method, path, handler, and who may come: `all`, `known`, `lead`; `program` and `lead program` by bearer token."""

    method: str
    path: str
    handler: Handler
    who: str


def asset(ask: Ask) -> Response:
    """The style sheet and the script: ours, from this machine."""
    name = ask.path["name"]
    if name not in ASSETS:
        raise Refused(404, "There is no such file.")
    return Response((HERE / "assets" / name).read_bytes(), media_type=ASSETS[name])


ROUTES = (
    Way("GET", "/assets/{name}", asset, "all"),
    Way("GET", "/enter", pages.entrance, "all"),
    Way("POST", "/enter", pages.enter, "all"),
    Way("GET", "/", pages.home, "known"),
    Way("POST", "/leave", pages.leave, "known"),
    Way("GET", "/work/{project}", pages.work, "known"),
    Way("POST", "/work/{project}/answer", pages.answered, "known"),
    Way("POST", "/work/{project}/skip", pages.skipped, "known"),
    Way("POST", "/work/{project}/undo", pages.undone, "known"),
    Way("GET", "/lead/{project}", lead.standing, "lead"),
    Way("GET", "/people", lead.staff, "lead"),
    Way("POST", "/people", lead.invite, "lead"),
    Way("POST", "/people/end", lead.dismiss, "lead"),
    Way("GET", "/api/{project}/next", api.ask_next, "program"),
    Way("POST", "/api/{project}/answers", api.take_answer, "program"),
    Way("POST", "/api/{project}/open", api.open_project, "lead program"),
    Way("POST", "/api/{project}/items", api.take_items, "lead program"),
    Way("GET", "/api/{project}/ratings", api.ratings, "lead program"),
)


def build(db: Database, *, hosts: Sequence[str] = ("127.0.0.1", "localhost", "::1")) -> Any:
    """The application over one store; `hosts`: the names it answers to."""
    routes = []
    for way in ROUTES:
        endpoint = guarded(
            way.handler,
            db=db,
            hosts=hosts,
            public=way.who == "all",
            lead=way.who.startswith("lead"),
            api=way.who.endswith("program"),
        )
        routes.append(Route(way.path, endpoint, methods=[way.method]))
    return Headers(Starlette(routes=routes))
