"""Which leaves changed: the working tree against the newest first-parent commit that a base contains, as git tells it.

Left out: what changed inside a leaf. Git is asked through its own program and only reads; the index is not refreshed.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from bottega.core.errors import UserError
from bottega.synth.taxonomy import NAME, candidates

EMPTY = "empty"


def diff(path: str | Path, *, base: str = "origin/main") -> dict[str, Any]:
    """Changed and untracked leaves of the working tree below `path`, relative to it, sorted.

    The base is a branch, a remote's branch, a commit, a tag, or `empty` for all leaves. Compared is the newest commit
    on the first-parent line of HEAD that the base contains: what others added to the base since is not counted.
    A renamed leaf counts under its new name, a deleted one not at all, nor what git ignores.

    Raises:
        UserError: no folder, no git checkout, no such base, or none that shares history with HEAD.
    """
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; give the folder of a taxonomy")
    if base == EMPTY:
        return {"changed": [shown for file, shown in candidates(root) if file.name == NAME]}
    prefix = git(root, "rev-parse", "--show-prefix").removesuffix("\n")
    since = fork(root, base)
    tracked = git(
        root,
        "diff",
        "--name-only",
        "--no-renames",
        "--no-ext-diff",
        "--no-textconv",
        "-z",
        "--diff-filter=d",
        since,
        "--",
        ".",
    )
    untracked = git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", ".")
    names = {name.removeprefix(prefix) for name in tracked.split("\0") if name}
    names |= {name for name in untracked.split("\0") if name}
    leaves = [name for name in names if name.rpartition("/")[2] == NAME and (root / name).is_file()]
    return {"changed": sorted(leaves)}


def fork(root: Path, base: str) -> str:
    """The newest commit on HEAD's first-parent line that `base` contains.

    Raises:
        UserError: the base is not known, or there is no such commit.
    """
    commit = resolve(root, base)
    line = git(root, "rev-list", "--first-parent", "HEAD").split()
    outside = set(git(root, "rev-list", "HEAD", f"^{commit}").split())
    for one in line:
        if one not in outside:
            return one
    raise UserError(
        f"{base} and the checkout at {root} share no commit; give a base from which it was made, or --base empty"
    )


def resolve(root: Path, base: str) -> str:
    """The commit that a name means: a branch first, then a remote's branch, a tag, a commit; never one that only ends alike.

    Raises:
        UserError: none.
    """
    if base and not base.startswith("-") and "\0" not in base:
        for full in (f"refs/heads/{base}", f"refs/remotes/{base}", f"refs/tags/{base}", base):
            done = _run(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{full}^{{commit}}")
            if done.returncode == 0:
                return done.stdout.strip()
    git(root, "rev-parse", "--git-dir")
    raise UserError(
        f"the base {base!r} is no branch, remote branch, tag or commit of {root}; `git branch -a` lists them"
    )


def git(root: Path, *words: str) -> str:
    """What git answers.

    Raises:
        UserError: git is not installed, or it refuses.
    """
    done = _run(root, *words)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise UserError(f"git {words[0]} in {root}: {why}; give the folder of a git checkout that has a commit")
    return done.stdout


def _run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-c", "core.quotePath=false", "-c", "core.fsmonitor=false", "-C", str(root), *words]
    # the index is not rewritten, and hooks or filters of the environment's own git folder stay out
    hidden = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_EXTERNAL_DIFF")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
            env={**env, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        raise UserError("git is not installed; install it to compare a taxonomy with its base") from None


def diff_text(result: dict[str, Any]) -> str:
    """A path a line."""
    return "\n".join(result["changed"]) or "no leaf changed"
