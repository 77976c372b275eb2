"""One process imports everything once, then forks a child for each command of a fault loop: no start-up is paid per point.

As `python -m tests.faults.forked` it reads jobs as JSON lines; the answer is the child's exit code (negative: the signal) and how many
calls it made under the watched folder. A child's imports are repeated here afterwards, so that the next one finds them done. Left out:
what goes wrong in the child (shim.py).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.shim import Faults, install
from tests.models.tiny import tiny_model

ROOT = Path(__file__).parents[2]


@dataclass
class Ended:
    """How a child ended: exit code, calls under the folder, what it said."""

    code: int
    said: str


class Forked:
    """The forking process and how it is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        env = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "GIT_CEILING_DIRECTORIES": "/"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forked"],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: Any, at: int = 0, kind: str = "kill", under: Path | None = None, **job: Any) -> Ended:
        """Run a command of bottega with a fault at its `at`-th call under the folder `under`.

        job: env: environment variables. cwd: the working folder. clock: seconds added to time.time. umask. without: modules
            that shall be missing.
        """
        log = self.folder / "said.txt"
        words = [str(a) for a in arguments]
        return self._ask(
            {"arguments": words, "at": at, "kind": kind, "under": str(under or ""), "log": str(log), **job}
        )

    def count(self, *arguments: Any, under: Path, **job: Any) -> tuple[Ended, list[tuple[str, str]]]:
        """Run it without a fault; also returns the calls it makes: (what, path)."""
        points = self.folder / "points.jsonl"
        points.unlink(missing_ok=True)
        ended = self.run(*arguments, under=under, points=str(points), **job)
        return ended, [tuple(json.loads(line)) for line in points.read_text().splitlines()]

    def _ask(self, job: dict[str, Any]) -> Ended:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return Ended(json.loads(self.process.stdout.readline()), Path(job["log"]).read_text())

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)


def main() -> None:
    """Import what a run needs, then fork for each job."""
    import torch

    import bottega.workshop.build
    import bottega.workshop.stages  # noqa: F401
    from bottega.models.load import load
    from bottega.models.methods import method

    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # fills the caches of abc and PEFT; nothing that differentiates may run before a fork
        method("lora", rank=2).attach(load(tiny_model("llama", Path(folder) / "model")).model)
    for line in sys.stdin:
        job = json.loads(line)
        job["modules"] = job["log"] + ".modules"
        pid = os.fork()
        if not pid:
            os._exit(_child(job))
        status, until = None, time.monotonic() + 120
        while status is None:
            done, found = os.waitpid(pid, os.WNOHANG)
            if done:
                status = found
            elif time.monotonic() > until:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
                raise AssertionError(f"hangs: {job}")
            time.sleep(0.005)
        _learn(Path(job["modules"]))
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)
    print(f"CPU s of all children: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime:.0f}", file=sys.stderr)


def _learn(modules: Path) -> None:
    """Import here what a child has imported."""
    if not modules.is_file():
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in json.loads(modules.read_text()):
            if name not in sys.modules and not name.startswith(("__", "tests")):
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
    modules.unlink()


def _child(job: dict[str, Any]) -> int:
    out = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(job.get("env") or {})
    os.chdir(job.get("cwd") or ROOT)
    for name in job.get("without") or ():
        sys.modules[name] = None  # type: ignore[assignment]  # as where it is not installed
    if job.get("umask") is not None:
        os.umask(job["umask"])
    if job.get("clock"):
        now, shift = time.time, job["clock"]
        time.time = lambda: now() + shift
    from bottega.cli import door

    if job["under"]:
        log = os.open(job["points"], os.O_WRONLY | os.O_CREAT | os.O_APPEND) if job.get("points") else -1
        install(Faults(under=os.path.abspath(job["under"]), at=job["at"], kind=job["kind"], log=log))
    code = 71
    with contextlib.suppress(SystemExit):
        code = door(job["arguments"])
    sys.stdout.flush()
    sys.stderr.flush()
    Path(job["modules"]).write_text(json.dumps([name for name in sys.modules]))
    return code


if __name__ == "__main__":
    main()
