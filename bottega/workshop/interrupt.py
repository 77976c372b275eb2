"""Ctrl-C and SIGTERM while a run goes: the first asks it to stop at the next safe place, the second stops it at once.

Left out: what a safe place is (after a step, between phases: stages.py).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any

REASON = "interrupted"


class Terminated(KeyboardInterrupt):
    """SIGTERM, told apart from Ctrl-C by the exit code alone."""


class Interrupts:
    """Notes signals inside a `with`; outside the main thread, where Python allows no handlers, it does nothing."""

    SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for name in self.SIGNALS:
                number = getattr(signal, name, None)
                if number is not None:
                    self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """A safe place.

        Raises:
            KeyboardInterrupt, Terminated: a signal has asked to stop.
        """
        if self.received is not None:
            raise self._error()

    def _take(self, number: int, frame: FrameType | None) -> None:
        again, self.received = self.received is not None, number
        if again:
            raise self._error()
        os.write(2, b"\nstopping at the next safe place; once more stops at once\n")

    def _error(self) -> KeyboardInterrupt:
        return KeyboardInterrupt() if self.received == signal.SIGINT else Terminated()


class Watched:
    """Shows what another Progress shows, and ends the loop after a step when a signal has asked for it."""

    def __init__(self, inner: Any, interrupts: Interrupts) -> None:
        self.inner, self.interrupts = inner, interrupts
        self.loop: Any = None  # set when it is there

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """After every step; the loop then saves a checkpoint and returns with the reason `interrupted`."""
        self.inner.update(step, metrics)
        if self.interrupts.received is not None and self.loop is not None:
            self.loop.outcome.reason = REASON

    def note(self, line: str) -> None:
        """One line for a person to read."""
        self.inner.note(line)

    def close(self) -> None:
        """Stop showing."""
        self.inner.close()
