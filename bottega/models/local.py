"""A model on this machine as a Responder: the same interface as an endpoint, questions answered in batches.

Left out: how turns become ids (whoever makes it says that), streaming. A reply does not depend on its batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bottega.core.errors import Unanswered, UserError
from bottega.core.types import Reply, Sampler, Turn


@dataclass(kw_only=True, slots=True, eq=False)
class _Question:
    """A conversation that waits for its reply."""

    ids: list[int]
    settings: dict[str, Any]
    seed: int
    future: asyncio.Future[Reply]
    outcome: Reply | Unanswered | None = None

    def tell(self) -> None:
        if not self.future.done():
            if isinstance(self.outcome, Reply):
                self.future.set_result(self.outcome)
            elif self.outcome is not None:
                self.future.set_exception(self.outcome)


class Local:
    """A Responder over a Sampler. Use it in an `async with`. opens: an empty last user's turn is one that it writes."""

    opens = True

    def __init__(
        self,
        sampler: Sampler,
        *,
        identity: str,
        encode: Callable[[Sequence[Turn]], list[int]],
        stops: dict[str, Any] | None = None,
        batch: int = 16,
        room: int | None = None,
    ) -> None:
        """sampler: a `Generator`. encode: turns -> prompt ids. stops: `stop_ids` and `stop` that end a turn. batch: questions
        answered together. room: the model's positions; a reply gets what its prompt leaves of them."""
        self.identity = identity
        self._sampler, self._encode, self._batch = sampler, encode, batch
        self._stops, self._room = stops or {}, room
        self._waiting: list[_Question] = []
        self._worker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Local:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

    async def respond(self, turns: Sequence[Turn], **sampling: Any) -> Reply:
        """One reply to one conversation.

        Raises:
            Unanswered: the conversation does not fit the model.
        """
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        seed, ids = int(sampling.pop("seed", 0)), self._encode(turns)
        if self._room is not None:
            left = self._room - len(ids)
            if left < 1:
                text = f"the prompt has {len(ids)} tokens, but {self.identity} has {self._room} positions"
                raise Unanswered("does not fit", text)
            sampling["max_tokens"] = min(int(sampling.get("max_tokens", left)), left)
        self._waiting.append(_Question(ids=ids, settings=sampling, seed=seed, future=future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        worker = self._worker
        both: list[asyncio.Future[Any]] = [future, worker]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():  # the worker ended before it got here, by an error of its own
            await worker
        return await future

    async def _work(self) -> None:
        """Answer what waits, questions of equal settings together, until nothing does."""
        while self._waiting:
            for _ in range(4):  # those who ask in the same turn of the loop join
                await asyncio.sleep(0)
            self._waiting = [one for one in self._waiting if not one.future.done()]
            if self._waiting:
                settings = self._waiting[0].settings
                taken = [one for one in self._waiting if one.settings == settings][: self._batch]
                self._waiting = [one for one in self._waiting if one not in taken]
                await asyncio.to_thread(self._answer, taken)
                for one in taken:
                    one.tell()

    def _answer(self, taken: Sequence[_Question]) -> None:
        """Fill in each question's outcome; one that cannot be answered does not spoil the others."""
        options = {**self._stops, **taken[0].settings, "logps": False, "batch": self._batch}
        options["stop"] = (*self._stops.get("stop", ()), *taken[0].settings.get("stop", ()))
        try:
            replies = self._sampler.sample([one.ids for one in taken], **options, seed=[one.seed for one in taken])
        except UserError as error:
            if len(taken) > 1:
                for one in taken:
                    self._answer([one])
            else:
                taken[0].outcome = Unanswered("does not fit", str(error))
            return
        for one, reply in zip(taken, replies):
            usage = {"prompt_tokens": len(one.ids), "completion_tokens": len(reply.ids)}
            one.outcome = Reply(text=reply.text, finish=reply.finish, usage=usage)
