"""What stands before every route: Host list, size limits, who asks, CSRF and Origin checks, and the headers of each answer.

Left out: what the pages show (pages.py, lead.py, api.py). A handler is a plain function of an `Ask`; it runs in a thread, so that a
database that takes its time holds up nobody else. Nothing reaches a handler but through `guarded`.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from bottega.core.errors import Mismatch, UserError
from bottega.serve.doorway import Refused, check_host, read_body
from bottega.store import people
from bottega.store.database import Database
from bottega.store.people import Annotator

COOKIE = "bottega_session"
MAX_BODY = 1_000_000
MAX_FIELDS = 500
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer browsers send `Origin: null`, which the check refuses
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """A request that passed the guard. form: the fields by name, in order; form_key: what forms of this session carry."""

    db: Database
    who: Annotator | None
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, Sequence[str]] = field(default_factory=dict)
    body: bytes = b""
    form_key: str = ""
    cookie: str = ""
    secure: bool = False

    @property
    def person(self) -> Annotator:
        """Who asks; routes that let strangers in do not use it."""
        assert self.who is not None
        return self.who

    def one(self, name: str, default: str = "") -> str:
        """The first value of a form's field."""
        values = self.form.get(name) or (default,)
        return values[0]


Handler = Callable[[Ask], Response]


def guarded(
    handler: Handler, *, db: Database, hosts: Sequence[str], public: bool = False, lead: bool = False, api: bool = False
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of a handler.

    Args:
        hosts: names that the Host header may have (without port).
        public: strangers may come in. lead: only leads may. api: JSON with a bearer token; refusals are JSON too.
    """

    async def endpoint(request: Request) -> Response:
        try:
            check_host(request, hosts)
            body = await read_body(request, MAX_BODY) if request.method == "POST" else b""
            return await run_in_threadpool(_answer, request, body)
        except Refused as refused:
            return _refusal(refused, api)

    def _answer(request: Request, body: bytes) -> Response:
        who, form_key = (None, "") if public else _who(request, db, api)
        if request.method == "POST" and not api:
            _check_origin(request)
        fields = _fields(body) if body and not api else {}
        if who is None and not public:
            if api or request.method == "POST":
                raise Refused(401, "Enter with your token first.")
            return RedirectResponse("/enter", 303)
        if request.method == "POST" and not api and not public:
            given = (fields.get("form") or ("",))[0]
            if not hmac.compare_digest(given.encode("utf-8", "replace"), form_key.encode()):
                raise Refused(403, "This form is from another session; go back, reload the page and try again.")
        if lead and not (who and who.leads):
            raise Refused(403, "Only a lead may see this.")
        ask = Ask(
            db=db,
            who=who,
            path=dict(request.path_params),
            query=dict(request.query_params),
            form=fields,
            body=body,
            form_key=form_key,
            cookie=request.cookies.get(COOKIE, ""),
            secure=request.url.scheme == "https",
        )
        try:
            return handler(ask)
        except Mismatch as error:
            raise Refused(409, str(error)) from None
        except UserError as error:
            raise Refused(400, str(error)) from None

    return endpoint


def _refusal(refused: Refused, api: bool) -> Response:
    if api:
        return JSONResponse({"error": refused.words}, refused.status)
    return PlainTextResponse(refused.words + "\n", refused.status)


def _who(request: Request, db: Database, api: bool) -> tuple[Annotator | None, str]:
    """Who asks: by token for programs, by cookie for browsers; never one in the place of the other."""
    if api:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        return (people.by_token(db, token) if kind.lower() == "bearer" and token else None), ""
    cookie = request.cookies.get(COOKIE)
    found = people.session(db, cookie) if cookie else None
    return (found.who, found.form) if found else (None, "")


def _check_origin(request: Request) -> None:
    """Browsers say where a form comes from; ours come from here."""
    origin = urlsplit(request.headers.get("origin", ""))
    if origin.scheme not in ("http", "https") or origin.netloc != request.headers.get("host"):
        raise Refused(403, "This form came from another page.")


def _fields(body: bytes) -> dict[str, list[str]]:
    try:
        pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise Refused(400, f"A form holds UTF-8 text in at most {MAX_FIELDS} fields.") from None
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value.replace("\r\n", "\n"))
    return found


class Headers:
    """Puts HEADERS on every answer, errors of the framework included."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(
        self, scope: dict[str, object], receive: Callable[..., object], send: Callable[..., Awaitable[None]]
    ) -> None:
        async def send_with_headers(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                own = message.get("headers") or []
                assert isinstance(own, list)
                message["headers"] = [
                    *own,
                    *((name.lower().encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        if scope["type"] == "websocket":
            return
        await self.app(scope, receive, send_with_headers)
