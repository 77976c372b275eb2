"""The processes of one run under torchrun: who leads, what the leader decided, and how one that fails ends them all.

Left out: tensors and collectives (train/parallel.py), noticing from outside the main thread (lookout.py), launching (torchrun).

Rank 0 leads: it alone locks the folder, writes, reports and measures; the others follow its decisions, which pass through
torchrun's store as JSON. Alone (no torchrun) every decision is one's own and nothing is imported.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bottega.core import devices
from bottega.core.errors import Followed, Partial, UserError
from bottega.workshop.interrupt import Interrupts, Terminated
from bottega.workshop.lookout import GONE, Lookout

if TYPE_CHECKING:
    import torch.distributed as dist

    from bottega.train.parallel import World

LEADER_FIRST_S = 3.0
"""How long a follower that failed waits for the leader to say the same."""
MEET_S = 120.0
"""How long processes wait for one another to connect."""
LEAVE_S = 10.0
"""How long the process that keeps the store waits, when it failed, for the others to hear of it."""
POLL_S = 0.05
LOST = (
    "lost contact with another process of the run, which was killed or cut off; what was saved is sound, and the same command "
    "goes on from the last checkpoint"
)
_runs = itertools.count()


class Ranks:
    """This process among those of one run; a context around the run.

    folder: the run folder, where stacks are written if a step hangs; set when it is known. interrupts: signals, which all of
    several processes follow at the same place.
    """

    def __init__(self) -> None:
        self.rank, self.size = devices.rank(), int(os.environ.get("WORLD_SIZE", "1"))
        self.folder, self.interrupts = Path(), Interrupts()
        self.words = self.groups = 0
        self.world: World | None = None
        self._store: dist.Store | None = None
        self._lookout: Lookout | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def __enter__(self) -> Ranks:
        if self.size > 1:
            self.interrupts.__enter__()
            self.interrupts.agree, self.interrupts.quiet = self.agree, not self.leads
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.size == 1:
            return
        try:
            if error is None:
                self._part()
                return
            self.interrupts.ending = True
            said = self._say(error)
            if said is not error:
                raise said from error
        finally:
            self.interrupts.__exit__()

    def listening(self) -> AbstractContextManager[Any]:
        """Signals are noted inside; several processes note them all the time."""
        return self.interrupts if self.size == 1 else nullcontext()

    def decide(self, compute: Callable[[], Any]) -> Any:
        """What the leader computes (JSON), known to every process. All call it in the same order."""
        if self.size == 1:
            return compute()
        self.words += 1
        key = f"word/{self.words}"
        if self.leads:
            text = json.dumps(compute())
            self.store.set(key, text)
            return json.loads(text)
        asked = 0.0
        while not self.store.check([key]):
            time.sleep(POLL_S)
            asked += POLL_S * (self.interrupts.received is not None)
            if asked > 20:  # a signal came, and the leader has not answered it in the grace that launchers give
                raise self.interrupts.error()
        return json.loads(self.store.get(key))

    def agree(self, value: int) -> int:
        """The largest of everybody's values while they train together; at other times the leader's."""
        from bottega.train import parallel

        if self.world is not None:
            return parallel.most(self.world, value)
        return int(self.decide(lambda: value))

    def join(self, device: str = "cpu") -> World:
        """Form the process group of a stage, whose model lies on `device` here."""
        from bottega.train import parallel

        if self.size == 1:
            return parallel.World()
        import torch.distributed as dist

        self.groups += 1
        self.world = parallel.join(dist.PrefixStore(f"group-{self.groups}", self.store), device=device)
        return self.world

    def leave(self) -> None:
        """Dissolve it; everybody is waited for."""
        from bottega.train import parallel

        if self.world is not None:
            world, self.world = self.world, None
            parallel.leave(world)

    @contextmanager
    def watched(self, timeout_s: float) -> Iterator[None]:
        """Inside, a step (its evaluation and checkpoint included) that takes longer than `timeout_s` ends the run."""
        if self._lookout is None:
            yield
            return
        with self._lookout.timing(timeout_s):
            yield

    def beat(self, step: int) -> None:
        """A step is done."""
        if self._lookout is not None:
            self._lookout.beat(step)

    @property
    def store(self) -> dist.Store:
        """The words of this run; connected, and the lookout posted, when first needed (a mistake in a recipe needs neither)."""
        if self._store is None:
            number = next(_runs)
            self._store, theirs = self._connect(number), self._connect(number)
            self._lookout = Lookout(theirs, self.rank, self.size, self.folder / "stacks")
        return self._store

    def _connect(self, number: int) -> dist.Store:
        """A connection to the store that torchrun's environment names, with this run's own names in it."""
        from datetime import timedelta

        import torch.distributed as dist

        try:
            found, _, _ = next(iter(dist.rendezvous("env://", timeout=timedelta(seconds=MEET_S))))
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"process {self.rank} of {self.size} cannot reach the others at {os.environ.get('MASTER_ADDR')}:"
                f"{os.environ.get('MASTER_PORT')}; start all of them with torchrun"
            ) from error
        attempt = os.environ.get(
            "TORCHELASTIC_RESTART_COUNT", "0"
        )  # the store outlives those that torchrun starts again
        return dist.PrefixStore(f"run-{number}-of-{self.size}-{attempt}", found)

    def _say(self, error: BaseException) -> BaseException:
        """The error to end with: this process's own if it is the first to say one, else a quiet one with the first's code."""
        code = Partial.exit_code if _is_broken_line(error) else _code(error)
        word = {"rank": self.rank, "code": code, "kind": "error"}
        try:
            store = self.store
        except UserError:  # nobody to talk to: the leader speaks
            return error if self.leads else Followed(code)
        assert self._lookout is not None
        self._lookout.stop()
        try:
            first = self._first_word(store, word)
        except RuntimeError:  # the store went with the process that kept it
            return Partial(LOST) if self.rank == 1 else Followed(Partial.exit_code)
        if first != word:
            return Followed(first["code"])
        if _is_broken_line(error):
            return Partial(LOST)
        if isinstance(error, UserError) and not self.leads:
            error.args = (f"process {self.rank} of {self.size}: {error}",)
        return error

    def _first_word(self, store: dist.Store, word: dict[str, Any]) -> dict[str, Any]:
        """The word of the process that failed first, which may be this one with `word`; equal mistakes are left to the leader."""
        until = time.monotonic() + LEADER_FIRST_S
        while not self.leads and time.monotonic() < until and not store.check(["failed"]):
            time.sleep(POLL_S)
        first = json.loads(store.compare_set("failed", "", json.dumps(word)))
        self._go(store, LEAVE_S)
        return dict(first)

    def _part(self) -> None:
        """The end of a good run."""
        if self._store is None:
            return
        assert self._lookout is not None
        self.leave()
        self._lookout.stop()
        self._go(self._store, MEET_S)

    def _go(self, store: dist.Store, wait_s: float) -> None:
        """This process needs the store no more; the one that keeps it (where no launcher does) waits for the others."""
        gone, until = store.add(GONE, 1), time.monotonic() + wait_s
        keeps = self.leads and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        while keeps and gone < self.size and time.monotonic() < until:
            time.sleep(POLL_S)
            gone = store.add(GONE, 0)


def _code(error: BaseException) -> int:
    """The exit code that the door gives an error."""
    if isinstance(error, UserError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 143 if isinstance(error, Terminated) else 130
    return 6 if isinstance(error, MemoryError) else 70


def _is_broken_line(error: BaseException) -> bool:
    """Whether an error is what a collective raises when another process has gone."""
    import torch.distributed as dist

    if not isinstance(error, RuntimeError):
        return False
    text = str(error)
    return isinstance(error, dist.DistError) or "gloo/transport" in text or "Connection closed by peer" in text
