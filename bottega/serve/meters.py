"""What a server counts, for Prometheus: requests, tokens, how long people wait, how full it is.

Left out: quality and drift (they need the exchanges).
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from bottega.core.types import Reply
from bottega.serve.engine import Engine

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Meters:
    """The counters of one server."""

    def __init__(self, engine: Engine) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("bottega_requests", "Requests answered.", ("route", "status"), registry=registry)
        self.seconds = Histogram(
            "bottega_request_seconds", "Until an answer began.", ("route",), buckets=SECONDS, registry=registry
        )
        self.first = Histogram(
            "bottega_first_event_seconds", "Until the first words of a reply.", buckets=SECONDS, registry=registry
        )
        self.replies = Counter("bottega_replies", "Replies written.", ("finish",), registry=registry)
        self.read = Counter("bottega_prompt_tokens", "Tokens of the prompts of replies.", registry=registry)
        self.written = Counter("bottega_reply_tokens", "Tokens of replies.", registry=registry)
        counts = engine.counts
        for name, words, value in (
            ("bottega_running", "Replies being written.", lambda: counts.running),
            ("bottega_waiting", "Replies that wait.", lambda: counts.waiting),
            ("bottega_slots", "Replies that can be written at once.", lambda: engine.rows),
            ("bottega_busy_seconds", "Time spent decoding.", lambda: counts.busy_s),
            ("bottega_healthy", "1 while replies are written.", lambda: float(engine.healthy)),
        ):
            Gauge(name, words, registry=registry).set_function(value)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request was answered, or its stream began."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def ended(self, reply: Reply) -> None:
        """A reply is whole."""
        self.replies.labels(reply.finish).inc()
        self.read.inc(reply.usage.get("prompt_tokens", 0))
        self.written.inc(reply.usage.get("completion_tokens", 0))

    def text(self) -> tuple[bytes, str]:
        """All of it, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
