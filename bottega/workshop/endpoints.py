"""A model behind an OpenAI-compatible endpoint, `http://HOST/v1#NAME`: how it is reached, and eval and compare.

Left out: the client (models/remote.py), teachers (teachers.py), chat and generate (distant.py), and what needs the model's own numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from bottega.core.errors import UserError
from bottega.core.journal import Journal
from bottega.core.types import Turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from bottega.evals.runner import Scorecard
    from bottega.models.remote import Endpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """How an endpoint is reached.

    key_env: the environment variable with the key. ca, cert, cert_key, insecure: TLS. timeout: seconds for the next bytes.
    concurrency: questions at once, at most. tries: for one question, at most. stream: ask for replies in pieces.
    """

    key_env: str = ""
    ca: str = ""
    cert: str = ""
    cert_key: str = ""
    insecure: bool = False
    timeout: float = 120.0
    concurrency: int = 32
    tries: int = 6
    stream: bool = False


def is_endpoint(name: str) -> bool:
    """Whether a model's name is the address of an endpoint."""
    return name.startswith(("http://", "https://"))


def need_local(name: str, reach: Reach | None, answers: str | None = None) -> None:
    """Raises UserError where options of an endpoint were given for a model that is none."""
    if answers is not None:
        raise UserError(f"--answers is for endpoints, but {name!r} is none: leave it out, or give an address")
    for field in fields(Reach):
        if reach is not None and getattr(reach, field.name) != field.default:
            option = field.name.replace("_", "-")
            raise UserError(f"--{option} is for endpoints, but {name!r} is none: leave it out, or give an address")


def refuse(name: str, asked: Mapping[str, bool]) -> None:
    """Raises UserError for the first option that was asked for (True) and that no endpoint can do."""
    for option, given in asked.items():
        if given:
            raise UserError(
                f"{option} needs the model itself, and {name} is an endpoint: leave it out, or name a folder"
            )


def refuse_offline(url: str) -> None:
    """Raises UserError where --offline was given and `url` is another machine's."""
    from bottega.models.locate import is_offline

    host = urlsplit(url).hostname or ""
    if is_offline() and host not in ("localhost", "127.0.0.1", "::1"):
        raise UserError(f"--offline was given, but the endpoint is at {host}: name a model of this machine")


def connect(
    url: str,
    model: str,
    reach: Reach,
    *,
    api: Literal["chat", "completions"] = "chat",
    render: Callable[[Sequence[Turn]], str] | None = None,
) -> Endpoint:
    """A Responder to use in an `async with`; nothing is sent yet.

    Raises:
        UserError: --offline and another machine's address, or a key that is not set.
    """
    from bottega.models.remote import Endpoint, Tls

    refuse_offline(url)
    tls = Tls(authority=reach.ca, certificate=reach.cert, key=reach.cert_key, verify=not reach.insecure)
    return Endpoint(
        url=url, model=model, key_env=reach.key_env, api=api, render=render, tls=tls, timeout_s=reach.timeout,
        stream=reach.stream, most_at_once=reach.concurrency, tries=reach.tries,
    )  # fmt: skip


def opened(name: str, reach: Reach | None, *, raw: bool = False) -> Endpoint:
    """The endpoint of `URL#NAME`; raw: it continues texts as they are, by /completions.

    Raises:
        UserError: no name of a model behind the address; see `connect`.
    """
    url, _, model = name.partition("#")
    if not model:
        raise UserError(f"{name} does not say which of its models: write {url}#NAME, with the model's name there")
    return connect(
        url, model, reach or Reach(), api="completions" if raw else "chat", render=_as_it_is if raw else None
    )


def _as_it_is(turns: Sequence[Turn]) -> str:
    return turns[-1].content


def evaluate(
    name: str,
    tasks: Sequence[Any],
    *,
    reach: Reach | None,
    note: Callable[[str], None],
    answers: str | None = None,
    **how: Any,
) -> Scorecard:
    """The scorecard of the model behind an endpoint: tasks that ask for replies, those in chat by chat, others by /completions.

    Args:
        answers: a file (SQLite) that keeps each reply as it comes; what it holds is not asked again. how: limit, seed, judge and told,
            as the evals room has them.

    Raises:
        UserError: a task that needs log-probabilities, or a question that got no answer.
    """
    from bottega.evals.remote import Remote
    from bottega.evals.runner import evaluate_with

    with Journal(answers) if answers is not None else nullcontext() as kept:
        asked = Remote(opened=lambda raw: opened(name, reach, raw=raw), answers=kept)
        card = evaluate_with(asked, list(tasks), name=name, **how)
    usage = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in sorted(asked.usage.items()))
    note(f"{name}: {asked.questions:,} questions" + (f", {usage}" if usage else ""))
    return card
