"""Where a server listens, by which names it is called, and who may ask it.

Left out: the checks of each request (bottega/serve/doorway.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bottega.core.errors import UserError

MAX_AT_ONCE = 1000
"""Connections; more are told to come back (503)."""
MAX_HEADERS = 16_384


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """host, port: where to listen. allow_host: names by which others call this machine. key_env, key_file: where the keys are that
    clients must send, needed where other machines can ask. behind_proxy: TLS is a proxy's."""

    host: str = "127.0.0.1"
    port: int = 8000
    allow_host: Sequence[str] = ()
    key_env: str = ""
    key_file: str = ""
    certificate: str | None = None
    certificate_key: str | None = None
    behind_proxy: bool = False

    def check(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names that the server answers to, and the keys that open it.

        Raises:
            UserError: it is open to others without a key, a name or TLS; a file that is not there. Unsafe: others can read the keys.
        """
        from bottega.serve.doorway import is_loopback, keys, names

        called = names(self.host, self.allow_host, self.certificate, self.behind_proxy)
        known = keys(self.key_env, self.key_file)
        if not is_loopback(self.host) and not known:
            raise UserError(
                f"{self.host} is open to other machines; give --key-file or --key-env, so that not all may ask"
            )
        for path in filter(None, (self.certificate, self.certificate_key)):
            if not Path(path).is_file():
                raise UserError(f"there is no file {path}; check the path")
        return called, known

    def place(self) -> str:
        """Where clients find it."""
        from bottega.serve.doorway import is_loopback

        tls = self.certificate or (self.behind_proxy and not is_loopback(self.host))
        return f"http{'s' if tls else ''}://{self.allow_host[0] if self.allow_host else self.host}:{self.port}"

    def uvicorn(self) -> dict[str, Any]:
        """Options of uvicorn.run."""
        return {
            "host": self.host,
            "port": self.port,
            "log_level": "warning",
            "access_log": False,
            "server_header": False,
            "timeout_keep_alive": 5,
            "limit_concurrency": MAX_AT_ONCE,
            "timeout_graceful_shutdown": 10,
            "h11_max_incomplete_event_size": MAX_HEADERS,
            "http": "h11",
            "ws": "none",
            "ssl_certfile": self.certificate,
            "ssl_keyfile": self.certificate_key,
            "proxy_headers": self.behind_proxy,
            "lifespan": "off",
        }
