"""A thread beside the training that ends this process when another of the run has failed, or when a step hangs.

Left out: what is said by the main thread (ranks.py). A process that waits in a collective cannot look after itself: its main thread is
inside a library. This one looks at the store a few times a second.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch.distributed as dist

LOOK_S, POLL_S = 0.2, 0.05
LAST_WORDS_S = 1.0
"""What the process that speaks has for it before the others end, which makes the launcher end the rest."""
DEEP_GRACE_S = 60.0
"""After so long more, a process whose interpreter itself is stuck is ended by a timer that needs none of it."""
CODE_HUNG = 9
GONE = "gone"
"""The store's count of processes that have ended their part."""


class Lookout:
    """Started at once; `stop` before the process ends by itself.

    Args:
        store: this thread's own connection. stacks: the folder for stacks of processes in a step that hangs.
    """

    def __init__(self, store: dist.Store, rank: int, size: int, stacks: Path) -> None:
        self.store, self.rank, self.size, self.stacks = store, rank, size, stacks
        self.main = threading.get_ident()
        self._stopped = threading.Event()
        self._timeout_s: float | None = None
        self._beat, self._step = time.monotonic(), 0
        self._file: IO[str] | None = None
        threading.Thread(target=self._look, name="lookout", daemon=True).start()

    def stop(self) -> None:
        """Look no more: the main thread ends the process itself."""
        self._stopped.set()
        self._timeout_s = None
        faulthandler.cancel_dump_traceback_later()

    @contextlib.contextmanager
    def timing(self, timeout_s: float) -> Iterator[None]:
        """Inside, `beat` must come at least every `timeout_s`."""
        self.stacks.mkdir(parents=True, exist_ok=True)
        path = self.stacks / f"rank-{self.rank}.txt"
        with open(path, "w", encoding="utf-8") as self._file:
            self._timeout_s = timeout_s
            self.beat(self._step)
            try:
                yield
            finally:
                self._timeout_s = None
                faulthandler.cancel_dump_traceback_later()
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others' files may still lie there
            self.stacks.rmdir()

    def beat(self, step: int) -> None:
        """Step `step` is done; the next one's time begins."""
        self._beat, self._step = time.monotonic(), step
        if self._timeout_s is not None and self._file is not None:
            faulthandler.dump_traceback_later(self._timeout_s + DEEP_GRACE_S, exit=True, file=self._file)

    def _look(self) -> None:
        while not self._stopped.wait(LOOK_S):
            limit = self._timeout_s
            try:
                if self.store.check(["failed"]):
                    self._follow(json.loads(self.store.get("failed")))
                elif limit is not None and time.monotonic() - self._beat > limit:
                    self._hung(limit)
            except RuntimeError:  # the store went with the process that kept it
                time.sleep(LAST_WORDS_S)
                if not self._stopped.is_set():
                    self._end(CODE_HUNG, "lost contact with the process that holds the run together" * (self.rank == 1))

    def _follow(self, first: dict[str, Any]) -> None:
        """End as the first that failed; where a step hung, leave this process's stacks and say where it is."""
        if first["kind"] == "hung":
            self.store.set(f"where/{self.rank}", self._dump())
        if self._stopped.wait(LAST_WORDS_S if first["kind"] != "hung" else 2 * LAST_WORDS_S):
            return
        self._end(int(first["code"]))

    def _hung(self, limit: float) -> None:
        word = json.dumps({"rank": self.rank, "code": CODE_HUNG, "kind": "hung"})
        if json.loads(self.store.compare_set("failed", "", word))["rank"] != self.rank:
            return  # another was first; the next look follows it
        places = {self.rank: self._dump()}
        until = time.monotonic() + LAST_WORDS_S
        while len(places) < self.size and time.monotonic() < until:
            for rank in range(self.size):
                if rank not in places and self.store.check([f"where/{rank}"]):
                    places[rank] = self.store.get(f"where/{rank}").decode()
            time.sleep(POLL_S)
        where = "; ".join(f"process {rank} {places.get(rank, 'gives no answer')}" for rank in range(self.size))
        said = (
            f"step {self._step + 1} was not done after {limit:g} s (step_timeout_s): {where}; the stacks of all threads are in "
            f"{self.stacks}, and the same command goes on from the last checkpoint"
        )
        self._end(CODE_HUNG, said)

    def _dump(self) -> str:
        """Write the stacks of all threads; returns the main thread's place, as far as it is in code that waits for nobody."""
        if self._file is not None:
            faulthandler.dump_traceback(self._file, all_threads=True)
            self._file.flush()
        frame = sys._current_frames().get(self.main)
        place = "is between two lines"
        while frame is not None:
            name = frame.f_code.co_filename
            if "site-packages" not in name and not name.startswith("<"):
                place = f"in step {self._step + 1} is in {frame.f_code.co_name} ({Path(name).name}:{frame.f_lineno})"
                break
            frame = frame.f_back
        return place

    def _end(self, code: int, said: str = "") -> None:
        """End this very process, whatever its main thread waits for."""
        if said:
            os.write(2, f"\nbottega: {said}\n".encode())
        sys.stdout.flush()
        with contextlib.suppress(RuntimeError):
            self.store.add(GONE, 1)
        os._exit(code)
