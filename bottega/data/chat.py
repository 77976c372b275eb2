"""Conversations to tokens with their loss mask: the only mask policy of the project.

Left out: where a turn lies in the rendered text (spans.py), named formats (templates.py).

A token trains with the weight of the span it touches. A trained turn's span starts where the model has to write and
ends behind the text that ends the turn, so the end token trains whatever its id is (pad = eos included).
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bottega.core.errors import UserError
from bottega.core.templates import MAX_SOURCE, Refused
from bottega.core.types import Conversation, Tokens, Turn
from bottega.data.sources import Problem
from bottega.data.spans import Chat, Jinja, Message, Span, learn, render, split_thinking
from bottega.data.templates import NAMED

MASKS = ("assistant", "last", "all")
THINKING = ("keep", "mask", "drop")
_OURS = frozenset(NAMED.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """A chat template: its source, whether it is ours, and the special tokens it is rendered with."""

    name: str
    source: str
    tokens: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def of(tokenizer: Any) -> Template:
        """The tokenizer's own template (its `default` one), or `plain` when it has none.

        Raises:
            UserError: several templates and none is the default.
        """
        source = tokenizer.chat_template
        if isinstance(source, Mapping):
            if "default" not in source:
                raise UserError(
                    f"the tokenizer has the templates {', '.join(source)} and no default; write one to a file"
                )
            source = source["default"]
        if not source:
            return Template.named("plain").bind(tokenizer)
        name = next((name for name, ours in NAMED.items() if ours == source), "tokenizer")
        return Template(name=name, source=source).bind(tokenizer)

    @staticmethod
    def named(name: str) -> Template:
        """One of our table.

        Raises:
            UserError: no such name.
        """
        if name not in NAMED:
            raise UserError(f"there is no template {name!r}; choose one of {', '.join(NAMED)}, or give a file")
        return Template(name=name, source=NAMED[name])

    @staticmethod
    def from_file(path: str | Path) -> Template:
        """A Jinja file, or the `chat_template` of a tokenizer_config.json.

        Raises:
            UserError: it cannot be read, or is too long.
        """
        import json

        try:
            text = Path(path).read_text(encoding="utf-8-sig")
            if Path(path).suffix == ".json":
                text = json.loads(text)["chat_template"]
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is not a readable template file ({type(error).__name__}); give a Jinja file"
            ) from error
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_SOURCE:
            raise UserError(f"{path} holds no template of 1 to {MAX_SOURCE:,} characters; give a Jinja file")
        return Template(name=Path(path).name, source=text)

    @staticmethod
    def find(name: str | None, tokenizer: Any) -> Template:
        """What a recipe's `template` means: None the tokenizer's own, a name of the table, or a file."""
        if name is None or name == "tokenizer":
            return Template.of(tokenizer)
        template = Template.named(name) if name in NAMED or not Path(name).is_file() else Template.from_file(name)
        return template.bind(tokenizer)

    @property
    def sha256(self) -> str:
        """The hash of the source: what a run records and compares."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def jinja(self) -> Jinja:
        """What is rendered: strangers' sources in the worker, ours here."""
        return Jinja(source=self.source, trusted=self.source in _OURS, tokens=self.tokens)

    def bind(self, tokenizer: Any) -> Template:
        """The template with the tokenizer's special tokens filled in, unless it has some already."""
        if self.tokens:
            return self
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        return replace(self, tokens=tuple((name, getattr(tokenizer, name, None) or "") for name in names))

    def render(self, conversation: Conversation | Sequence[Turn], *, add_generation_prompt: bool = False) -> str:
        """The text of a conversation (or of turns).

        Raises:
            UserError: the template refuses it. Unsafe: the template breaks a limit.
        """
        turns, tools = _parts(conversation)
        text = self.jinja.many([([to_message(t) for t in turns], tools, add_generation_prompt)])[0]
        if isinstance(text, Refused):
            raise UserError(text.reason)
        return text

    def notes(self, tokenizer: Any) -> tuple[str, ...]:
        """What a user should know: prefix stability, missing prompts, and ends that are no single token."""
        shape = learn(self.bind(tokenizer).jinja)
        end = shape.ends["assistant"].strip()
        notes = [f"template {self.name}: {note}" for note in shape.notes]
        if self.name == "plain" and not getattr(tokenizer, "chat_template", None):
            notes.append("the tokenizer has no chat template, so `plain` is used")
        if end and len(tokenizer(end, add_special_tokens=False)["input_ids"]) > 1:
            notes.append(
                f"template {self.name}: {end!r}, which ends an answer, is not one token of this tokenizer; "
                "add it as a special token or choose another template"
            )
        return tuple(notes)


def _parts(conversation: Conversation | Sequence[Turn]) -> tuple[Sequence[Turn], tuple[Any, ...]]:
    if isinstance(conversation, Conversation):
        return conversation.turns, conversation.tools
    return conversation, ()


def to_message(turn: Turn, thinking: str = "keep", takes: str = "field") -> Message:
    """A turn as templates see it.

    Args:
        thinking: `drop` leaves the thinking out.
        takes: `field` gives the thinking apart from the content, `content` as a block in it.
    """
    message: Message = {"role": turn.role, "content": turn.content}
    if turn.tool_calls:
        message["tool_calls"] = [dict(call) for call in turn.tool_calls]
    if turn.tool_call_id is not None:
        message["tool_call_id"] = turn.tool_call_id
    if turn.name is not None:
        message["name"] = turn.name
    if turn.role != "assistant":
        return message
    inline, answer = split_thinking(turn.content)
    thought = turn.thinking if turn.thinking is not None else inline
    if thought is None:
        return message
    if thinking == "drop":
        message["content"] = answer
    elif takes == "field":
        message |= {"content": answer, "reasoning_content": thought, "thinking": thought, "reasoning": thought}
    elif turn.thinking is not None:
        message["content"] = f"<think>\n{thought}\n</think>\n\n{answer}"
    return message


def starting(mask: str) -> int | None:
    """N of the mask `from:N` (train from the N-th token on); None for the other masks.

    Raises:
        UserError: no such mask.
    """
    head, _, number = mask.partition(":")
    if mask not in MASKS and not (head == "from" and number.isascii() and number.isdigit()):
        raise UserError(f"there is no mask {mask!r}; choose assistant, last, all or from:N (from the N-th token on)")
    return int(number) if head == "from" else None


def turn_weights(turns: Sequence[Turn], mask: str) -> dict[int, float]:
    """The mask policy: turn -> weight, for the turns whose weight is not the row's background.

    A turn's own weight wins. Otherwise `assistant` trains every assistant turn, `last` the last one; `all` and
    `from:N` train the background, so only turns with a weight of their own are named.
    """
    own = {place: turn.weight for place, turn in enumerate(turns) if turn.weight is not None}
    if mask == "all" or starting(mask) is not None:
        return own
    spoken = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
    chosen = dict.fromkeys(spoken[-1:] if mask == "last" else spoken, 1.0)
    return {place: weight for place, weight in (chosen | own).items() if weight > 0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """A conversation as tokens, with the text and the places they come from (offset (-1, -1): a BOS put in front)."""

    tokens: Tokens
    text: str
    offsets: Sequence[tuple[int, int]]
    spans: tuple[Span, ...]
    notes: tuple[str, ...] = ()


def uses_bos(tokenizer: Any) -> bool:
    """Whether rows of this tokenizer start with its BOS: whether it puts one in front of a text by itself.

    The attribute `add_bos_token` does not tell (it is False for tokenizers whose post-processor adds one), so we look.
    """
    bos = tokenizer.bos_token_id
    return bos is not None and list(tokenizer("a")["input_ids"])[:1] == [bos]


def tokenize(texts: Sequence[str], tokenizer: Any) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Ids and character offsets of each text, with exactly one BOS in front where the tokenizer uses one.

    Raises:
        UserError: a tokenizer without offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError("this tokenizer gives no character offsets; use its fast version (tokenizer.json)")
    batch = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    bos, puts = tokenizer.bos_token_id, uses_bos(tokenizer)
    encoded = []
    for ids, offsets in zip(batch["input_ids"], batch["offset_mapping"]):
        ids, offsets = list(ids), list(offsets)
        while bos is not None and ids[:2] == [bos, bos]:
            ids, offsets = ids[1:], offsets[1:]
        if puts and ids[:1] != [bos]:
            ids, offsets = [bos, *ids], [(-1, -1), *offsets]
        encoded.append((ids, offsets))
    return encoded


def encode_many(
    conversations: Sequence[Conversation],
    tokenizer: Any,
    template: Template,
    *,
    mask: str = "assistant",
    thinking: str = "keep",
) -> list[Encoded | Problem]:
    """Tokens with their mask for each conversation, or the reason why not.

    Args:
        mask: `assistant` (every answer), `last` (the last answer), `all` (the whole text), `from:N` (from the N-th
            token on); a turn's own weight wins over it.
        thinking: `keep` trains thinking blocks, `mask` shows them without training them, `drop` leaves them out.

    Raises:
        UserError: an unknown mask or thinking; a template that does not parse. Unsafe: a template that breaks a limit.
    """
    starting(mask)
    if thinking not in THINKING:
        raise UserError(f"there is no thinking {thinking!r}; choose one of {', '.join(THINKING)}")
    bound = template.bind(tokenizer)
    takes = learn(bound.jinja).thinking
    plans = [turn_weights(conversation.turns, mask) for conversation in conversations]
    chats = [
        Chat(
            messages=tuple(to_message(turn, thinking, takes) for turn in conversation.turns),
            tools=conversation.tools,
            wanted=frozenset(plan),
        )
        for conversation, plan in zip(conversations, plans)
    ]
    answers: list[Any] = [
        _refusal(conversation, bound) or rendered
        for conversation, rendered in zip(conversations, render(chats, bound.jinja))
    ]
    good = [place for place, answer in enumerate(answers) if not isinstance(answer, Refused)]
    for place, (ids, offsets) in zip(
        good, tokenize([answers[place].text for place in good], tokenizer) if good else []
    ):
        rendered, conversation = answers[place], conversations[place]
        lost = _lost_thinking(rendered.lost_thinking, conversation.turns, thinking)
        if isinstance(lost, Refused):
            answers[place] = lost
            continue
        spans = [
            span if conversation.turns[span.turn].ends else span._replace(end=span.closed) for span in rendered.spans
        ]
        trains = _trains(offsets, spans, plans[place], mask, thinking == "mask")
        words = sorted({conversation.turns[turn].role for turn in rendered.lost_words})
        if words:
            lost += (f"the template leaves out or changes the words of {' and '.join(words)} turns",)
        answers[place] = Encoded(
            tokens=Tokens(ids, trains), text=rendered.text, offsets=offsets, spans=rendered.spans, notes=lost
        )
    return [
        Problem(conversation.where, answer.reason) if isinstance(answer, Refused) else answer
        for conversation, answer in zip(conversations, answers)
    ]


def _refusal(conversation: Conversation, template: Template) -> Refused | None:
    """Tools that the template would leave out without a word."""
    if conversation.tools and "tools" not in template.source.replace("for tools", ""):
        return Refused(f"the template {template.name} has no place for tools; use qwen, llama3, mistral or granite")
    if any(turn.tool_calls for turn in conversation.turns) and "tool_calls" not in template.source:
        return Refused(
            f"the template {template.name} has no place for tool calls; use qwen, llama3, mistral or granite"
        )
    return None


def _lost_thinking(lost: Sequence[int], turns: Sequence[Turn], thinking: str) -> tuple[str, ...] | Refused:
    """A note for earlier turns whose thinking the template leaves out; for the last exchange that is a problem."""
    if not lost or thinking == "drop":
        return ()
    asked = max((place for place, turn in enumerate(turns) if turn.role == "user"), default=-1)
    if max(lost) > asked:
        return Refused(
            f"the template leaves out the thinking of turn {max(lost) + 1}; say thinking: drop, "
            "or take a template that keeps it"
        )
    return (f"the template leaves out the thinking of {len(lost)} earlier turns",)


def _trains(
    offsets: Sequence[tuple[int, int]],
    spans: Sequence[Span],
    weights: Mapping[int, float],
    mask: str,
    mask_thinking: bool,
) -> list[float]:
    """The weight of each token: the background's, then that of each span it touches; the first never trains."""
    begin = 0 if mask == "all" else starting(mask)
    size = len(offsets)
    trains = [0.0] * size if begin is None else [0.0] * min(begin, size) + [1.0] * max(0, size - begin)
    starts, ends = [start for start, _ in offsets], [end for _, end in offsets]
    for span in spans:
        low, high = bisect_right(ends, span.start), bisect_left(starts, span.end)
        trains[low:high] = [weights[span.turn]] * (high - low)
        if mask_thinking and span.answer > span.start:
            high = bisect_right(ends, span.answer)
            trains[low:high] = [0.0] * (high - low)
    if trains:
        trains[0] = 0.0
    return trains


def encode(
    conversation: Conversation, tokenizer: Any, template: Template, *, mask: str = "assistant", thinking: str = "keep"
) -> Tokens:
    """Tokens of one conversation with their mask; see `encode_many`.

    Raises:
        UserError: the conversation cannot be encoded; names its place and why.
    """
    answer = encode_many([conversation], tokenizer, template, mask=mask, thinking=thinking)[0]
    if isinstance(answer, Problem):
        raise UserError(str(answer))
    return answer.tokens


def encode_prompt(turns: Sequence[Turn] | Conversation, tokenizer: Any, template: Template) -> list[int]:
    """Ids of a conversation with the prompt to generate behind it: exactly what stands before a trained answer.

    Raises:
        UserError: the template refuses the turns.
    """
    bound = template.bind(tokenizer)
    text = bound.render(turns, add_generation_prompt=True)
    shape = learn(bound.jinja)
    if not shape.prompt and shape.gap.strip():
        text += shape.gap
    return tokenize([text], tokenizer)[0][0]


def text_tokens(texts: Sequence[str], tokenizer: Any) -> list[Tokens]:
    """Plain texts as tokens: BOS where the tokenizer uses one, the text, EOS; all but the first token train."""
    eos = tokenizer.eos_token_id
    rows = []
    for ids, _ in tokenize(texts, tokenizer):
        if eos is not None and ids[-1:] != [eos]:
            ids = [*ids, eos]
        rows.append(Tokens(ids, [0.0] + [1.0] * (len(ids) - 1) if ids else []))
    return rows
