"""The OpenAI-compatible routes over one Voice: models, chat/completions, completions, adapters, health and metrics.

Left out: the process (workshop/serving.py); embeddings and classifiers; TLS (uvicorn's).

Every route but /health asks for the key, where there is one. A client that goes away, or reads too slowly, gives its slots up.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as Path_
from starlette.types import Receive, Scope, Send

from bottega.core.errors import UserError
from bottega.serve import asks
from bottega.serve.asks import Ask, BadAsk, Kind
from bottega.serve.doorway import Refused, check_host, check_key, read_body
from bottega.serve.engine import Busy, Stopped
from bottega.serve.lane import Event, Job
from bottega.serve.meters import Meters
from bottega.serve.voice import NAME, Unknown, Voice

SEND_S = 30.0
"""A client that takes no bytes for so long is let go."""
WAIT_S = 3600.0
SAID = {"chat": "chat.completion", "text": "text_completion"}
TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 413: "invalid_request_error",
         429: "rate_limit_error"}  # fmt: skip
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class Api:
    """The application over one voice.

    hosts: names it answers to. keys: one of them opens it; none: everybody on this machine may ask. folder: clients may load the
    adapters that lie in it, by name; None: they may load none.
    """

    def __init__(
        self, voice: Voice, *, hosts: Sequence[str], keys: Sequence[str] = (), folder: Path | None = None
    ) -> None:
        self.voice, self.hosts, self.keys, self.folder = voice, tuple(hosts), tuple(keys), folder
        self.meters = Meters(voice.engine)
        routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]], bool]] = [
            ("GET", "/health", self.health, False),
            ("GET", "/ready", self.ready, False),
            ("GET", "/metrics", self.metrics, True),
            ("GET", "/v1/models", self.models, True),
            ("GET", "/v1/models/{name:path}", self.one_model, True),
            ("POST", "/v1/chat/completions", self.chat, True),
            ("POST", "/v1/completions", self.complete, True),
            ("POST", "/v1/load_lora_adapter", self.load_adapter, True),
            ("POST", "/v1/unload_lora_adapter", self.unload_adapter, True),
        ]
        self.app = Starlette(
            routes=[Path_(path, self._guarded(function, path, locked), methods=[m]) for m, path, function, locked in routes],
            exception_handlers={404: _nothing_here, 405: _nothing_here},
        )  # fmt: skip

    def _guarded(
        self, function: Callable[[Request], Awaitable[Response]], path: str, locked: bool
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            began = time.perf_counter()
            try:
                check_host(request, self.hosts)
                if locked:
                    check_key(request, self.keys)
                answer = await function(request)
            except Refused as refused:
                answer = _error(refused.status, refused.words, after_s=refused.after_s)
            except Unknown as error:
                answer = _error(404, str(error), field=error.field, code="model_not_found")
            except BadAsk as error:
                answer = _error(400, str(error), field=error.field)
            except Busy as busy:
                answer = _error(429, str(busy), after_s=busy.seconds)
            except Stopped as error:
                answer = _error(503, str(error), after_s=5)
            self.meters.answered(path, answer.status_code, time.perf_counter() - began)
            return answer

        return endpoint

    async def health(self, request: Request) -> Response:
        """200 while replies are written; 503 once the engine has broken or ends."""
        engine = self.voice.engine
        if engine.healthy:
            return JSONResponse({"status": "ok"}, headers=HEADERS)
        return JSONResponse({"status": "broken" if engine.broken else "ending"}, 503, headers=HEADERS)

    async def ready(self, request: Request) -> Response:
        """200 while another request would be taken."""
        engine = self.voice.engine
        free = engine.counts.waiting < engine.max_waiting
        return await self.health(request) if free else JSONResponse({"status": "full"}, 503, headers=HEADERS)

    async def metrics(self, request: Request) -> Response:
        """Prometheus' text format."""
        text, kind = self.meters.text()
        return Response(text, headers=HEADERS | {"Content-Type": kind})

    async def models(self, request: Request) -> Response:
        """What is served."""
        return JSONResponse({"object": "list", "data": list(map(self._model, self.voice.names()))}, headers=HEADERS)

    async def one_model(self, request: Request) -> Response:
        """One of them; mixtures too."""
        name = request.path_params["name"]
        self.voice.route(name)
        return JSONResponse(self._model(name), headers=HEADERS)

    def _model(self, name: str) -> dict[str, Any]:
        own = {} if name == self.voice.name else {"parent": self.voice.name}
        facts = {"id": name, "object": "model", "created": self.voice.born, "owned_by": "bottega"}
        return facts | {"max_model_len": self.voice.positions} | own

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self._reply(request, "chat")

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self._reply(request, "text")

    async def _reply(self, request: Request, kind: Kind) -> Response:
        body = await read_body(request, self.voice.limits.body)
        ask = asks.read(body, kind, self.voice.limits)
        call = Call(self, ask)
        await run_in_threadpool(call.submit)
        if ask.stream:
            return Stream(call)
        gone = asyncio.ensure_future(_left(request))
        answer = asyncio.ensure_future(call.whole())
        try:
            await asyncio.wait((gone, answer), timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise Refused(499 if gone.done() else 504, "The request was given up.")
            return JSONResponse(answer.result(), headers=HEADERS)
        finally:
            call.give_up()
            gone.cancel()
            answer.cancel()

    async def load_adapter(self, request: Request) -> Response:
        """As vLLM: {"lora_name", "lora_path"}; the path is that of a folder inside the one that was opened for this."""
        asked = asks.parse(await read_body(request, self.voice.limits.body), 4)
        name, path = _text(asked, "lora_name"), _text(asked, "lora_path")
        engine, folder = self.voice.engine, self.folder
        if engine.adapters is None or folder is None:
            raise Refused(403, "This server loads no adapters for clients: start it with --adapters-from DIR.")
        place = (folder / path).resolve()
        inside = place.is_relative_to(folder.resolve())
        if not inside or not (place / "adapter_config.json").is_file():
            raise BadAsk(f"there is no adapter {path[:200]!r} in the folder that this server loads from", "lora_path")
        if not NAME.fullmatch(name) or name == self.voice.name:
            raise BadAsk("lora_name is 1 to 128 letters, digits, '.', '_' and '-', and not the base's", "lora_name")
        adapters = engine.adapters
        await self._between(lambda: adapters.add(name, place))
        return Response(f"adapter {name} is loaded\n", headers=HEADERS)

    async def unload_adapter(self, request: Request) -> Response:
        """As vLLM: {"lora_name"}; replies in progress that use it are ended first."""
        name = _text(asks.parse(await read_body(request, self.voice.limits.body), 4), "lora_name")
        if self.folder is None or self.voice.engine.adapters is None:
            raise Refused(403, "This server unloads no adapters for clients: start it with --adapters-from DIR.")
        if name not in self.voice.engine.adapters:
            raise Unknown(f"there is no adapter {name[:100]!r}: it was not found", "lora_name")
        await self._between(lambda: self.voice.engine.forget(name))
        return Response(f"adapter {name} is gone\n", headers=HEADERS)

    async def _between(self, function: Callable[[], Any]) -> None:
        try:
            await run_in_threadpool(self.voice.engine.call, function)
        except UserError as error:
            raise BadAsk(str(error), "lora_name") from None


class Call:
    """A request in progress: its jobs, and the events of each that have not been sent."""

    def __init__(self, api: Api, ask: Ask) -> None:
        self.api, self.ask = api, ask
        self.voice, self.meters = api.voice, api.meters
        self.loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self.jobs: list[Job] = []
        self.id = ("chatcmpl-" if ask.kind == "chat" else "cmpl-") + secrets.token_hex(12)
        self.began, self.created = time.perf_counter(), int(time.time())

    def submit(self) -> None:
        """Hand the jobs over, all or none."""
        self.jobs = self.voice.jobs(self.ask, self._told)
        self.voice.engine.submit(self.jobs)

    def _told(self, number: int, event: Event) -> None:
        try:
            self.loop.call_soon_threadsafe(self.events.put_nowait, (number, event))
        except RuntimeError:  # the loop has closed: nobody waits any more
            self.jobs[number].gone = True

    def give_up(self) -> None:
        """Nobody waits any more: what is not finished is dropped before the next token."""
        for job in self.jobs:
            job.gone = True

    async def each(self) -> AsyncIterator[tuple[int, Event]]:
        """Every event, until each choice has ended."""
        left, first = len(self.jobs), True
        while left:
            number, event = await self.events.get()
            if event.error:
                raise Refused(503, event.error)
            if first:
                self.meters.first.observe(time.perf_counter() - self.began)
                first = False
            if event.reply is not None:
                left -= 1
                self.meters.ended(event.reply)
            yield number, event

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        events: dict[int, Event] = {}
        async for number, event in self.each():
            events[number] = event
        choices = []
        for number in sorted(events):
            reply, event = events[number].reply, events[number]
            assert reply is not None
            content: dict[str, Any] = {"text": reply.text}
            if self.ask.kind == "chat":
                content = {"message": {"role": "assistant", "content": reply.text, "refusal": None}}
            told = {"logprobs": self.voice.logprobs(event.words, self.ask), "finish_reason": reply.finish}
            choices.append({"index": number, **content, **told})
        return self._object(SAID[self.ask.kind]) | {"choices": choices, "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        """Tokens read (each prompt once) and written."""
        read = sum(len(job.ids) for job in self.jobs[:: self.ask.n])
        written = sum(len(job.row.ids) for job in self.jobs)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def _object(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.ask.model}

    async def pieces(self) -> AsyncIterator[dict[str, Any]]:
        """The answer as OpenAI's chunks."""
        chat = self.ask.kind == "chat"
        head = self._object("chat.completion.chunk" if chat else "text_completion")
        for number in range(len(self.jobs)) if chat else ():
            yield head | {"choices": [_chunk(number, {"delta": {"role": "assistant", "content": ""}})]}
        async for number, event in self.each():
            content: dict[str, Any] = {"delta": {"content": event.text}} if chat else {"text": event.text}
            finish = event.reply.finish if event.reply is not None else None
            if event.text or event.words:
                told = self.voice.logprobs(event.words, self.ask)
                yield head | {"choices": [_chunk(number, content, told, None if chat else finish)]}
            if finish is not None and (chat or not (event.text or event.words)):
                yield head | {"choices": [_chunk(number, {"delta": {}} if chat else {"text": ""}, None, finish)]}
        if self.ask.usage:
            yield head | {"choices": [], "usage": self.usage()}


def _chunk(number: int, content: dict[str, Any], logprobs: Any = None, finish: str | None = None) -> dict[str, Any]:
    return {"index": number, **content, "logprobs": logprobs, "finish_reason": finish}


class Stream(Response):
    """Server-sent events; ends early, and frees its slots, when the client leaves or reads too slowly."""

    def __init__(self, call: Call) -> None:
        super().__init__(None, 200, HEADERS, "text/event-stream")
        del self.headers["content-length"]
        self.call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def put(message: dict[str, Any]) -> None:
            await asyncio.wait_for(send(message), SEND_S)

        async def write() -> None:
            await put({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                async for piece in self.call.pieces():
                    await put({"type": "http.response.body", "body": _event(piece), "more_body": True})
                last = b"data: [DONE]\n\n"
            except Refused as refused:
                last = _event(_said(refused.status, refused.words))
            await put({"type": "http.response.body", "body": last, "more_body": False})

        async def leave() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        tasks = [asyncio.ensure_future(write()), asyncio.ensure_future(leave())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.call.give_up()
            for task in tasks:
                task.cancel()
        if tasks[0].done() and not isinstance(tasks[0].exception(), TimeoutError | None):
            tasks[0].result()  # a bug of ours is not kept quiet; an answer that was not taken ends with the connection


async def _left(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def _said(status: int, words: str, field: str = "", code: str | None = None) -> dict[str, Any]:
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": words, "type": kind, "param": field or None, "code": code}}


def _error(status: int, words: str, *, field: str = "", code: str | None = None, after_s: int = 0) -> Response:
    more = {"Retry-After": str(after_s)} if after_s else {}
    more |= {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse(_said(status, words, field, code), status, headers=HEADERS | more)


async def _nothing_here(request: Request, error: Exception) -> Response:
    status = int(getattr(error, "status_code", 404))
    words = "There is no such route here." if status == 404 else "This route takes another method."
    return _error(status, words)


def _text(asked: dict[str, Any], name: str) -> str:
    value = asked.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 1000:
        raise BadAsk(f"{name} is a text of 1 to 1000 characters", name)
    return value
