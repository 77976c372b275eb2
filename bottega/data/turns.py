"""Messages of every dialect to Turns: OpenAI, ShareGPT, prompt strings and Anthropic HH transcripts.

Left out: images and sound (refused with a sentence); what is trained of a turn is decided in chat.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bottega.core.types import Turn

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}
_THINKING = ("reasoning_content", "reasoning", "thinking")
_TRANSCRIPT = re.compile(r"\n\n(Human|Assistant):[ ]?")


class BadRow(Exception):
    """A row that cannot be used: the column at fault and one sentence (inside this room; outside it is a Problem)."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column, self.reason = column, reason


def text_of(value: Any, column: str) -> str:
    """A text, a number as text, or the text parts of a content list."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        for part in value:
            if part.get("type", "text") not in ("text", "input_text", "output_text"):
                raise BadRow(
                    column, f"a part of type {part.get('type')!r}; vision and sound are out of scope, only text is read"
                )
        return "".join(text_of(part.get("text", part.get("content")), column) for part in value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise BadRow(column, f"expected a text, found {'nothing' if value is None else type(value).__name__}")


def _weight(message: Mapping[str, Any], column: str) -> float | None:
    value = message.get("weight")
    if value is None:
        flag = message.get("train")
        return None if flag is None else float(bool(flag))
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e6:
        raise BadRow(f"{column}.weight", f"the weight {value!r} is not a number from 0 to a million")
    return float(value)


def tool_calls_of(value: Any, column: str) -> tuple[Mapping[str, Any], ...]:
    """Tool calls in the OpenAI shape, arguments parsed to an object where they are JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise BadRow(column, f"the function call is not JSON: {error.msg} at character {error.pos + 1}") from error
    calls = []
    for call in value if isinstance(value, list) else [value]:
        if not isinstance(call, Mapping):
            raise BadRow(column, f"a tool call is not an object but {type(call).__name__}")
        function = call.get("function", call)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadRow(column, "a tool call without the name of its function")
        arguments = function.get("arguments", function.get("parameters", {}))
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments) if arguments.strip() else {}
            except json.JSONDecodeError:
                pass  # a text that is no JSON stays a text
        shaped: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
        calls.append(shaped | ({"id": call["id"]} if isinstance(call.get("id"), str) else {}))
    return tuple(calls)


def _optional_text(message: Mapping[str, Any], key: str) -> str | None:
    value = message.get(key)
    return value if isinstance(value, str) and value else None


def turn_of(message: Any, column: str) -> Turn:
    """One message, of either dialect (role and content, or from and value).

    Raises:
        BadRow: no role, an unknown role, or nothing said.
    """
    if not isinstance(message, Mapping):
        raise BadRow(column, f"a turn is not an object but {type(message).__name__}")
    said = message.get("role", message.get("from"))
    if not isinstance(said, str) or said.lower() not in ROLES:
        raise BadRow(f"{column}.role", f"the role {said!r} is not one of {', '.join(ROLES)}")
    role = ROLES[said.lower()]
    content = next((message[key] for key in ("content", "value", "text") if message.get(key) is not None), None)
    thinking = next((message[key] for key in _THINKING if isinstance(message.get(key), str) and message[key]), None)
    calls: tuple[Mapping[str, Any], ...] = ()
    if said.lower() == "function_call":
        calls, content = tool_calls_of(content, column), ""
    elif message.get("tool_calls"):
        calls = tool_calls_of(message["tool_calls"], f"{column}.tool_calls")
    elif isinstance(message.get("function_call"), Mapping):
        calls = tool_calls_of(message["function_call"], f"{column}.function_call")
    text = "" if content is None and calls else text_of(content, f"{column}.content")
    if role == "assistant" and not calls and not text.strip():
        raise BadRow(f"{column}.content", "an answer without text")
    return Turn(
        role=role,
        content=text,
        thinking=thinking,
        tool_calls=calls,
        tool_call_id=_optional_text(message, "tool_call_id"),
        name=_optional_text(message, "name"),
        weight=_weight(message, column),
    )


def turns_of(value: Any, column: str) -> tuple[Turn, ...]:
    """A list of messages, or a list written as JSON text (as in csv files).

    Raises:
        BadRow: not a list, empty, or a bad turn in it (named by its place).
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise BadRow(column, f"expected a list of turns, found a text that is not JSON ({error.msg})") from error
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise BadRow(column, "expected a list with at least one turn")
    return tuple(turn_of(message, f"{column}[{place}]") for place, message in enumerate(value))


def tools_of(value: Any, column: str = "tools") -> tuple[Mapping[str, Any], ...]:
    """Tools on offer: a list of JSON schemas, as objects or as JSON text; a bare text becomes a description."""
    if value is None or value == "" or value == []:
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise BadRow(column, f"the tools are not JSON: {error.msg} at character {error.pos + 1}") from error
    if not isinstance(value, list):
        raise BadRow(column, f"expected a list of tools, found {type(value).__name__}")
    tools = []
    for tool in value:
        if isinstance(tool, str):
            try:
                tool = json.loads(tool)
            except json.JSONDecodeError:
                tool = {"name": tool, "description": tool, "parameters": {"type": "object", "properties": {}}}
        if not isinstance(tool, Mapping):
            raise BadRow(column, f"a tool is not an object but {type(tool).__name__}")
        tools.append(tool if "function" in tool else {"type": "function", "function": tool})
    return tuple(tools)


def prompt_of(value: Any, column: str) -> tuple[Turn, ...]:
    """A prompt: a list of messages, or a text (an HH transcript is taken apart, any other is one user turn)."""
    if isinstance(value, list):
        return turns_of(value, column)
    text = text_of(value, column)
    return transcript_of(text, column) if is_transcript(text) else (Turn(role="user", content=text),)


def is_transcript(text: Any) -> bool:
    """Whether a text is an Anthropic HH transcript: it starts with a `\\n\\nHuman:` turn."""
    return isinstance(text, str) and text.startswith("\n\nHuman:")


def transcript_of(text: str, column: str) -> tuple[Turn, ...]:
    """An Anthropic HH transcript to turns: '\\n\\nHuman: hi\\n\\nAssistant: hello' -> user hi, assistant hello.

    An open `\\n\\nAssistant:` at the end is the place of an answer, not a turn.
    """
    pieces = _TRANSCRIPT.split(text)
    turns = []
    for place, (speaker, said) in enumerate(zip(pieces[1::2], pieces[2::2])):
        role = "user" if speaker == "Human" else "assistant"
        if role == "assistant" and not said.strip():
            if place == len(pieces) // 2 - 1:
                break
            raise BadRow(column, f"turn {place + 1} of the transcript is an answer without text")
        turns.append(Turn(role=role, content=said.strip()))
    return tuple(turns)
