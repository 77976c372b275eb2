"""Programs that a model wrote, run where they can do no harm: no network, no files but their own, bounded time, memory and processes.

Left out: how the walls are built (jail.py), other systems than Linux, other languages than Python with its standard library. Where the
kernel grants no namespaces to ordinary users there is no sandbox, and nothing is run.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bottega.core.errors import UserError

JAIL = Path(__file__).with_name("jail.py")
MAX_OUTPUT = 64 * 1024
GRACE_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a program may use. seconds: of the clock, and of CPU; memory_mb: of each of its processes; files_mb: of all it writes;
    processes: it and those it starts."""

    seconds: float = 5.0
    memory_mb: int = 512
    files_mb: int = 16
    processes: int = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """How a program ended: its exit code (128 and a signal's number where one ended it), what it said, whether time was up."""

    code: int
    out: str
    err: str
    late: bool = False


def run(files: Mapping[str, str], *, main: str, given: str = "", limits: Limits | None = None) -> Ran:
    """Run the Python program `main`, one of `files`, which lie in its folder; `given` is its standard input.

    Raises:
        UserError: there is no sandbox on this machine.
    """
    bounds = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="bottega-sandbox-") as folder:
        os.chmod(folder, 0o777)  # who runs in it may be nobody
        kept = Path(folder) / "files"
        kept.mkdir()
        for name, text in files.items():
            assert Path(name).name == name, "files of a program lie side by side"
            (kept / name).write_text(text, encoding="utf-8")
        python = os.path.realpath(sys.executable)
        plan = {
            "folder": folder,
            "prefixes": _prefixes(python),
            "argv": [python, "-I", "-S", "-B", main],
            "cpu_s": max(1, round(bounds.seconds + 0.5)),
            "memory_mb": bounds.memory_mb,
            "files_mb": bounds.files_mb,
            "processes": bounds.processes,
            "ours": 0 if os.getuid() == 0 else 2,  # processes of the jail that are the same user's
            "word": secrets.token_hex(16),
        }
        ran = _listen([python, "-I", "-S", "-B", str(JAIL), json.dumps(plan)], given, bounds.seconds)
    if ran.err.startswith(str(plan["word"])):
        raise UserError(_refusal(ran.err.partition(" ")[2].strip()))
    return ran


@functools.cache
def missing() -> str | None:
    """Why programs cannot be run here, in a sentence; None where they can. Tried once."""
    if platform.system() != "Linux":
        return _refusal(f"it is built for Linux, and this is {platform.system()}")
    try:
        ran = run({"main.py": "print(6 * 7)"}, main="main.py", limits=Limits(seconds=20.0))
    except UserError as error:
        return str(error)
    return (
        None
        if ran.out.strip() == "42"
        else _refusal(f"Python does not start in it ({(ran.err or ran.out).strip()[-200:]})")
    )


def _refusal(why: str) -> str:
    return (
        f"programs that a model wrote are run in a sandbox only, and this machine has none ({why}): use a Linux that lets ordinary "
        "users make namespaces (sysctl kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns), or leave "
        "out what runs them"
    )


def _prefixes(python: str) -> list[str]:
    """Folders that hold Python and its standard library, where the system's own do not."""
    found = [str(Path(sys.base_prefix).resolve()), str(Path(python).parent.parent)]
    return [one for one in dict.fromkeys(found) if one != "/" and not one.startswith("/usr")]


def _listen(words: list[str], given: str, seconds: float) -> Ran:
    """Start it, say `given`, hear up to MAX_OUTPUT of what it says, and end it when time is up."""
    process = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin"},
        start_new_session=True,
        close_fds=True,
    )
    heard: dict[str, bytearray] = {"out": bytearray(), "err": bytearray()}
    until, late = time.monotonic() + seconds, False
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    left = memoryview(given.encode())
    with selectors.DefaultSelector() as ears:
        ears.register(process.stdout, selectors.EVENT_READ, "out")
        ears.register(process.stderr, selectors.EVENT_READ, "err")
        os.set_blocking(process.stdin.fileno(), False)
        ears.register(process.stdin, selectors.EVENT_WRITE, "in")
        while ears.get_map():
            wait = until - time.monotonic()
            if wait <= 0:
                late = True
                break
            for key, _ in ears.select(wait):
                if key.data == "in":
                    left = _say(process.stdin, left)
                    if not left:
                        ears.unregister(key.fileobj)
                        process.stdin.close()
                    continue
                piece = os.read(key.fd, 65536)
                if not piece:
                    ears.unregister(key.fileobj)
                heard[key.data] += piece[: MAX_OUTPUT - len(heard[key.data])]
    code = _ended(process) if late else process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if not pipe.closed:
            pipe.close()
    texts = {name: bytes(said).decode("utf-8", "replace") for name, said in heard.items()}
    return Ran(code=128 - code if code < 0 else code, **texts, late=late)


def _ended(process: subprocess.Popen[bytes]) -> int:
    """End what took too long: the jail ends its world and waits for it; one that does not even do that is killed."""
    process.terminate()
    try:
        return process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def _say(pipe: object, left: memoryview) -> memoryview:
    """Write what the pipe takes; a program that does not listen is told nothing more."""
    try:
        return left[os.write(pipe.fileno(), left[:65536]) :] if left else left  # type: ignore[attr-defined]
    except BlockingIOError:
        return left
    except BrokenPipeError:
        return left[len(left) :]
