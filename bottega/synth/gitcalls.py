"""Questions to git through its own program, with what a hostile folder or a waiting prompt could do turned off.

Left out: what is asked (taxonomy_git.py, leafdocs_fetch.py). Only protocols that carry files are allowed, never `ext::`;
git asks for no password, rewrites no index, and does not look at the caller's GIT_DIR.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from bottega.core.errors import UserError

TIMEOUT_S = 600.0
_HIDDEN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_EXTERNAL_DIFF", "GIT_NAMESPACE")
_SET = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "SSH_ASKPASS": "",
    "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
    "LC_ALL": "C",
}


def git(root: Path, *words: str, data: str | None = None, index: Path | None = None) -> str:
    """What git answers in `root`, as text (bytes that are no UTF-8 as surrogates).

    Raises:
        UserError: git is not installed, or it refuses.
    """
    done = ask(root, *words, data=None if data is None else data.encode("utf-8", "surrogateescape"), index=index)
    if done.returncode:
        remedy = "give the folder of a git checkout that has a commit"
        raise UserError(f"git {words[0]} in {root}: {complaint(done)}; {remedy}")
    return text_of(done)


def text_of(done: subprocess.CompletedProcess[bytes]) -> str:
    """What git printed."""
    return done.stdout.decode("utf-8", "surrogateescape")


def complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    """The line in which git says why it refuses."""
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    fatal = [line for line in lines if line.startswith(("fatal:", "error:"))]
    return (fatal or lines or ["no reason given"])[0].removeprefix("fatal:").removeprefix("error:").strip()


def ask(
    root: Path, *words: str, data: bytes | None = None, index: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Git's answer as it is, its exit code included. index: a file in the place of the checkout's own index.

    Raises:
        UserError: git is not installed, or it did not answer in ten minutes.
    """
    safe = ("core.quotePath=false", "core.fsmonitor=false", "core.hooksPath=/dev/null", "gc.auto=0")
    command = ["git", *(word for one in safe for word in ("-c", one)), "-C", str(root), *words]
    env = {name: value for name, value in os.environ.items() if name not in _HIDDEN}
    try:
        return subprocess.run(
            command,
            capture_output=True,
            env={**env, **_SET, **({"GIT_INDEX_FILE": str(index)} if index is not None else {})},
            check=False,
            timeout=TIMEOUT_S,
            input=data or b"",
        )
    except FileNotFoundError:
        raise UserError("git is not installed; install it to read taxonomies and documents from it") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"git {words[0]} did not end in {TIMEOUT_S:.0f} s; look at the network, or try again") from None
