"""Which leaves changed: the working tree against the newest first-parent commit that a base contains, as git tells it.

Left out: what changed inside a leaf. Git only reads; the index is not refreshed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bottega.core.errors import UserError
from bottega.synth.gitcalls import ask, git, text_of
from bottega.synth.taxonomy import NAME, candidates

EMPTY = "empty"


def diff(path: str | Path, *, base: str = "origin/main") -> dict[str, Any]:
    """Changed and untracked leaves of the working tree below `path`, relative to it, sorted.

    The base is a branch, a remote's branch, a commit, a tag, or `empty` for all leaves. Compared is the newest commit
    on the first-parent line of HEAD that the base contains: what others added to the base since is not counted.
    A renamed leaf counts under its new name, a deleted one not at all, nor what git ignores or
    lies in a folder whose name begins with a dot.

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
    asked = ("--name-only", "--no-renames", "--no-ext-diff", "--no-textconv", "-z", "--diff-filter=d")
    tracked = git(root, "diff", *asked, since, "--", ".")
    untracked = git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", ".")
    names = {name.removeprefix(prefix) for name in tracked.split("\0") if name}
    names |= {name for name in untracked.split("\0") if name}
    leaves = [name for name in names if name.rpartition("/")[2] == NAME and (root / name).is_file()]
    return {"changed": sorted(name for name in leaves if not any(part.startswith(".") for part in name.split("/")))}


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
            done = ask(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{full}^{{commit}}")
            if done.returncode == 0:
                return text_of(done).strip()
    git(root, "rev-parse", "--git-dir")
    raise UserError(
        f"the base {base!r} is no branch, remote branch, tag or commit of {root}; `git branch -a` lists them"
    )


def diff_text(result: dict[str, Any]) -> str:
    """A path a line."""
    return "\n".join(result["changed"]) or "no leaf changed"
