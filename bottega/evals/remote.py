"""A model behind an endpoint, asked for the replies of a task.

Left out: log-probabilities of given texts, which endpoints do not give.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from bottega.core import journal
from bottega.core.errors import Unanswered, UserError
from bottega.core.types import Reply, Turn
from bottega.evals.engine import Fit
from bottega.models.remote import Endpoint, ask_all


class Remote:
    """opened(raw): the endpoint, for conversations or for texts that are continued as they are. answers: keeps each reply as it
    comes, so that no question is asked twice. usage, questions: so far, of this time."""

    def __init__(self, *, opened: Callable[[bool], Endpoint], answers: journal.Journal | None = None) -> None:
        self._opened, self._answers = opened, answers
        self.usage: Counter[str] = Counter()
        self.questions = 0

    def plain(self, text: str) -> list[Turn]:
        """A text that is continued."""
        return [Turn(role="user", content=text)]

    def chat(self, turns: Sequence[Turn]) -> list[Turn]:
        """The conversation itself: the endpoint has the template."""
        return list(turns)

    def replies(
        self, prompts: Sequence[Any], *, max_tokens: int, stop: Sequence[str], chat: bool, fit: Fit = "refuse"
    ) -> list[Reply]:
        """Greedy replies; one that is empty counts as what the model said. What fits is the endpoint's to say.

        Raises:
            UserError: some question got no answer: a score of the others would be another task's.
        """
        sampling = {"max_tokens": max_tokens, "temperature": 0.0, "stop": list(stop) or None}
        endpoint = self._opened(not chat)
        names = [_name(endpoint, turns, sampling) for turns in prompts]
        replies = [self._kept(name) for name in names]
        asked = [at for at, reply in enumerate(replies) if reply is None]

        def came(number: int, reply: Reply) -> None:
            if self._answers is not None:
                self._answers.put(names[asked[number]], _answer(reply))

        found = asyncio.run(ask_all(endpoint, [(prompts[at], sampling) for at in asked], came=came)) if asked else []
        for at, one in zip(asked, found):
            replies[at] = one if isinstance(one, Reply) else _empty(one)
        lost = [error for at, error in zip(asked, found) if replies[at] is None]
        answered = [reply for reply in replies if reply is not None]
        if lost:
            again = "score it again" + ("" if self._answers else ", with --answers FILE to keep those that come")
            raise UserError(
                f"{len(lost):,} of {len(names):,} questions got no answer, the first for this reason: {lost[0]}; {again}"
            )
        for at in asked:
            self.usage.update(answered[at].usage)
        self.questions += len(asked)
        return answered

    def _kept(self, name: bytes) -> Reply | None:
        found = self._answers.get(name) if self._answers is not None else None
        return Reply(text=found.text, finish=_finish(found.finish)) if found is not None else None


def _name(endpoint: Endpoint, turns: Sequence[Turn], sampling: dict[str, Any]) -> bytes:
    said = [endpoint.api, *([turn.role, turn.content] for turn in turns)]
    return journal.key(endpoint.identity, "", said, sampling, 0)


def _answer(reply: Reply) -> journal.Answer:
    counts = [reply.usage.get(name, 0) for name in ("prompt_tokens", "completion_tokens")]
    return journal.Answer(reply.text, reply.finish, *counts)


def _finish(said: str) -> Any:
    return said if said in ("stop", "length") else "error"


def _empty(error: Unanswered) -> Reply | None:
    return Reply(text="", finish="stop") if error.reason == "empty" else None
