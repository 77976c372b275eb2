"""Where a reply ends and what its text is: stop ids, stop strings, and text that arrives piece by piece.

Left out: grammars and schemas.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bottega.core.errors import UserError
from bottega.core.types import Reply


@dataclass(slots=True)
class Written:
    """What one row has written so far."""

    number: int
    num_prompt: int
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    tops: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None
    text: str | None = None


class Stopper:
    """Ends a reply at a stop id (kept in `ids`, not in the text) or before a stop string (cut from the text)."""

    def __init__(
        self, tokenizer: Any, *, stop_ids: Collection[int], stop: Sequence[str], max_tokens: int, special: bool
    ) -> None:
        if stop and tokenizer is None:
            raise UserError(f"stop strings {list(stop)} need a tokenizer: pass one, or use stop_ids")
        self.tokenizer = tokenizer
        named = {text: _control_id(tokenizer, text) for text in stop}  # decoding leaves control tokens out of the text
        self.stop_ids = frozenset(stop_ids) | {number for number in named.values() if number is not None}
        self.stop = tuple(text for text, number in named.items() if number is None)
        self.max_tokens = max_tokens
        self.special = special
        self._tail = max((len(text.encode()) for text in self.stop), default=0) + 8
        self._core = getattr(tokenizer, "backend_tokenizer", None)

    def text(self, ids: Sequence[int]) -> str:
        """The text of `ids` without stop ids; empty without a tokenizer."""
        if self.tokenizer is None:
            return ""
        kept = [token for token in ids if token not in self.stop_ids]
        return self.tokenizer.decode(kept, skip_special_tokens=not self.special, clean_up_tokenization_spaces=False)

    def add(
        self, row: Written, token: int, logp: float | None, top: tuple[tuple[int, float], ...] | None = None
    ) -> None:
        """One more token of a row that has not finished."""
        row.ids.append(token)
        if logp is not None:
            row.logps.append(logp)
        if top is not None:
            row.tops.append(top)
        if token in self.stop_ids:
            row.finish = "stop"
        elif len(row.ids) >= self.max_tokens:
            row.finish = "length"

    def look(self, rows: Sequence[Written], num_new: int) -> None:
        """Look for stop strings in the last `num_new` tokens of `rows`, and end those at the first token that
        completes one."""
        if not self.stop or not rows:
            return
        # every token is at least a byte, so a string that ended just now lies within the last tokens
        tails = [row.ids[-(num_new + self._tail) :] for row in rows]
        if self._core is not None:
            texts = self._core.decode_batch(tails, skip_special_tokens=not self.special)
        else:
            texts = [self.text(tail) for tail in tails]
        for row, text in zip(rows, texts):
            if any(stop in text for stop in self.stop):
                self._cut(row, num_new)

    def _cut(self, row: Written, num_new: int) -> None:
        for length in range(max(1, len(row.ids) - num_new - self._tail), len(row.ids) + 1):
            text = self.text(row.ids[:length])
            places = [at for at in (text.find(stop) for stop in self.stop) if at >= 0]
            if places:
                row.ids, row.logps, row.tops = row.ids[:length], row.logps[:length], row.tops[:length]
                row.text, row.finish = text[: min(places)], "stop"
                return

    def reply(self, row: Written) -> Reply:
        """The finished row as a Reply."""
        text = row.text if row.text is not None else self.text(row.ids)
        usage = {"prompt_tokens": row.num_prompt, "completion_tokens": len(row.ids)}
        finish = row.finish or "length"
        ids, logps, tops = tuple(row.ids), tuple(row.logps), tuple(row.tops)
        return Reply(text=text, ids=ids, logps=logps, finish=finish, usage=usage, tops=tops)


def _control_id(tokenizer: Any, text: str) -> int | None:
    """The id of the control token whose whole text is `text`; None where there is none."""
    added = tokenizer.added_tokens_decoder.items()
    return next((number for number, token in added if token.special and token.content == text), None)


class TextStream:
    """Text in pieces: whole characters only, and nothing that may turn out to begin a stop string."""

    def __init__(self, stopper: Stopper) -> None:
        self._stopper = stopper
        self._anchor = self._read = 0
        self._held = ""
        self.sent = ""

    def push(self, row: Written) -> str:
        """The text that the row's newest tokens make certain; empty while nothing is."""
        before = self._stopper.text(row.ids[self._anchor : self._read])
        after = self._stopper.text(row.ids[self._anchor :])
        if after.endswith("\ufffd") or len(after) <= len(before):
            return ""
        self._anchor, self._read = self._read, len(row.ids)
        self._held += after[len(before) :]
        keep = max((self._overlap(stop) for stop in self._stopper.stop), default=0)
        piece, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        self.sent += piece
        return piece

    def _overlap(self, stop: str) -> int:
        return next((n for n in range(min(len(stop) - 1, len(self._held)), 0, -1) if self._held.endswith(stop[:n])), 0)

    def rest(self, text: str) -> str:
        """What is still to be sent of the finished reply's text."""
        return text[len(self.sent) :] if text.startswith(self.sent) else ""
