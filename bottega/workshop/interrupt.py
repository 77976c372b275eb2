"""Ctrl-C and SIGTERM while a run goes: the first asks it to stop at the next safe place, the second stops it at once.

Left out: what a safe place is (after a step, between phases: stages.py).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

REASON = "interrupted"
TWICE_S = 2.0
"""Of several processes, each gets Ctrl-C from the terminal and once more from the launcher: within this time that is one."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, told apart from Ctrl-C by the exit code alone."""


class Interrupts:
    """Notes signals inside a `with`; outside the main thread, where Python allows no handlers, it does nothing."""

    SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")

    def __init__(self) -> None:
        self.received: int | None = None
        self.agree: Callable[[int], int] = int  # of several processes' signals the one that all of them follow
        self.quiet = self.ending = False
        self._taken: float | None = None
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
            # a launcher signals the processes that are left when one has ended: they are ending themselves, with their own code
            signal.signal(number, signal.SIG_IGN if self.ending else handler)

    def check(self) -> None:
        """A safe place.

        Raises:
            KeyboardInterrupt, Terminated: a signal has asked to stop.
        """
        if self.asked():
            raise self.error()

    def asked(self) -> bool:
        """Whether a signal has asked to stop; of several processes, all get the same answer, and all must ask."""
        found = self.agree(self.received or 0)
        if found:
            self.received = found
        return bool(found)

    def error(self) -> KeyboardInterrupt:
        """What a stop raises."""
        return KeyboardInterrupt() if self.received == signal.SIGINT else Terminated()

    def _take(self, number: int, frame: FrameType | None) -> None:
        now, several = time.monotonic(), self.agree is not int
        again = self._taken is not None and not (several and now - self._taken < TWICE_S)
        self._taken = self._taken or now
        self.received = number
        if again:
            raise self.error()
        if not self.quiet:
            os.write(2, b"\nstopping at the next safe place; once more stops at once\n")


class Watched:
    """Shows what another Progress shows, and ends the loop after a step when a signal has asked for it.

    Args:
        beat: told of every step that is done.
    """

    def __init__(self, inner: Any, interrupts: Interrupts, beat: Callable[[int], None] | None = None) -> None:
        self.inner, self.interrupts, self.beat = inner, interrupts, beat
        self.loop: Any = None  # set when it is there

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """After every step; the loop then saves a checkpoint and returns with the reason `interrupted`."""
        self.inner.update(step, metrics)
        if self.beat is not None:
            self.beat(step)
        if self.loop is not None and self.interrupts.asked():
            self.loop.outcome.reason = REASON

    def note(self, line: str) -> None:
        """One line for a person to read."""
        self.inner.note(line)

    def close(self) -> None:
        """Stop showing."""
        self.inner.close()
