"""Rows that are decoded together, which come and go while the others go on: one step at a time.

Left out: who asks and who waits (engine.py). Rows of one lane share a model and what is put before every sequence; where the model
is decoded without a cache, or is an encoder-decoder, a batch ends before the next begins.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bottega.core.types import Reply
from bottega.models.decode import Batch, CachedBatch, Forward, Way, open_batch
from bottega.models.generate import context_limit
from bottega.models.kv import GROWTH
from bottega.models.routed import Adapters, Route
from bottega.models.sampling import Sampling, best, choose, uniforms
from bottega.models.stops import Stopper, TextStream, Written

MAX_PREFILL = 4096
"""Prompt tokens that are read in one go; more wait, so that rows in progress are not held up for long."""


class Word(NamedTuple):
    """A token of a reply: its id, its log-probability and the likeliest ones in its place."""

    id: int
    logp: float
    top: tuple[tuple[int, float], ...]


class Event(NamedTuple):
    """What is new of a reply; the last event carries the whole one."""

    text: str
    words: tuple[Word, ...] = ()
    reply: Reply | None = None
    error: str = ""


@dataclass(slots=True, eq=False)
class Job:
    """One reply to be written. told: called by the engine's thread with every event; pieces: also before the end.

    number: which of the n replies to its prompt it is (Sampling.n); gone: nobody waits for it any more.
    """

    ids: Sequence[int]
    settings: Sampling
    stopper: Stopper
    told: Callable[[Event], None]
    route: Route = ()
    number: int = 0
    pieces: bool = False
    gone: bool = False
    row: Written = field(init=False)
    text: TextStream = field(init=False)
    told_words: int = 0
    noise: np.ndarray | None = None
    seen_V: Tensor | None = None

    def __post_init__(self) -> None:
        self.row, self.text = Written(self.number, len(self.ids)), TextStream(self.stopper)
        if self.settings.temperature > 0:
            self.noise = uniforms(self.settings, self.number)

    def manner(self) -> tuple[float, ...]:
        """What `choose` must be asked for separately."""
        s = self.settings
        return (s.temperature, s.top_k, s.top_p, s.min_p, s.repetition_penalty, s.top_logps)

    def tell(self) -> None:
        """Say what is new, if anything is certain."""
        if self.row.finish is None:
            if self.pieces and (piece := self.text.push(self.row)):
                self.told(Event(piece, self._words(len(self.row.ids))))
            return
        reply = self.stopper.reply(self.row)
        self.told(Event(self.text.rest(reply.text), self._words(len(reply.ids)), reply))

    def _words(self, end: int) -> tuple[Word, ...]:
        row, tops = self.row, self.row.tops
        new = range(self.told_words, end)
        self.told_words = end
        return tuple(Word(row.ids[at], row.logps[at], tops[at] if tops else ()) for at in new)


class Lane:
    """One running batch and those who wait for it."""

    def __init__(self, forward: Forward, way: Way, rows: int, adapters: Adapters | None = None) -> None:
        self.forward, self.way, self.rows, self.adapters = forward, way, rows, adapters
        self.waiting: deque[Job] = deque()
        self.jobs: list[Job] = []
        self.batch: Batch | None = None
        self.joins = way in ("masks", "padded")

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.jobs or self.waiting)

    def drop(self) -> list[Job]:
        """Give up every row and everybody who waits."""
        jobs, self.jobs, self.batch = [*self.jobs, *self.waiting], [], None
        self.waiting.clear()
        return jobs

    def clear(self) -> None:
        """Let go whoever has gone."""
        self.waiting = deque(job for job in self.waiting if not job.gone)
        self._keep([at for at, job in enumerate(self.jobs) if not job.gone])

    def step(self) -> int:
        """Take in who waits, write one token of every row, and let go who has finished; how many tokens were written."""
        self.clear()
        new = self._next_in()
        if new:
            self._admit(new)
        if self.batch is None:
            return 0
        ids_B = self._choose(self.batch.logits())
        written = len(self.jobs)
        for job in self.jobs:
            job.tell()
        alive = [at for at, job in enumerate(self.jobs) if job.row.finish is None and not job.gone]
        self._keep(alive)
        if self.batch is not None:
            with self._routing(self.jobs):
                self.batch.feed(ids_B[alive] if len(alive) < written else ids_B)
        return written

    def _next_in(self) -> list[Job]:
        """Who comes in now: as many as there is room for, of one length where rows cannot be padded."""
        if self.batch is not None and not self.joins:
            return []
        new: list[Job] = []
        tokens = 0
        while self.waiting and len(self.jobs) + len(new) < self.rows:
            job = self.waiting[0]
            tokens += len(job.ids)
            odd = self.way == "plain" and new and len(new[0].ids) != len(job.ids)
            if odd or (new and tokens > MAX_PREFILL):
                break
            new.append(self.waiting.popleft())
        return new

    def _admit(self, new: list[Job]) -> None:
        """Read the prompts, those of a route together (equal ones once), and let their rows join."""
        routes: dict[Route, list[Job]] = {}
        for job in new:
            routes.setdefault(job.route, []).append(job)
        for jobs in routes.values():
            longest = max(job.settings.max_tokens for job in jobs)
            with self._routing(jobs):
                batch = open_batch(self.forward, [job.ids for job in jobs], longest, way=self.way)
            if isinstance(self.batch, CachedBatch) and isinstance(batch, CachedBatch):
                self.batch.join(batch)
            else:
                self.batch = batch
            self.jobs += jobs

    def _routing(self, jobs: Sequence[Job]) -> Any:
        return self.adapters.routing([job.route for job in jobs]) if self.adapters is not None else nullcontext()

    def _keep(self, alive: list[int]) -> None:
        if len(alive) == len(self.jobs):
            return
        self.jobs = [self.jobs[at] for at in alive]
        if not alive:
            self.batch = None
            return
        assert self.batch is not None
        self.batch.keep(torch.tensor(alive, device=self.forward.device))
        if isinstance(self.batch, CachedBatch):
            limit = context_limit(self.forward.config)
            full = limit is not None and self.batch.cache.end + 1 >= limit
            self.batch.trim(1 if full else GROWTH)

    def _choose(self, logits_BV: Tensor) -> Tensor:
        """The next token of every row, (B,), written down; rows of one manner are chosen together."""
        manners: dict[tuple[float, ...], list[int]] = {}
        for at, job in enumerate(self.jobs):
            manners.setdefault(job.manner(), []).append(at)
        ids_B = torch.empty(len(self.jobs), dtype=torch.long, device=logits_BV.device)
        for members in manners.values():
            some = logits_BV if len(members) == len(self.jobs) else logits_BV[members]
            ids_B[members] = self._choose_some([self.jobs[at] for at in members], some)
        return ids_B

    def _choose_some(self, jobs: list[Job], logits_BV: Tensor) -> Tensor:
        settings = jobs[0].settings
        uniform_B = seen_BV = None
        if settings.temperature > 0:
            draws = [job.noise[len(job.row.ids)] for job in jobs if job.noise is not None]
            uniform_B = torch.tensor(np.array(draws), device=logits_BV.device)
        if settings.repetition_penalty != 1:
            seen_BV = torch.stack([self._seen(job, logits_BV) for job in jobs])
        ids_B, logps_B = choose(logits_BV, settings, uniform_B=uniform_B, seen_BV=seen_BV)
        top = best(logits_BV, settings) if settings.top_logps else None
        tops: Any = [None] * len(jobs) if top is None else zip(top[0].tolist(), top[1].tolist())
        assert logps_B is not None
        for job, token, logp, found in zip(jobs, ids_B.tolist(), logps_B.tolist(), tops):
            if job.seen_V is not None:
                job.seen_V[token] = True
            job.stopper.add(job.row, token, logp, None if found is None else tuple(zip(*found)))
            job.stopper.look([job.row], 1)
        return ids_B

    def _seen(self, job: Job, logits_BV: Tensor) -> Tensor:
        if job.seen_V is None:
            job.seen_V = torch.zeros(logits_BV.shape[-1], dtype=torch.bool, device=logits_BV.device)
            read = () if self.forward.both_sides else job.ids
            job.seen_V[torch.as_tensor(list(read), dtype=torch.long, device=logits_BV.device)] = True
        return job.seen_V
