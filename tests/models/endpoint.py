"""A real HTTP server that speaks as an OpenAI-compatible endpoint, well or badly, on demand; it counts what it is asked.

Left out: models. `answer` makes a reply of the request's JSON.
"""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

BAD = (
    "429", "500", "503", "html", "truncated", "empty", "no-choices", "cut", "slow", "huge-line", "400", "401", "null", "list",
    "deep", "bytes",
)  # fmt: skip


def certificate(folder: Path) -> Path:
    """The folder with a certificate for 127.0.0.1 that its own key signed; the test is skipped where openssl is not installed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


def echo(request: dict[str, Any]) -> str:
    """The last message, or the prompt, said again."""
    return "you said: " + (request["messages"][-1]["content"] if "messages" in request else request["prompt"])


class Endpoint:
    """The server. Use it in a `with`.

    script: how the first requests are treated, one word each (of BAD, or "good"); later ones get a good answer.
    tls: a folder with cert.pem and key.pem, as `certificate` makes it. streams: False answers in one piece whatever is asked.
    between: is called after the first piece of a stream left.
    """

    def __init__(
        self, answer: Callable[[dict[str, Any]], str] = echo, *, script: tuple[str, ...] = (), delay_s: float = 0.0,
        retry_after: str = "0.2", slow_s: float = 5.0, streams: bool = True, between: Callable[[], bool] | None = None,
        tls: Path | None = None,
    ) -> None:  # fmt: skip
        self.streams, self.between = streams, between
        self.waited: list[bool] = []
        self.answer, self.script, self.delay_s, self.retry_after = answer, list(script), delay_s, retry_after
        self.slow_s = slow_s
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.paths: list[str] = []
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.end = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.handle(self)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:
                """A client that left is no news."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server.server_address[1]}/v1"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls / "cert.pem", tls / "key.pem")
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)

    def __enter__(self) -> Endpoint:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end.set()
        self.server.shutdown()
        self.server.server_close()

    def asked(self) -> Counter[str]:
        """How often each request came."""
        return Counter(json.dumps(one, sort_keys=True) for one in self.requests)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        raw = handler.rfile.read(int(handler.headers["Content-Length"]))
        request = json.loads(raw)
        with self.lock:
            self.requests.append(request)
            self.headers.append(dict(handler.headers))
            self.times.append(time.monotonic())
            self.paths.append(handler.path)
            how = self.script.pop(0) if self.script else "good"
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            self.end.wait(self.delay_s)
            self.respond(handler, request, how)
        finally:
            with self.lock:
                self.now -= 1

    def respond(self, handler: BaseHTTPRequestHandler, request: dict[str, Any], how: str) -> None:
        if how in ("429", "500", "503", "400", "401"):
            headers = {"Retry-After": self.retry_after} if how in ("429", "503") else {}
            self.send(handler, json.dumps({"error": {"message": f"no: {how}"}}), status=int(how), headers=headers)
            return
        if how == "slow":
            self.end.wait(self.slow_s)
        text = self.answer(request)
        usage = {"prompt_tokens": len(json.dumps(request)) // 4, "completion_tokens": max(1, len(text) // 4)}
        if request.get("stream") and self.streams:
            self.stream(handler, text, usage, how)
            return
        said = {"message": {"role": "assistant", "content": text}} if "messages" in request else {"text": text}
        whole = json.dumps({"choices": [{**said, "finish_reason": "stop"}], "usage": usage})
        body = {
            "html": "<!doctype html><html><body>Bad gateway</body></html>",
            "truncated": whole[: len(whole) // 2],
            "empty": json.dumps({"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}),
            "no-choices": json.dumps({"choices": []}),
            "null": "null",
            "list": "[1, 2]",
            "deep": "[" * 100_000,
            "huge-line": json.dumps({"choices": [{"message": {"content": "a" * 10_000_000}}]}),
        }.get(how, whole)
        if how == "bytes":
            self.send(handler, b"\xff\xfe\x00garbage\x80")
        elif how == "cut":
            self.send(handler, body, cut=True)
        else:
            self.send(handler, body)

    def stream(self, handler: BaseHTTPRequestHandler, text: str, usage: dict[str, int], how: str) -> None:
        pieces = [text[at : at + 5] for at in range(0, len(text), 5)]
        lines = [json.dumps({"choices": [{"delta": {"content": piece}}]}) for piece in pieces]
        if how == "cut":
            lines = lines[:1]
        elif how == "truncated":
            lines = [*lines[:1], lines[-1][:10]]
        else:
            lines += [json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]})]
            lines += [json.dumps({"choices": [], "usage": usage}), "[DONE]"]
        self.send(handler, "".join(f"data: {line}\n\n" for line in lines), cut=how == "cut", kind="text/event-stream")

    def send(
        self, handler: BaseHTTPRequestHandler, body: str | bytes, *, status: int = 200, cut: bool = False,
        headers: dict[str, str] | None = None, kind: str = "application/json",
    ) -> None:  # fmt: skip
        raw = body.encode() if isinstance(body, str) else body
        handler.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(raw)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if self.between is not None:
            first = raw.index(b"\n\n") + 2
            handler.wfile.write(raw[:first])
            handler.wfile.flush()
            self.waited.append(self.between())
            raw = raw[first:]
        handler.wfile.write(raw[: len(raw) // 2] if cut else raw)
        handler.wfile.flush()
        if cut:
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
