"""What a client asks, read from JSON with every limit checked: a chat, or prompts to go on with, each with its settings.

Left out: tools and response formats, which are refused; so is every field that would change an answer and is not known here. Fields
that change none (user, metadata) are passed over.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bottega.core.config import closest
from bottega.core.errors import UserError
from bottega.core.types import Turn
from bottega.data.turns import BadRow, turns_of
from bottega.models.sampling import Sampling

Kind = Literal["chat", "text"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one request may ask for. max_tokens: of a reply; None: what the model's positions leave."""

    body: int = 1_000_000
    depth: int = 32
    n: int = 16
    prompts: int = 64
    turns: int = 1000
    stop: int = 16
    stop_length: int = 200
    logprobs: int = 20
    max_tokens: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One request. turns: of a chat; prompts: texts or token ids to go on with.

    max_tokens None: as many as fit. logprobs: None: none are told; else so many likeliest tokens in each place. ids: tokens are
    named `token_id:N`. usage: a stream ends with the counts.
    """

    kind: Kind
    model: str
    turns: tuple[Turn, ...] = ()
    prompts: tuple[str | tuple[int, ...], ...] = ()
    max_tokens: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    sampling: Mapping[str, Any]
    logprobs: int | None = None
    ids: bool = False
    stream: bool = False
    usage: bool = False

    def settings(self, max_tokens: int, stop: Sequence[str], stop_ids: Sequence[int]) -> Sampling:
        """As a Sampler takes them."""
        return Sampling(
            max_tokens=max_tokens,
            n=self.n,
            stop=tuple(stop),
            stop_ids=tuple(stop_ids),
            top_logps=self.logprobs or 0,
            **self.sampling,
        )


class BadAsk(UserError):
    """A request that cannot be answered as it is; field: which part of it."""

    def __init__(self, words: str, field: str = "") -> None:
        super().__init__(words)
        self.field = field


PASSED_OVER = ("user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key",
               "request_id", "priority", "spaces_between_special_tokens")  # fmt: skip
"""Fields that change no answer here."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, None), "presence_penalty": (0, None), "logit_bias": ({}, None), "best_of": (1, None), "suffix": ("", None),
    "echo": (False, None), "tools": ([], None), "tool_choice": ("none", "auto", None), "functions": ([], None),
    "function_call": ("none", "auto", None), "response_format": ({"type": "text"}, None), "modalities": (["text"], None),
    "audio": (None,), "prediction": (None,), "reasoning_effort": (None,), "web_search_options": (None,), "verbosity": (None,),
    "min_tokens": (0, None), "ignore_eos": (False, None), "include_stop_str_in_output": (False, None), "use_beam_search": (False, None),
    "length_penalty": (1.0, None), "add_generation_prompt": (True, None), "continue_final_message": (False, None),
}  # fmt: skip
"""Fields that are not known here, with the values at which they ask for nothing."""
SHARED = (
    "model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "n", "stop",
    "stop_token_ids", "stream", "stream_options", "logprobs", "return_tokens_as_token_ids", "skip_special_tokens",
)  # fmt: skip
OWN: dict[Kind, tuple[str, ...]] = {"chat": ("messages", "top_logprobs"), "text": ("prompt",)}


def read(body: bytes, kind: Kind, limits: Limits) -> Ask:
    """A request's body.

    Raises:
        BadAsk: it is no JSON object, or a field is missing, unknown or out of its range.
    """
    asked = parse(body, limits.depth)
    known = (*SHARED, *OWN[kind])
    for name, value in asked.items():
        if name in NEUTRAL and name not in known:
            if value not in NEUTRAL[name] or isinstance(value, bool) != isinstance(NEUTRAL[name][0], bool | None):
                raise BadAsk(f"{name} is not known to this server: leave it out", name)
        elif name not in known and name not in PASSED_OVER:
            raise BadAsk(f"there is no field {name!r} here{closest(name, known)}: leave it out", name)
    get = _Fields(asked)
    stream, n = get.flag("stream"), get.whole("n", 1, 1, limits.n)
    assert n is not None
    options = get.get("stream_options", {})
    if not isinstance(options, dict) or (options and not stream):
        raise BadAsk("stream_options is a mapping, of a request with stream: true", "stream_options")
    most = limits.max_tokens if limits.max_tokens is not None else 10**9
    name = "max_completion_tokens" if asked.get("max_completion_tokens") is not None else "max_tokens"
    own: dict[str, Any] = {"turns": _turns(asked, limits)} if kind == "chat" else {"prompts": _prompts(asked, limits)}
    return Ask(
        kind=kind,
        model=get.text("model"),
        max_tokens=get.whole(name, limits.max_tokens if kind == "chat" else 16, 1, most),
        n=n,
        stop=_stop(asked, limits),
        stop_ids=tuple(_ids(asked.get("stop_token_ids") or [], "stop_token_ids")),
        sampling=_sampling(get),
        logprobs=_logprobs(get, kind, limits),
        ids=get.flag("return_tokens_as_token_ids"),
        stream=stream,
        usage=bool(options.get("include_usage", False)),
        **own,
    )


def parse(body: bytes, depth: int) -> dict[str, Any]:
    """A JSON object that is not nested deeper than `depth`, all its texts whole.

    Raises:
        BadAsk: it is something else.
    """
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadAsk(f"the body is no JSON that can be read here ({str(error)[:100]})") from None
    if not isinstance(found, dict):
        raise BadAsk(f"the body is a {type(found).__name__}, and a request is a JSON object")
    _check(found, depth)
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _check(value: Any, depth: int) -> None:
    if depth == 0:
        raise BadAsk("the body is nested too deeply")
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise BadAsk("a text holds half of a surrogate pair, which is no character") from None
    elif isinstance(value, dict | list):
        for one in (*value, *value.values()) if isinstance(value, dict) else value:
            _check(one, depth - 1)


class _Fields:
    """Typed access to the fields of a request; null is the same as absent."""

    def __init__(self, asked: Mapping[str, Any]) -> None:
        self.asked = asked

    def get(self, name: str, default: Any) -> Any:
        value = self.asked.get(name)
        return default if value is None else value

    def text(self, name: str) -> str:
        value = self.asked.get(name)
        if not isinstance(value, str) or not value:
            raise BadAsk(f"{name} is {value!r}, but must be a text", name)
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise BadAsk(f"{name} is {value!r}, but must be true or false", name)
        return value

    def whole(self, name: str, default: int | None, low: int, high: int) -> int | None:
        value = self.get(name, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise BadAsk(f"{name} is {str(value)[:40]}, but must be a whole number from {low} to {high}", name)
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise BadAsk(f"{name} is {str(value)[:40]}, but must be a number from {low:g} to {high:g}", name)
        return float(value)


def _sampling(get: _Fields) -> dict[str, Any]:
    temperature = get.number("temperature", 1.0, 0, 100)
    seed = get.whole("seed", None, -(2**63), 2**64 - 1)
    top_k = get.whole("top_k", 0, -1, 10**6) or 0
    return {
        "temperature": temperature,
        "top_p": get.number("top_p", 1.0, 1e-6, 1),
        "top_k": max(0, top_k),
        "min_p": get.number("min_p", 0.0, 0, 1),
        "repetition_penalty": get.number("repetition_penalty", 1.0, 0.01, 100),
        "seed": secrets.randbits(63) if seed is None else seed,
        "special": not get.flag("skip_special_tokens", True),
    }


def _logprobs(get: _Fields, kind: Kind, limits: Limits) -> int | None:
    if kind == "text":
        return get.whole("logprobs", None, 0, limits.logprobs)
    wanted, top = get.flag("logprobs"), get.whole("top_logprobs", 0, 0, limits.logprobs)
    if top and not wanted:
        raise BadAsk("top_logprobs needs logprobs: true", "top_logprobs")
    return top if wanted else None


def _stop(asked: Mapping[str, Any], limits: Limits) -> tuple[str, ...]:
    found = asked.get("stop")
    texts = [] if found is None else [found] if isinstance(found, str) else found
    fits = isinstance(texts, list) and len(texts) <= limits.stop
    if not fits or not all(isinstance(t, str) and 0 < len(t) <= limits.stop_length for t in texts):
        raise BadAsk(f"stop is a text or at most {limits.stop} texts, of 1 to {limits.stop_length} characters", "stop")
    return tuple(texts)


def _turns(asked: Mapping[str, Any], limits: Limits) -> tuple[Turn, ...]:
    messages = asked.get("messages")
    if not isinstance(messages, list) or not 0 < len(messages) <= limits.turns:
        raise BadAsk(f"messages is a list of 1 to {limits.turns} messages", "messages")
    try:
        turns = turns_of(messages, "messages")
    except BadRow as error:
        raise BadAsk(f"{error.column}: {error.reason}", "messages") from None
    if turns[-1].role == "assistant":
        raise BadAsk("the last message is the assistant's: end with what is asked", "messages")
    return turns


def _prompts(asked: Mapping[str, Any], limits: Limits) -> tuple[str | tuple[int, ...], ...]:
    given = asked.get("prompt")
    many = given if isinstance(given, list) and given and isinstance(given[0], str | list) else [given]
    if len(many) > limits.prompts:
        raise BadAsk(f"prompt holds {len(many)} prompts, and at most {limits.prompts} go into a request", "prompt")
    found: list[str | tuple[int, ...]] = []
    for one in many:
        if isinstance(one, str) and one:
            found.append(one)
        elif isinstance(one, list) and one:
            found.append(tuple(_ids(one, "prompt")))
        else:
            raise BadAsk(
                "prompt is a text, a list of texts, token ids, or a list of lists of them, none empty", "prompt"
            )
    return tuple(found)


def _ids(value: Any, name: str) -> list[int]:
    if not isinstance(value, list) or not all(isinstance(one, int) and not isinstance(one, bool) for one in value):
        raise BadAsk(f"{name} is a list of token ids", name)
    return value
