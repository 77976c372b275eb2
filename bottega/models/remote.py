"""A model behind an OpenAI-compatible endpoint, as a Responder: it asks, waits, tries again, and never trusts the answer.

Left out: tools, images, several replies a request, and budgets (whoever asks keeps them). Chat first; `api="completions"`
sends one prompt that `render` made of the turns, so that the model's name and its tokenizer are two things.

Tried again, with pauses that double and jitter: 408, 425, 429 (Retry-After is obeyed), 5xx, time-outs, connections that
break. An answer that is none (HTML, JSON cut short, no choices, too long) is tried once more, for it was paid for. Other
4xx are not tried again.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2

from bottega import __version__
from bottega.core.errors import Unanswered, UserError
from bottega.core.types import Reply, Turn
from bottega.models.gate import Gate

AGAIN = {408, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}
BUSY = {408, 429, 503, 529}
CONCERNS_ALL = {401, 403, 404, 405}
LONGEST_PAUSE_S = 120.0
FINISHES: dict[Any, Literal["stop", "length", "error"]] = {"stop": "stop", "length": "length", None: "stop"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tls:
    """How the endpoint's certificate is checked, and ours shown.

    authority: a file of certificates to trust instead of the system's. certificate, key: our own, for endpoints that ask.
    verify: False accepts any certificate (said once in the run's notes).
    """

    authority: str = ""
    certificate: str = ""
    key: str = ""
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """The settings as Python's TLS context.

        Raises:
            UserError: a file that cannot be read.
        """
        try:
            context = ssl.create_default_context(cafile=self.authority or None)
            if self.certificate:
                context.load_cert_chain(self.certificate, self.key or None)
        except (OSError, ssl.SSLError) as error:
            raise UserError(f"TLS files {self.authority or self.certificate}: {error}; check the paths") from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class _Again(Exception):
    """This try failed in a way that another may not."""

    def __init__(self, reason: str, detail: str, *, pause_s: float = 0.0, busy: bool = False, tries: int = 99) -> None:
        super().__init__(detail)
        self.reason, self.pause_s, self.busy, self.tries = reason, pause_s, busy, tries


@dataclass(kw_only=True)
class Endpoint:
    """A Responder over HTTP. Use it in an `async with`.

    url: the base, up to and with `/v1`. model: its name there. key_env: the environment variable that holds the key;
    empty: none is sent. render: turns -> prompt, for `api="completions"`. timeout_s: the longest wait for the next bytes.
    stream: ask for the reply in pieces. max_bytes: a longer answer is none. tries: at most, for one question.
    """

    url: str
    model: str
    key_env: str = ""
    api: Literal["chat", "completions"] = "chat"
    render: Callable[[Sequence[Turn]], str] | None = None
    tls: Tls = field(default_factory=Tls)
    timeout_s: float = 120.0
    connect_s: float = 10.0
    stream: bool = False
    tries: int = 6
    first_pause_s: float = 0.5
    most_at_once: int = 32
    max_bytes: int = 4_000_000
    identity: str = field(init=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"the endpoint {self.url!r} is no http(s) address; write it up to /v1")
        if "@" in urlsplit(self.url).netloc:
            raise UserError("the endpoint's address holds a password, which would be written down: use key_env")
        if self.api == "completions" and self.render is None:
            raise UserError(
                "api is completions, which needs the model's template to write the prompt; name a tokenizer"
            )
        self.identity = f"{self.url.rstrip('/')}#{self.model}"
        self._headers = {"User-Agent": f"bottega/{__version__}", "Accept": "application/json"}
        if self.key_env:
            if not os.environ.get(self.key_env):
                raise UserError(f"the environment variable {self.key_env} is not set; set it to the endpoint's key")
            self._headers["Authorization"] = f"Bearer {os.environ[self.key_env]}"
        self.gate = Gate(most=self.most_at_once)
        self._client: httpx2.AsyncClient | None = None

    @property
    def opens(self) -> bool:
        """Whether an empty last user's turn is one that it writes: where `render` writes the prompt."""
        return self.api == "completions"

    async def __aenter__(self) -> Endpoint:
        limits = httpx2.Limits(max_connections=self.most_at_once, max_keepalive_connections=self.most_at_once)
        timeout = httpx2.Timeout(self.timeout_s, connect=self.connect_s, pool=None)
        self._client = httpx2.AsyncClient(
            verify=self.tls.context() if self.url.startswith("https") else True,
            timeout=timeout, limits=limits, headers=self._headers, follow_redirects=False,
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def respond(self, turns: Sequence[Turn], **sampling: Any) -> Reply:
        """One reply to one conversation.

        Args:
            sampling: max_tokens, temperature, top_p, seed, stop: sent as they are.

        Raises:
            Unanswered: after all tries, or at once where another try would be in vain.
        """
        return await self._answered(self._body(turns, sampling), None)

    async def respond_in_pieces(self, turns: Sequence[Turn], told: Callable[[str], None], **sampling: Any) -> Reply:
        """One reply, told piece by piece while it comes; after its first piece it is not tried again.

        Args:
            told: is called with each piece. sampling: as in `respond`.

        Raises:
            Unanswered: as in `respond`, and where the reply broke off after its first piece.
        """
        body = self._body(turns, sampling) | {"stream": True, "stream_options": {"include_usage": True}}
        return await self._answered(body, told)

    async def _answered(self, body: dict[str, Any], told: Callable[[str], None] | None) -> Reply:
        pause_s = self.first_pause_s
        pieces = _Pieces(told)
        for number in range(1, self.tries + 1):
            async with self.gate as entered:
                try:
                    reply = await self._try(body, pieces)
                    self.gate.went_well()
                    return reply
                except _Again as again:
                    if again.busy:
                        self.gate.too_much(entered, again.pause_s)
                    if number >= min(self.tries, again.tries) or pieces.told_some:
                        raise Unanswered(again.reason, f"{self.identity}: {again} ({number} tries)") from again
                    waits_s = max(again.pause_s, pause_s * random.uniform(0.5, 1.5))
            await asyncio.sleep(waits_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        raise AssertionError("the last try returns or raises")

    def _body(self, turns: Sequence[Turn], sampling: dict[str, Any]) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, **{k: v for k, v in sampling.items() if v not in (None, ())}}
        if self.api == "chat":
            body["messages"] = [{"role": turn.role, "content": turn.content} for turn in turns]
        else:
            assert self.render is not None
            body["prompt"] = self.render(turns)
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    async def _try(self, body: dict[str, Any], pieces: _Pieces) -> Reply:
        assert self._client is not None, "an endpoint is used in an `async with`"
        path = "/chat/completions" if self.api == "chat" else "/completions"
        try:
            async with self._client.stream("POST", self.url.rstrip("/") + path, json=body) as response:
                in_pieces = "stream" in body and response.status_code == 200 and not _is_json(response)
                pieces.begin()
                raw = await self._bounded(response, pieces.feed if in_pieces else None)
                if response.status_code != 200:
                    raise self._refusal(response, raw)
        except httpx2.TimeoutException as error:
            raise _Again("timeout", f"no answer in {self.timeout_s:g} s", busy=True) from error
        except (httpx2.ConnectError, httpx2.UnsupportedProtocol) as error:
            raise _Again("unreachable", f"cannot connect ({error})") from error
        except httpx2.DecodingError as error:
            raise _Again("garbage", f"the answer cannot be decoded ({error})", tries=2) from error
        except httpx2.HTTPError as error:
            raise _Again("cut off", f"the connection broke ({type(error).__name__})") from error
        if in_pieces:
            return pieces.reply()
        reply = _whole(raw)
        if pieces.told is not None:
            pieces.told(reply.text)
        return reply

    async def _bounded(self, response: httpx2.Response, feed: Callable[[bytes], None] | None) -> bytes:
        pieces, size = [], 0
        async for piece in response.aiter_bytes():
            size += len(piece)
            if size > self.max_bytes:
                raise _Again("too long", f"the answer is longer than {self.max_bytes:,} bytes", tries=2)
            if feed is not None:
                feed(piece)
            else:
                pieces.append(piece)
        return b"".join(pieces)

    def _refusal(self, response: httpx2.Response, raw: bytes) -> Exception:
        status = response.status_code
        said = " ".join(raw[:300].decode("utf-8", "replace").split())
        if status in AGAIN or status >= 500:
            pause_s = retry_after(response.headers.get("retry-after"))
            return _Again(f"HTTP {status}", f"HTTP {status}: {said}", pause_s=pause_s, busy=status in BUSY)
        text = f"{self.identity}: HTTP {status}: {said}; it will not be tried again"
        return Unanswered(f"HTTP {status}", text, fatal=status in CONCERNS_ALL)


async def ask_all(
    endpoint: Endpoint,
    questions: Sequence[tuple[Sequence[Turn], dict[str, Any]]],
    *,
    told: Callable[[int], None] | None = None,
    came: Callable[[int, Reply], None] | None = None,
) -> list[Reply | Unanswered]:
    """What came back for each question, in order, asked as many at a time as the endpoint bears.

    Args:
        questions: a conversation and its sampling each. told: is called with the number of questions that are done.
        came: is called with a question's number and its reply as soon as it is there.

    Raises:
        Unanswered: nobody gets an answer (a key, a model or an address that is wrong).
    """
    done = 0

    async def one(number: int, turns: Sequence[Turn], sampling: dict[str, Any]) -> Reply | Unanswered:
        nonlocal done
        try:
            reply = await endpoint.respond(turns, **sampling)
            if came is not None:
                came(number, reply)
            return reply
        except Unanswered as error:
            if error.fatal:
                raise
            return error
        finally:
            done += 1
            if told is not None:
                told(done)

    async with endpoint:
        tasks = [asyncio.create_task(one(number, *question)) for number, question in enumerate(questions)]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()


def retry_after(header: str | None) -> float:
    """Seconds that a Retry-After header asks to wait (a number or a date), at most two minutes; 0 without one.

    >>> [retry_after("3"), retry_after(None), retry_after("soon"), retry_after("86400")]
    [3.0, 0.0, 0.0, 120.0]
    """
    if not header:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, TypeError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_PAUSE_S) if seconds == seconds else 0.0


def _json(raw: bytes | str) -> dict[str, Any]:
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        start = raw[:40].decode("utf-8", "replace") if isinstance(raw, bytes) else raw[:40]
        reason = "HTML" if start.lstrip().startswith("<") else "bad JSON"
        raise _Again(reason, f"the answer is {reason}, not a completion: {start!r}", tries=2) from error
    if not isinstance(data, dict):
        raise _Again("bad JSON", f"the answer is a JSON {type(data).__name__}, not an object", tries=2)
    if isinstance(data.get("error"), dict):
        raise _Again("error", f"the answer is an error: {str(data['error'].get('message'))[:200]}", tries=2)
    return data


def _choice(data: dict[str, Any]) -> dict[str, Any]:
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise _Again("no choices", "the answer has no choices", tries=2)
    return choices[0]


def _text(choice: dict[str, Any], part: str) -> str:
    """What a choice says: of a chat (`message`, `delta`) or of a completion."""
    holder = choice.get(part) if part in choice else choice
    said = holder.get("content", holder.get("text")) if isinstance(holder, dict) else None
    return said if isinstance(said, str) else ""


def _whole(raw: bytes) -> Reply:
    data = _json(raw)
    choice = _choice(data)
    return _reply(_text(choice, "message"), choice.get("finish_reason"), data.get("usage"))


class _Pieces:
    """A server-sent stream, read as it comes; told: is called with each piece of text."""

    def __init__(self, told: Callable[[str], None] | None) -> None:
        self.told, self.told_some = told, False
        self.begin()

    def begin(self) -> None:
        """Forget what an earlier try brought."""
        self.texts: list[str] = []
        self.finish: Any = None
        self.usage: Any = None
        self.ended = False
        self._rest = b""

    def feed(self, raw: bytes) -> None:
        """More bytes; a line may be in two of them. Lines end at a newline only: U+2028 may stand within a reply."""
        *lines, self._rest = (self._rest + raw).split(b"\n")
        for line in lines:
            self._line(line.decode("utf-8", "replace").rstrip("\r"))

    def _line(self, line: str) -> None:
        if self.ended:
            return
        if not line.startswith("data:"):
            if line.lstrip().startswith(("<", "{")):
                _json(line)
            return
        said = line[5:].strip()
        if said == "[DONE]":
            self.ended = True
            return
        data = _json(said)
        self.usage = data.get("usage") or self.usage
        if data.get("choices"):
            choice = _choice(data)
            text = _text(choice, "delta")
            self.texts.append(text)
            self.finish = choice.get("finish_reason") or self.finish
            if self.told is not None and text:
                self.told_some = True
                self.told(text)

    def reply(self) -> Reply:
        """The pieces as one reply; one without an end was cut."""
        self.feed(b"\n")
        if not self.ended and self.finish is None:
            raise _Again("cut off", "the stream ended before the reply did", tries=2)
        return _reply("".join(self.texts), self.finish, self.usage)


def _is_json(response: httpx2.Response) -> bool:
    """An endpoint that does not know `stream` answers in one piece."""
    return str(response.headers.get("content-type", "")).startswith("application/json")


def _reply(text: str, finish: Any, usage: Any) -> Reply:
    if not text.strip():
        raise _Again("empty", "the reply is empty", tries=2)
    counts = {}
    for name in ("prompt_tokens", "completion_tokens"):
        value = usage.get(name) if isinstance(usage, dict) else None
        counts[name] = value if isinstance(value, int) and 0 <= value < 10**9 else 0
    return Reply(text=text, finish=FINISHES.get(finish, "error"), usage=counts)
