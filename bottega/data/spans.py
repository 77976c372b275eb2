"""Where each trained turn lies in a rendered conversation, in characters: the ground of every loss mask.

Left out: token ids and weights (chat.py). Nothing here knows a template's name or a special token.

The contents of trained turns are marked with private-use characters, the conversation is rendered once, and the marks
are taken out again: that gives the exact text and where each content lies in it. What the template writes around an
answer (the prompt to generate in front, the text that ends the turn behind) is learnt once per template from probe
conversations. A turn that does not look like the probe (tool calls, a template that reacts to the marks) is found by
rendering its prefixes and comparing; where even that fails, the row is a problem and says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from bottega.core.templates import MARKS as GENERATION
from bottega.core.templates import Refused, render_many

OPEN, CLOSE, THINK_OPEN, THINK_CLOSE, CALL, BEGIN = "\uf8f2", "\uf8f3", "\uf8f4", "\uf8f5", "\uf8f6", "\uf8f7"
_MARK = re.compile("[\uf8f0-\uf8f7]")
_INLINE = re.compile(r"\A\s*<think>(.*?)</think>\s*", re.DOTALL)
Message = dict[str, Any]


class Span(NamedTuple):
    """A trained turn's place in the text: [start, end) is what the model has to write, its end token included.

    answer: where the content after a thinking block begins (start, when there is none). closed: where the content ends.
    """

    turn: int
    start: int
    answer: int
    end: int
    closed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """One conversation as a template sees it: messages, tools, and the turns whose places are wanted."""

    messages: tuple[Message, ...]
    tools: tuple[Any, ...] = ()
    wanted: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """The exact text, the wanted turns' spans, the turns whose thinking the template left out, and those whose
    words.
    """

    text: str
    spans: tuple[Span, ...]
    lost_thinking: tuple[int, ...] = ()
    lost_words: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Jinja:
    """A template's source with what it is rendered with; the key of what was learnt about it."""

    source: str
    trusted: bool
    tokens: tuple[tuple[str, str], ...] = ()

    def many(self, chats: Sequence[tuple[Sequence[Message], Any, bool]], *, marks: bool = False) -> list[str | Refused]:
        """Texts of (messages, tools, add_generation_prompt), in order."""
        rows = [
            {
                **dict(self.tokens),
                "messages": list(messages),
                "tools": list(tools) or None,
                "add_generation_prompt": prompt,
                "mark_generation": marks,
            }
            for messages, tools, prompt in chats
        ]
        return render_many(self.source, rows, trusted=self.trusted)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What a template writes around turns, learnt from probes.

    prompt: the prompt to generate, as far as finished turns repeat it; gap: all that stands between a prompt without
        it and an answer; ends: role -> the text that ends a turn of it; notes: what a user should know. thinking:
        `field` when the template takes the thinking apart from the content, `content` when it leaves a block in the
        content alone, else `none`.
    """

    prompt: str
    gap: str
    ends: dict[str, str]
    thinking: str
    notes: tuple[str, ...]


def split_thinking(text: str) -> tuple[str | None, str]:
    """The thinking block that starts a content, and the rest: '<think>\\nhm\\n</think>\\n\\nyes' -> ('hm', 'yes')."""
    match = _INLINE.match(text)
    return (match[1].strip("\n"), text[match.end() :]) if match else (None, text)


def _say(role: str, content: str, **more: Any) -> Message:
    return {"role": role, "content": content, **more}


def _tail(text: str, mark: str) -> str:
    return text.rpartition(mark)[2]


@lru_cache(maxsize=64)
def learn(template: Jinja) -> Shape:
    """What `template` writes around turns.

    Raises:
        Unsafe, UserError: from rendering.
    """
    asked, said = _say("user", "Mnop"), _say("assistant", f"{OPEN}Abcd{CLOSE}")
    thought = {"reasoning_content": "Thgt", "thinking": "Thgt", "reasoning": "Thgt"}
    texts = template.many(
        [
            ([asked, said], (), False),
            ([asked], (), False),
            ([asked], (), True),
            ([asked, said, asked, _say("assistant", "Efgh")], (), False),
            ([asked, _say("assistant", "Abcd", **thought)], (), False),
            ([asked, _say("assistant", "<think>\nThgt\n</think>\n\nAbcd")], (), False),
            ([_say("system", "Qrst"), asked], (), False),
            ([_say("system", "Qrst"), asked, said], (), False),
        ]
    )
    one, bare, asking, two, field, inline, told, answered = (
        "" if isinstance(text, Refused) else text for text in texts
    )
    notes = []
    prompt = gap = ""
    if one and bare and one.startswith(bare.rstrip()):
        common = bare if one.startswith(bare) else bare.rstrip()
        gap = one[len(common) : one.index(OPEN)] if OPEN in one else ""
        offered = asking[len(common) :] if asking.startswith(common) else ""
        prompt = os.path.commonprefix([offered, gap])
        if offered and offered != prompt:
            notes.append("its prompt to generate is not what stands in front of finished answers")
        if not offered and gap.strip():
            notes.append("it has no prompt to generate; the text in front of answers is used as one")
    else:
        notes.append("it is not prefix-stable: a finished answer changes the text in front of it")
    last = _tail(one, CLOSE) if CLOSE in one else ""
    middle = two.partition(CLOSE)[2] if CLOSE in two else ""
    end = os.path.commonprefix([last, middle]) if middle else last
    whole = one.replace(OPEN, "").replace(CLOSE, "")
    if two and whole and not two.replace(OPEN, "").replace(CLOSE, "").startswith(whole.rstrip()):
        notes.append("it is not prefix-stable: later turns change the text of earlier ones")
    if told and not answered.startswith(told.rstrip()):
        notes.append(
            "it is not prefix-stable: it writes the system turn elsewhere, or not at all, once there is an answer"
        )
    if not end.strip():
        notes.append("it writes nothing that ends an answer; the tokenizer's end token is put behind the last one")
    ends = {"assistant": end.rstrip() or end, "user": _tail(bare, "Mnop").rstrip()}
    thinking = "field" if "Thgt" in field else ("content" if "Thgt" in inline else "none")
    return Shape(prompt=prompt, gap=gap, ends=ends, thinking=thinking, notes=tuple(notes))


def _marked(text: str, opening: str, closing: str) -> str:
    """The text with marks around all but its outer white space, so that trimming templates trim the same."""
    core = text.strip()
    if not core:
        return text
    at = text.index(core)
    return text[:at] + opening + core + closing + text[at + len(core) :]


def _mark_message(message: Message) -> Message:
    """The message with marks around its words and its thinking, and one in front of each called function's name."""
    marked = dict(message)
    content = message["content"]
    thinking, answer = (None, content) if message.get("reasoning_content") else split_thinking(content)
    if thinking is None:
        marked["content"] = _marked(content, OPEN, CLOSE)
    else:
        head = content[: len(content) - len(answer)]
        if thinking.strip():
            head = head.replace(thinking, _marked(thinking, THINK_OPEN, THINK_CLOSE), 1)
        marked["content"] = head.replace("<think>", BEGIN + "<think>", 1) + _marked(answer, OPEN, CLOSE)
    for field in ("reasoning_content", "thinking", "reasoning"):
        if message.get(field):
            marked[field] = _marked(message[field], THINK_OPEN, THINK_CLOSE)
    if message.get("tool_calls"):
        marked["tool_calls"] = [
            {**call, "function": {**call["function"], "name": CALL + call["function"]["name"]}}
            for call in message["tool_calls"]
        ]
    return marked


def unmark(text: str) -> tuple[str, list[tuple[str, int]]]:
    """The text without marks, and each mark with its place in that text."""
    pieces, places, at, size = [], [], 0, 0
    for match in _MARK.finditer(text):
        pieces.append(text[at : match.start()])
        size += match.start() - at
        places.append((match[0], size))
        at = match.end()
    pieces.append(text[at:])
    return "".join(pieces), places


def render(chats: Sequence[Chat], template: Jinja) -> list[Rendered | Refused]:
    """Text and spans of every conversation, or the reason why not; all share the trips to the worker.

    Raises:
        Unsafe, UserError: from rendering.
    """
    shape = learn(template)
    marked = template.many(
        [([_mark_message(m) if i in c.wanted else m for i, m in enumerate(c.messages)], c.tools, False) for c in chats]
    )
    plain: Sequence[str | Refused | None] = [None] * len(chats)
    if not template.trusted:
        plain = template.many([(chat.messages, chat.tools, False) for chat in chats])
    answers: list[Rendered | Refused] = []
    for chat, text, exact in zip(chats, marked, plain):
        if isinstance(exact, Refused) or (exact is None and isinstance(text, Refused)):
            answers.append(exact if isinstance(exact, Refused) else text)  # type: ignore[arg-type]
        elif any(_MARK.search(str(m.get(k, ""))) for m in chat.messages for k in ("content", "reasoning_content")):
            answers.append(
                Refused("a text holds one of the private characters U+F8F0 to U+F8F7, which mark places here")
            )
        else:
            answers.append(_locate(chat, text, exact, template, shape))
    return answers


def _locate(chat: Chat, text: str | Refused, exact: str | None, template: Jinja, shape: Shape) -> Rendered | Refused:
    clean, places = ("", []) if isinstance(text, Refused) else unmark(text)
    whole = clean if exact is None else exact
    found = _contents(chat, places) if clean == whole else {}
    spans: list[Span] = []
    lost = []
    at = 0
    for turn in sorted(chat.wanted):
        opened = found.get(turn)
        near = _near(turn, chat.messages[turn], whole, opened, at, shape) if opened else None
        span = near or _by_prefix(turn, chat, whole, opened, at, template)
        if isinstance(span, Refused):
            return span
        if opened and opened.thinks and not opened.there:
            lost.append(turn)
        spans.append(span)
        at = span.end
    whole, spans = _closed(chat, whole, spans, template, shape)
    said = [(i, split_thinking(m["content"])[1].strip()) for i, m in enumerate(chat.messages) if m["role"] != "tool"]
    words = tuple(i for i, core in said if core not in whole)
    return Rendered(text=whole, spans=tuple(spans), lost_thinking=tuple(lost), lost_words=words)


class Found(NamedTuple):
    """The marks of a turn in the text: where its words open, where its last mark is (the words' end, or the name of the
    last called function), where a thinking block in the content begins (-1: none), whether it thinks, and whether the
    thinking is there."""

    opened: int
    closed: int
    begins: int
    thinks: bool
    there: bool


def _contents(chat: Chat, places: list[tuple[str, int]]) -> dict[int, Found]:
    """What was found of each wanted turn.

    Contents appear in the order of their turns; when one is missing, no place can be trusted and nothing is returned.
    """
    by_mark = {mark: [at for one, at in places if one == mark] for mark in (OPEN, CLOSE, CALL, THINK_OPEN, BEGIN)}
    opens, closes, calls = (iter(by_mark[mark]) for mark in (OPEN, CLOSE, CALL))
    found: dict[int, Found] = {}
    before = words = names = 0
    for turn in sorted(chat.wanted):
        message = chat.messages[turn]
        thinking, answer = split_thinking(message["content"])
        spots = [spot for spot in (next(opens, -1), next(closes, -1))] if answer.strip() else []
        spots += [next(calls, -1) for _ in message.get("tool_calls") or ()]
        words, names = words + bool(answer.strip()), names + len(message.get("tool_calls") or ())
        if not spots or min(spots) < before:
            return {}
        thinks = bool((message.get("reasoning_content") or thinking or "").strip())
        there = any(before <= at <= spots[0] for at in by_mark[THINK_OPEN])
        begins = next((at for at in by_mark[BEGIN] if before <= at <= spots[0]), -1)
        found[turn] = Found(spots[0], spots[-1], begins, thinks, there)
        before = spots[-1]
    whole = (len(by_mark[OPEN]), len(by_mark[CLOSE]), len(by_mark[CALL])) == (words, words, names)
    return found if whole else {}


def _near(turn: int, message: Message, text: str, found: Found, at: int, shape: Shape) -> Span | None:
    """The span of a turn that looks like the probe's: its prompt somewhere before, its end right behind (behind a tool
    call: the first end that follows)."""
    opened, closed = found.opened, found.closed
    content = split_thinking(message["content"])[1]
    core = content.strip()
    cut = content.index(core) if core else 0
    lead, trail = content[:cut], content[cut + len(core) :]
    end = shape.ends.get(message["role"], "")
    if message.get("tool_calls"):
        closed = text.find(end, closed) if end and end not in str(message["tool_calls"]) else -1
        if closed < 0 or (shape.prompt and text.find(shape.prompt, found.closed, closed) >= 0):
            return None
    elif trail and text.startswith(trail + end, closed):
        closed += len(trail)
    if not text.startswith(end, closed):
        return None
    answer = opened - len(lead) if lead and text.endswith(lead, 0, opened) else opened
    start = found.begins if found.begins >= 0 else answer
    if message["role"] == "assistant":
        if shape.prompt:
            header = text.rfind(shape.prompt, at, opened)
            if header < 0:
                return None
            start = header + len(shape.prompt)
        elif message.get("tool_calls") or (found.there and found.begins < 0):
            return None
        elif not shape.gap.strip() and text.endswith(shape.gap, at, start):
            start -= len(shape.gap)
            answer = start if found.begins < 0 else answer
    return Span(turn, start, max(answer, start), closed + len(end), closed)


def _by_prefix(turn: int, chat: Chat, text: str, found: Found | None, at: int, template: Jinja) -> Span | Refused:
    """The span between the text of the turns before, prompt to generate included, and that of the turns up to it."""
    shape = learn(template)
    before, upto = chat.messages[:turn], chat.messages[: turn + 1]
    requests = [(before, chat.tools, False), (before, chat.tools, True), (upto, chat.tools, False)]
    bare, asking, done = template.many(requests)
    start = end = -1
    if isinstance(asking, str) and asking != bare and text.startswith(asking):
        start = len(asking)
    elif isinstance(bare, str) and before and text.startswith(bare) and not shape.gap.strip():
        start = len(bare)
    elif found and not (found.there or chat.messages[turn].get("tool_calls")):
        start = found.opened
    elif turn and chat.messages[turn - 1]["role"] == "user" and shape.ends["user"] and found:
        asked = text.rfind(shape.ends["user"], at, found.opened)
        start = asked + len(shape.ends["user"]) if asked >= 0 else -1
    elif isinstance(bare, str) and before and text.startswith(bare):
        start = len(bare)
    if isinstance(done, str) and done.strip() and text.startswith(done.rstrip()):
        end = len(done.rstrip())
    elif found and shape.ends["assistant"].strip():
        after = text.find(shape.ends["assistant"], found.closed)
        end = after + len(shape.ends["assistant"]) if after >= 0 else -1
    if start < at or end < start or (found and not start <= found.opened <= found.closed <= end):
        return Refused(
            f"the template is not prefix-stable, so turn {turn + 1} cannot be found in its text; give it weight 0, "
            "or name another template"
        )
    return Span(turn, start, max(start, found.opened) if found else start, end, found.closed if found else end)


def _closed(chat: Chat, text: str, spans: list[Span], template: Jinja, shape: Shape) -> tuple[str, list[Span]]:
    """With the end token behind a last answer that the template leaves open."""
    last = len(chat.messages) - 1
    if not spans or spans[-1].turn != last or chat.messages[last]["role"] != "assistant":
        return text, spans
    eos = dict(template.tokens).get("eos_token", "")
    if shape.ends["assistant"].strip() or not eos or text.endswith(eos):
        return text, spans
    return text + eos, [*spans[:-1], spans[-1]._replace(end=len(text) + len(eos))]


def generated(chat: Chat, template: Jinja) -> list[tuple[int, int]] | None:
    """The spans that the template itself marks with `{% generation %}`; None when it has no such mark."""
    if "generation" not in template.source.replace("add_generation_prompt", ""):
        return None
    text = template.many([(chat.messages, chat.tools, False)], marks=True)[0]
    if isinstance(text, Refused):
        return None
    places = unmark(text)[1]
    opens = [place for mark, place in places if mark == GENERATION[0]]
    closes = [place for mark, place in places if mark == GENERATION[1]]
    return list(zip(opens, closes)) if opens else None
