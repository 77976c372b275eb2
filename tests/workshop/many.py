"""Several processes of one run without several start-ups: one process imports everything, then forks ranks on request.

As `python -m tests.workshop.many` it reads jobs as JSON lines: {"size", "arguments", "trouble", "log"}. Each job is `size` forked
processes that go through the door of the command line with torchrun's environment; the answer is their exit codes. `trouble`
({"rank", "step", "what"}) is done by one of them in the middle of training: sleep | kill | error | term. Left out: torchrun itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Many:
    """The forking process and how it is asked."""

    def __init__(self) -> None:
        env = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-m", "tests.workshop.many"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def run(
        self, size: int, *arguments: Any, log: Path, trouble: dict[str, Any] | None = None
    ) -> tuple[list[int], str]:
        """Exit codes by rank, and what all of them wrote to stderr and stdout."""
        job = {"size": size, "arguments": [str(a) for a in arguments], "log": str(log), "trouble": trouble}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        codes = json.loads(self.process.stdout.readline())
        return codes, log.read_text()

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)


def main() -> None:
    """Import what a run needs, then fork for each job."""
    import torch
    import torch.distributed.fsdp
    import torch.distributed.tensor  # noqa: F401

    import bottega.evals.runner  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        children = [_child(job, rank, port) for rank in range(job["size"])]
        codes, until = {}, time.monotonic() + 120
        while len(codes) < len(children) and time.monotonic() < until:
            for pid in children:
                done, status = os.waitpid(pid, os.WNOHANG) if pid not in codes else (0, 0)
                if done:
                    codes[pid] = os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        for pid in children:
            if pid not in codes:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                codes[pid] = -999
        print(json.dumps([codes[pid] for pid in children]), flush=True)


def _child(job: dict[str, Any], rank: int, port: str) -> int:
    """Fork one rank; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    names = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": job["size"],
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in names.items()})
    out = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    from bottega.cli import door

    trouble = job["trouble"]
    if trouble is not None and trouble["rank"] in (rank, None):
        arm(trouble["step"], trouble["what"])
    code = 71
    with contextlib.suppress(SystemExit):
        code = door(job["arguments"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def arm(step: int, what: str) -> None:
    """Trouble in this process, inside the forward pass of `step`."""
    from bottega.core.errors import UserError
    from bottega.models.score import Scorer
    from bottega.train.loop import Loop

    reached = {"step": 0}
    forward, one_step = Scorer.forward, Loop.one_step

    def counted(self: Loop) -> Any:
        reached["step"] = self.step + 1
        return one_step(self)

    def troubled(self: Scorer, *arguments: Any, **options: Any) -> Any:
        if reached["step"] == step:
            if what == "sleep":
                time.sleep(600)
            elif what == "error":
                raise UserError("row 7 is too long: shorten it")
            elif what == "bug":
                raise KeyError("a broken promise")
            else:
                os.kill(os.getpid(), signal.SIGKILL if what == "kill" else signal.SIGTERM)
                reached["step"] = 0
        return forward(self, *arguments, **options)

    Loop.one_step, Scorer.forward = counted, troubled  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
