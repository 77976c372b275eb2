"""What every server of the workshop checks before it does any work: by which name it is called, how much it is sent and how fast,
and who may call it from elsewhere.

Left out: pages and their forms (bottega/studio/guard.py), and what is asked of a model (asks.py).
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request

from bottega.core.errors import Unsafe, UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
BODY_S = 15.0
"""A body that takes longer to arrive is refused: the server underneath has no deadline of its own."""
MIN_KEY = 16


class Refused(Exception):
    """An answer other than what was asked for: its status and one sentence. after_s: when to come again."""

    def __init__(self, status: int, words: str, *, after_s: int = 0) -> None:
        super().__init__(words)
        self.status, self.words, self.after_s = status, words, after_s


def check_host(request: Request, hosts: Sequence[str]) -> None:
    """A name that is not ours means that somebody else's page points at this machine (DNS rebinding)."""
    try:
        name = urlsplit("//" + request.headers.get("host", "")).hostname
    except ValueError:
        name = None
    if name not in hosts:
        raise Refused(421, f"This server is called {' or '.join(hosts)}.")


async def read_body(request: Request, limit: int) -> bytes:
    """The body, of at most `limit` bytes, within `BODY_S` seconds."""

    async def read() -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise Refused(413, f"A request holds at most {limit:,} bytes.")
            parts.append(part)
        return b"".join(parts)

    try:
        return await asyncio.wait_for(read(), BODY_S)
    except TimeoutError:
        raise Refused(408, f"The request took longer than {BODY_S:g} s to arrive.") from None
    except ClientDisconnect:
        raise Refused(400, "The request ended before its body did.") from None


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def names(host: str, allowed: Sequence[str], certificate: str | None, plain: bool) -> tuple[str, ...]:
    """The names that a server answers to.

    Args:
        plain: the connection may be without TLS (a proxy in front has it).

    Raises:
        UserError: another machine could ask, and no name or no protection of what is sent was given.
    """
    if is_loopback(host):
        return (*LOOPBACK, *allowed)
    if not allowed:
        raise UserError(f"{host} is open to other machines; say with --allow-host by which name they call this one")
    if certificate is None and not plain:
        raise UserError(
            f"{host} is open to other machines, which would send their keys readable; give --certificate and "
            "--certificate-key, or --behind-proxy if a proxy with TLS stands in front"
        )
    return (*LOOPBACK, *allowed)


def keys(variable: str, file: str) -> tuple[str, ...]:
    """The keys that open a server: of an environment variable, and of a file, one a line, that only its owner can read.

    Raises:
        UserError: nothing is there, or a key is too short to be none to guess. Unsafe: others can read the file.
    """
    found: list[str] = []
    if variable:
        if not os.environ.get(variable):
            raise UserError(f"the environment variable {variable} is empty: put the key there, or leave --key-env out")
        found.append(os.environ[variable])
    if file:
        path = Path(file).expanduser()
        try:
            mode = path.stat().st_mode
            lines = path.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"the key file {file} cannot be read ({error}): give a text file, one key a line") from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise Unsafe(f"{file} has mode {stat.S_IMODE(mode):o}, so that others can read its keys: chmod 600 {file}")
        if not lines:
            raise UserError(f"the key file {file} is empty: write one key a line")
        found += lines
    for key in found:
        if len(key) < MIN_KEY or not key.isascii():
            raise UserError(
                f"a key has {len(key)} characters; take at least {MIN_KEY}, all ASCII: openssl rand -hex 24"
            )
    return tuple(found)


def check_key(request: Request, known: Sequence[str]) -> None:
    """`Authorization: Bearer KEY`, where keys are asked for."""
    if not known:
        return
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    fits = [hmac.compare_digest(given.strip().encode("utf-8", "replace"), key.encode()) for key in known]
    if kind.lower() != "bearer" or not any(fits):
        raise Refused(401, "This server asks for a key: send it as `Authorization: Bearer KEY`.")
