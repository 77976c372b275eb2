"""The thread that decodes: it takes jobs, steps the lanes in turn, and says what comes of each job.

Left out: one step (lane.py), and HTTP (api.py). Jobs come from any thread; `told` of a job is called from this one.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bottega.core.errors import UserError
from bottega.models.generate import Generator, evaluating
from bottega.models.prepack import prepacked
from bottega.models.routed import Adapters
from bottega.serve.lane import Event, Job, Lane

MEMORY = (MemoryError, torch.OutOfMemoryError)


class Busy(Exception):
    """The queue is full; seconds: after how long to come back."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the queue is full: come back in {seconds} s")
        self.seconds = seconds


class Stopped(Exception):
    """The engine takes nothing more: it is ending, or it broke."""


@dataclass(slots=True)
class Counts:
    """Since the start. running, waiting: now."""

    tokens: int = 0
    steps: int = 0
    busy_s: float = 0.0
    running: int = 0
    waiting: int = 0


class Engine:
    """Answers many at once with one model and the adapters on it.

    Example:
        engine = Engine(Generator(model, tokenizer), rows=16)
        engine.start()
        engine.submit([Job(ids=[5, 8, 2], settings=Sampling(), stopper=..., told=print)])
        engine.stop()
    """

    def __init__(self, generator: Generator, *, rows: int = 16, max_waiting: int = 256, adapters: bool = False) -> None:
        """rows: replies written at once. max_waiting: jobs that may wait beside them. adapters: LoRA adapters may be added."""
        self.generator, self.rows, self.max_waiting = generator, rows, max_waiting
        model: nn.Module = generator.model
        self.adapters = Adapters(model) if adapters else None
        self.way = generator.chosen_way()
        self.counts = Counts()
        self.broken = ""
        self._lanes: dict[Any, Lane] = {}
        self._new: list[Job] = []
        self._calls: list[Callable[[], None]] = []
        self._lock = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="bottega-engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self, seconds: float = 10.0) -> None:
        """Take nothing more, finish what is in progress for at most so long, and end."""
        with self._lock:
            self._ending = True
            self._lock.notify()
        self._thread.join(seconds)
        if self._thread.is_alive():
            with self._lock:
                self.broken = self.broken or "the server is ending"
                self._lock.notify()
            self._thread.join(5.0)

    @property
    def healthy(self) -> bool:
        """Whether jobs are still worked on."""
        return self._thread.is_alive() and not self.broken

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take jobs, all or none.

        Raises:
            Busy: too many wait. Stopped: the engine has ended or broken.
        """
        with self._lock:
            if self._ending or not self.healthy:
                raise Stopped(self.broken or "the server is ending")
            if self.counts.waiting + len(jobs) > self.max_waiting:
                raise Busy(self._seconds())
            self._new += jobs
            self.counts.waiting += len(jobs)
            self._lock.notify()

    def call(self, function: Callable[[], Any], timeout_s: float = 60.0) -> Any:
        """Run something between two steps, in the engine's thread (adapters come and go like that), and wait for it."""
        done, box = threading.Event(), {}

        def run() -> None:
            try:
                box["result"] = function()
            except Exception as error:  # noqa: BLE001  whatever it is belongs to whoever asked
                box["error"] = error
            done.set()

        with self._lock:
            if self._ending or not self.healthy:
                raise Stopped(self.broken or "the server is ending")
            self._calls.append(run)
            self._lock.notify()
        if not done.wait(timeout_s):
            raise Stopped(f"the engine did not answer within {timeout_s:g} s")
        if "error" in box:
            raise box["error"]
        return box.get("result")

    def forget(self, name: str) -> None:
        """Let an adapter go, with the replies that use it; in the engine's thread (`call`)."""
        assert self.adapters is not None
        for lane in self._lanes.values():
            ended = [job for job in (*lane.jobs, *lane.waiting) if any(part == name for part, _ in job.route)]
            _fail(ended, f"the adapter {name} was unloaded")
            for job in ended:
                job.gone = True
            lane.clear()
        self.adapters.remove(name)

    def _seconds(self) -> int:
        """About how long the queue takes."""
        if not self.counts.steps or not self.counts.tokens:
            return 1
        each = self.counts.busy_s / self.counts.tokens * 64
        return max(1, min(60, round(each * self.counts.waiting)))

    def _run(self) -> None:
        with ExitStack() as held:
            held.enter_context(evaluating(self.generator.model))
            held.enter_context(prepacked(self.generator.model, self.rows))
            try:
                while self._take():
                    self._step()
            except Exception as error:  # noqa: BLE001  a broken engine says so, in its log and in /health
                traceback.print_exc(file=sys.stderr)
                self.broken = f"{type(error).__name__}: {error}"
        self._give_up(self.broken or "the server is ending")

    def _take(self) -> bool:
        """Wait for work and sort it into lanes; False when there will be none."""
        with self._lock:
            while not (self._new or self._calls or self._ending or self.broken or self._busy()):
                self._lock.wait()
            if self.broken:
                return False
            new, self._new = self._new, []
            calls, self._calls = self._calls, []
            ended = self._ending and not new and not calls and not self._busy()
        for call in calls:
            call()
        for job in new:
            if all(name in (self.adapters or ()) for name, _ in job.route):
                self._lane(job).waiting.append(job)
            else:
                _fail([job], "its adapter was unloaded")
        return not ended

    def _busy(self) -> bool:
        return any(lane.busy for lane in self._lanes.values())

    def _lane(self, job: Job) -> Lane:
        key = job.route if self.adapters is not None and not self.adapters.mixes else None
        if key not in self._lanes:
            self._lanes[key] = Lane(self.generator.forward, self.way, self.rows, self.adapters)
        return self._lanes[key]

    def _step(self) -> None:
        began = time.perf_counter()
        written = 0
        for key, lane in list(self._lanes.items()):
            if not lane.busy:
                del self._lanes[key]
                continue
            try:
                written += lane.step()
            except MEMORY as error:
                _fail(lane.drop(), f"out of memory ({error}): ask for fewer tokens, or serve with a smaller --batch")
            except UserError as error:
                _fail(lane.drop(), str(error))
        with self._lock:
            self.counts.running = sum(len(lane.jobs) for lane in self._lanes.values())
            self.counts.waiting = len(self._new) + sum(len(lane.waiting) for lane in self._lanes.values())
            self.counts.tokens += written
            self.counts.steps += 1
            self.counts.busy_s += time.perf_counter() - began

    def _give_up(self, why: str) -> None:
        with self._lock:
            self.broken = why
            new, self._new = self._new, []
            calls, self._calls = self._calls, []
            self.counts.running = self.counts.waiting = 0
        for call in calls:
            call()
        _fail(itertools.chain(new, *(lane.drop() for lane in self._lanes.values())), why)


def _fail(jobs: Any, why: str) -> None:
    for job in jobs:
        job.told(Event("", error=why))
