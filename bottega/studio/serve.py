"""`bottega feedback serve`: the pages as a process, on this machine only unless told otherwise.

Left out: TLS by itself is not needed on loopback; elsewhere give a certificate, or a proxy in front that has one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bottega.core.errors import UserError
from bottega.store import people
from bottega.store.database import Database
from bottega.store.schema import open_store

FIRST = "lead"
MAX_AT_ONCE = 400
"""Requests that wait or run; more are told to come back (503)."""


def invitations(db: Database, invite: Sequence[str], renew: Sequence[str] = ()) -> dict[str, str]:
    """Name -> new token: of `invite` (NAME or NAME:lead), of `renew`, and of a first lead where nobody is there yet."""
    tokens = {}
    if not people.everybody(db):
        tokens[FIRST] = people.add(db, FIRST, role="lead")[1]
    for wanted in invite:
        name, _, role = wanted.partition(":")
        tokens[name] = people.add(db, name, role=role or "annotator")[1]
    for name in renew:
        tokens[name] = people.renew(db, name)
    return tokens


def serve(
    *,
    store: str = "feedback.db",
    host: str = "127.0.0.1",
    port: int = 8321,
    allow_host: Sequence[str] = (),
    invite: Sequence[str] = (),
    renew: Sequence[str] = (),
    certificate: str | None = None,
    certificate_key: str | None = None,
    behind_proxy: bool = False,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> None:
    """Serve the pages until interrupted; new tokens are said once, as links.

    A link carries the token behind a `#`, which browsers do not send: it stays out of every server's log.

    Raises:
        UserError: no server library; open to other machines without a name or TLS; a name that is taken.
    """
    try:
        import uvicorn

        from bottega.serve.doorway import is_loopback, names
        from bottega.studio.app import build
    except ImportError:
        raise UserError("the pages need starlette and uvicorn; install bottega[studio]") from None
    called = names(host, allow_host, certificate, behind_proxy)
    for path in filter(None, (certificate, certificate_key)):
        if not Path(path).is_file():
            raise UserError(f"there is no file {path}; check the path")
    db = open_store(store)
    try:
        config: dict[str, Any] = {
            "log_level": "warning",
            "access_log": False,
            "server_header": False,
            "timeout_keep_alive": 5,
            "limit_concurrency": MAX_AT_ONCE,
            "timeout_graceful_shutdown": 10,
            "ssl_certfile": certificate,
            "ssl_keyfile": certificate_key,
            "proxy_headers": behind_proxy,
            "lifespan": "off",
        }
        scheme = "https" if certificate or behind_proxy and not is_loopback(host) else "http"
        place = f"{scheme}://{allow_host[0] if allow_host else host}:{port}"
        for name, token in invitations(db, invite, renew).items():
            say(f"{name}: {place}/enter#token={token}")
        say(f"feedback of {db.name} on {place} (Ctrl-C ends it)")
        uvicorn.run(build(db, hosts=called), host=host, port=port, **config)
    finally:
        db.close()
