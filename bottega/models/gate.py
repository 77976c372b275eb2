"""How many questions an endpoint is asked at once: more while it answers, half when it says that it has too many.

Left out: fairness between callers. Additive increase, multiplicative decrease (Chiu and Jain 1989), as in TCP.
"""

from __future__ import annotations

import asyncio
import time


class Gate:
    """Lets `limit` callers in at a time. Use it in an `async with`, then tell it how it went."""

    def __init__(self, *, start: int = 4, most: int = 64) -> None:
        self.limit, self.most = float(min(start, most)), most
        self.in_flight = 0
        self._open_at = self._cut_at = 0.0
        self._condition = asyncio.Condition()

    async def __aenter__(self) -> float:
        """Wait for a place, and until a pause that the endpoint asked for is over; returns the time of entry."""
        async with self._condition:
            await self._condition.wait_for(lambda: self.in_flight < int(self.limit))
            self.in_flight += 1
        try:
            while (left := self._open_at - time.monotonic()) > 0:
                await asyncio.sleep(left)
        except BaseException:
            await self._leave()
            raise
        return time.monotonic()

    async def __aexit__(self, *_: object) -> None:
        await self._leave()

    async def _leave(self) -> None:
        self.in_flight -= 1
        async with self._condition:
            self._condition.notify_all()

    def went_well(self) -> None:
        """One more place after as many good answers as there are places."""
        self.limit = min(float(self.most), self.limit + 1 / self.limit)

    def too_much(self, entered: float, pause_s: float) -> None:
        """Half the places (once for all that entered before the last cut), and nobody enters for `pause_s`."""
        now = time.monotonic()
        self._open_at = max(self._open_at, now + pause_s)
        if entered > self._cut_at:
            self.limit, self._cut_at = max(1.0, self.limit / 2), now
