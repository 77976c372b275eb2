"""The queue of a live stage: a feedback store on this machine or in PostgreSQL, or a server of `bottega feedback serve` by its URL.

Left out: what is asked and what becomes of it (train/live.py). Each call ends within `timeout_s` or soon after it, and what goes wrong
on the way is `Away`, for training goes on without people; only what no waiting would mend is refused, before anything is trained.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from bottega.core.errors import Mismatch, UserError
from bottega.store import queue
from bottega.store.database import Database
from bottega.store.feedback import since
from bottega.store.kinds import Settings
from bottega.store.schema import open_store
from bottega.train.live import Away
from bottega.workshop.recipe_live import Feedback

PAGE = 100
"""Ratings in one answer of a server, and questions in one call to it."""
MAX_BYTES = 64_000_000
MAX_SENT = 500_000
"""Of an answer, and of what is sent at once (a server takes a million bytes)."""


class StoreQueue:
    """A store that this process opens itself, anew at each call: a file that was removed is away, and is not made again."""

    def __init__(self, where: Feedback, *, fresh: bool) -> None:
        assert where.store is not None
        self.store, self.project, self.fresh = where.store, where.project, fresh
        self.wait_s = where.timeout_s
        self.kind, self.settings = where.ask, Settings(scale=where.scale, per_item=where.per_item)

    def open(self) -> int:
        """Make the project if it is not there; the scale of its ratings.

        Raises:
            Mismatch: it asks for something else. Away: the store cannot be opened now.
        """

        def opened(db: Database) -> int:
            known = {one.name for one in queue.projects(db)}
            found = queue.open_project(db, self.project, self.kind, None if self.project in known else self.settings)
            return found.settings.scale

        scale: int = self._with(opened)
        self.fresh = False
        return scale

    def _with(self, work: Callable[[Database], Any]) -> Any:
        server = self.store.partition("://")[0] in ("postgresql", "postgres")
        if not server and not self.fresh and not Path(self.store.removeprefix("sqlite:///")).is_file():
            raise Away(f"there is no store {self.store}")
        try:
            db = open_store(self.store, wait_s=self.wait_s)
            try:
                return work(db)
            finally:
                db.close()
        except Mismatch:
            raise
        except (UserError, OSError) as error:
            raise Away(str(error)) from error

    def put(self, items: Sequence[Mapping[str, Any]], priorities: Sequence[float]) -> None:
        """As train/live.py's Queue."""
        self._call(lambda db: queue.put(db, queue.project(db, self.project), items, priorities=priorities))

    def since(self, cursor: int) -> tuple[list[Mapping[str, Any]], int]:
        """As train/live.py's Queue."""
        events, now = self._call(lambda db: since(db, queue.project(db, self.project), cursor))
        return [asdict(event) for event in events], now

    def _call(self, work: Callable[[Database], Any]) -> Any:
        try:
            return self._with(work)
        except Mismatch as error:
            raise Away(str(error)) from error


class HttpQueue:
    """A server's routes for programs; the token is read from the environment when it is sent, and stands nowhere else."""

    def __init__(self, where: Feedback) -> None:
        assert where.url is not None and where.token is not None
        self.base, self.token, self.timeout_s = where.url.rstrip("/"), where.token, where.timeout_s
        self.project, self.wanted = where.project, {"kind": where.ask, "scale": where.scale, "per_item": where.per_item}
        self.token.reveal()  # said now if it is not there
        host = urlsplit(self.base).hostname or ""
        self.near = host == "localhost" or _is_loopback(host)

    def open(self) -> int:
        """As StoreQueue's.

        Raises:
            UserError: the server refuses the token or the project. Away: it does not answer.
        """
        found = self._call("POST", "open", content=self.wanted)
        return int(found["scale"])

    def put(self, items: Sequence[Mapping[str, Any]], priorities: Sequence[float]) -> None:
        """As train/live.py's Queue."""
        batch: list[int] = []
        for at, item in enumerate(items):
            size = len(json.dumps([items[i] for i in batch] + [item]))
            if batch and (size > MAX_SENT or len(batch) == PAGE):
                self._put(items, priorities, batch)
                batch = []
            batch.append(at)
        if batch:
            self._put(items, priorities, batch)

    def _put(self, items: Sequence[Mapping[str, Any]], priorities: Sequence[float], chosen: Sequence[int]) -> None:
        sent = {"items": [items[i] for i in chosen], "priorities": [priorities[i] for i in chosen]}
        self._calm("POST", "items", content=sent)

    def since(self, cursor: int) -> tuple[list[Mapping[str, Any]], int]:
        """As train/live.py's Queue."""
        found = self._calm("GET", "ratings", query={"since": str(cursor), "limit": str(PAGE)})
        events, now = found.get("events"), found.get("cursor")
        if not isinstance(events, list) or not isinstance(now, int) or now < cursor:
            raise Away(f"{self.base} answers with something else than ratings")
        return [event for event in events if isinstance(event, dict)], now

    def _calm(self, method: str, what: str, **more: Any) -> dict[str, Any]:
        """During a run a refusal is no reason to end: a token that was renewed can be put right meanwhile."""
        try:
            return self._call(method, what, **more)
        except UserError as error:
            raise Away(str(error)) from error

    def _call(
        self, method: str, what: str, *, content: Any = None, query: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        if not self.near and os.environ.get("HF_HUB_OFFLINE", "") in ("1", "true", "TRUE", "yes", "ON"):
            raise Away(f"offline: {self.base} is not asked")
        place = f"{self.base}/api/{self.project}/{what}"
        headers = {"Authorization": f"Bearer {self.token.reveal()}", "Accept": "application/json"}
        try:
            with (
                httpx2.Client(timeout=self.timeout_s, follow_redirects=False, trust_env=not self.near) as client,
                client.stream(method, place, json=content, params=query, headers=headers) as reply,
            ):
                pieces, size = [], 0
                for piece in reply.iter_bytes():
                    size += len(piece)
                    if size > MAX_BYTES:
                        raise Away(f"{self.base} answers with more than {MAX_BYTES:,} bytes")
                    pieces.append(piece)
                status = reply.status_code
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise Away(f"{self.base} does not answer ({type(error).__name__})") from error
        try:
            found = json.loads(b"".join(pieces))
        except (ValueError, RecursionError):
            found = None
        said = found.get("error") if isinstance(found, dict) else None
        if status in (400, 401, 403, 404, 409, 413, 421):
            raise UserError(
                f"the feedback server {self.base} refuses ({status}: {str(said or 'no reason')[:300]}); give a lead's token, and a "
                "project that the lead sees"
            )
        if status != 200 or not isinstance(found, dict):
            raise Away(
                f"{self.base} answers {status}" + ("" if isinstance(found, dict) else " with something that is no JSON")
            )
        return found


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_queue(where: Feedback, *, fresh: bool, note: Callable[[str], None]) -> tuple[StoreQueue | HttpQueue, int]:
    """The queue of a recipe and the scale of its ratings; one that is away is told, and the run goes on.

    Args:
        fresh: no round has been recorded yet, so that a store that is not there may be made.

    Raises:
        UserError: what waiting does not mend: a wrong token, a project that asks for something else.
    """
    made: StoreQueue | HttpQueue = StoreQueue(where, fresh=fresh) if where.store is not None else HttpQueue(where)
    try:
        return made, made.open()
    except Away as error:
        note(f"the feedback queue is away ({error}); training goes on without people")
        return made, where.scale
