"""A model behind an endpoint, asked for the replies of a task.

Left out: log-probabilities of given texts, which endpoints do not give.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from bottega.core.errors import Unanswered, UserError
from bottega.core.types import Reply, Turn
from bottega.models.remote import Endpoint, ask_all


class Remote:
    """opened(raw): the endpoint, for conversations or for texts that are continued as they are. usage, questions: so far."""

    def __init__(self, *, opened: Callable[[bool], Endpoint]) -> None:
        self._opened = opened
        self.usage: Counter[str] = Counter()
        self.questions = 0

    def plain(self, text: str) -> list[Turn]:
        """A text that is continued."""
        return [Turn(role="user", content=text)]

    def chat(self, turns: Sequence[Turn]) -> list[Turn]:
        """The conversation itself: the endpoint has the template."""
        return list(turns)

    def replies(self, prompts: Sequence[Any], *, max_tokens: int, stop: Sequence[str], chat: bool) -> list[Reply]:
        """Greedy replies; one that is empty counts as what the model said.

        Raises:
            UserError: some question got no answer: a score of the others would be another task's.
        """
        sampling = {"max_tokens": max_tokens, "temperature": 0.0, "stop": list(stop) or None}
        found = asyncio.run(ask_all(self._opened(not chat), [(turns, sampling) for turns in prompts]))
        replies = [one if isinstance(one, Reply) else _empty(one) for one in found]
        lost = [error for error, reply in zip(found, replies) if reply is None]
        if lost:
            raise UserError(
                f"{len(lost):,} of {len(found):,} questions got no answer, the first for this reason: {lost[0]}; score it again"
            )
        answered = [reply for reply in replies if reply is not None]
        for reply in answered:
            self.usage.update(reply.usage)
        self.questions += len(answered)
        return answered


def _empty(error: Unanswered) -> Reply | None:
    return Reply(text="", finish="stop") if error.reason == "empty" else None
