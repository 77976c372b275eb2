"""Changed leaves as a signed-off commit on a branch of their own, pushed or as a patch, with the text of a request.

Left out: hosts and their web pages; a request is a text to paste. The working tree, the index and the branch at hand are never
touched: the commit is made of objects, through an index of its own.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bottega.core.errors import UserError
from bottega.core.rundir import atomic_write
from bottega.synth.gitcalls import ask, complaint, git, text_of
from bottega.synth.taxonomy import NAME, Examined, examine
from bottega.synth.taxonomy_git import diff, resolve
from bottega.synth.taxonomy_new import ATTRIBUTION


def contribute(
    path: str | Path,
    *,
    base: str = "origin/main",
    branch: str | None = None,
    message: str | None = None,
    only: Sequence[str] = (),
    remote: str | None = None,
    patch: str | None = None,
) -> dict[str, Any]:
    """A branch with one signed-off commit on `base`: each changed leaf with its attribution and the other files of its folder.

    Args:
        path: the taxonomy's folder in a git checkout. base: where it is meant to go; its own newest commit is the parent.
        branch: its name, made of the first leaf's where none is given. only: these leaves alone, relative to `path`.
        remote: push the branch there. patch: also write the commit as a patch that `git am` takes.

    Returns: branch, commit, leaves, pushed, request (Markdown for whoever looks at it), patch.
    Raises:
        UserError: nothing changed, a leaf with errors or without attribution, no name and e-mail in git's settings, a branch of that
            name, or a remote that refuses (the branch stays).
    """
    root = Path(path)
    changed = diff(root, base=base)["changed"]
    unknown = [name for name in only if name not in changed]
    if unknown:
        raise UserError(f"{unknown[0]} is no changed leaf; `bottega taxonomy diff {root} --base {base}` lists them")
    leaves = list(only) or changed
    if not leaves:
        raise UserError(f"no leaf changed against {base}: there is nothing to contribute")
    found = [_sound(root, name) for name in leaves]
    signed = _signature(root)
    parent = resolve(root, base)
    called = branch or "leaf/" + re.sub(r"[^a-z0-9]+", "-", leaves[0].removesuffix(f"/{NAME}").lower()).strip("-")
    _free(root, called)
    title = message or _title(leaves)
    commit = _commit(root, parent, leaves, f"{title}\n\n{_body(found)}\nSigned-off-by: {signed}\n")
    git(root, "update-ref", f"refs/heads/{called}", commit, "0" * 40)
    written = ""
    if patch is not None:
        written = git(root, "format-patch", "--stdout", "-1", commit)
        atomic_write(patch, written)
    pushed = _push(root, remote, called) if remote is not None else False
    request = _request(title, found, base, called, signed)
    return {
        "branch": called,
        "commit": commit,
        "leaves": leaves,
        "pushed": pushed,
        "request": request,
        "patch": patch or "",
    }


def _sound(root: Path, name: str) -> Examined:
    found = examine(root / name, name, root=root)
    if errors := found.of("error"):
        first = errors[0]
        raise UserError(f"{name}:{first.line}:{first.column}: {first.message}; {first.fix}, and contribute it then")
    beside = (root / name).with_name(ATTRIBUTION)
    if not beside.is_file() or not beside.read_text(encoding="utf-8", errors="replace").strip():
        raise UserError(f"{beside} is missing or empty; say there where the texts are from, and under which licence")
    return found


def _signature(root: Path) -> str:
    """Name <e-mail> of whoever signs off."""
    found = []
    for key in ("user.name", "user.email"):
        done = ask(root, "config", "--get", key)
        said = text_of(done).strip()
        if done.returncode or not said:
            raise UserError(
                f"git does not know your {key}, and a contribution is signed off: git config --global {key} ..."
            )
        found.append(said)
    return f"{found[0]} <{found[1]}>"


def _free(root: Path, branch: str) -> None:
    if ask(root, "check-ref-format", "--branch", branch).returncode:
        raise UserError(f"{branch!r} is no name for a branch; give another with --branch")
    if ask(root, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}").returncode == 0:
        raise UserError(
            f"there is a branch {branch} already; give another name with --branch, or remove it: git branch -D {branch}"
        )


def _commit(root: Path, parent: str, leaves: Sequence[str], message: str) -> str:
    """The commit's name. Files go in as they lie in the working tree; each leaf's folder as a whole, without folders below it."""
    prefix = git(root, "rev-parse", "--show-prefix").removesuffix("\n")
    top = Path(git(root, "rev-parse", "--show-toplevel").removesuffix("\n"))
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch) / "index"
        git(root, "read-tree", parent, index=index)
        for leaf in leaves:
            for file in sorted((root / leaf).parent.iterdir()):
                name = f"{prefix}{Path(leaf).parent.as_posix()}/{file.name}"
                ignored = ask(root, "check-ignore", "--quiet", "--", str(file.absolute())).returncode == 0
                if file.is_symlink() or not file.is_file() or file.name.startswith(".") or ignored:
                    continue
                blob = git(top, "hash-object", "-w", "--", str(file.absolute())).strip()
                git(top, "update-index", "--add", "--cacheinfo", f"100644,{blob},{name}", index=index)
        tree = git(top, "write-tree", index=index).strip()
    if tree == git(root, "rev-parse", f"{parent}^{{tree}}").strip():
        raise UserError("these leaves are the base's own already: there is nothing to contribute")
    return git(root, "commit-tree", tree, "-p", parent, "-F", "-", data=message).strip()


def _push(root: Path, remote: str, branch: str) -> bool:
    done = ask(root, "push", "--quiet", "--end-of-options", remote, f"refs/heads/{branch}:refs/heads/{branch}")
    if done.returncode:
        raise UserError(
            f"{remote} does not take the branch ({complaint(done)}); it is here as {branch}: mend the remote, then "
            f"git push {remote} {branch}"
        )
    return True


def _title(leaves: Sequence[str]) -> str:
    names = [name.removesuffix(f"/{NAME}") for name in leaves]
    return f"Add {names[0]}" if len(names) == 1 else f"Add {names[0]} and {len(names) - 1} more leaves"


def _body(found: Sequence[Examined]) -> str:
    return "".join(f"- {one.path}: {one.kind}, {_seeds(one)}, {_licences(one)}\n" for one in found)


def _seeds(one: Examined) -> str:
    count = len(one.leaf.seeds) if one.leaf else 0
    pairs = sum(len(seed.pairs) for seed in one.leaf.seeds) if one.leaf else 0
    return f"{count} seeds" if pairs == count else f"{count} seeds with {pairs} questions"


def _licences(one: Examined) -> str:
    return ", ".join(one.leaf.licences) if one.leaf and one.leaf.licences else "licence not recognised"


def _request(title: str, found: Sequence[Examined], base: str, branch: str, signed: str) -> str:
    """What the maintainer reads first."""
    lines = [f"# {title}", "", f"From `{branch}` into `{base}`, signed off by {signed}.", ""]
    lines += ["| leaf | kind | seeds | licence | warnings |", "|---|---|---|---|---|"]
    for one in found:
        cells = (f"`{one.path}`", one.kind, _seeds(one), _licences(one), str(len(one.of("warning"))))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    abouts = [(one.path, one.leaf.about) for one in found if one.leaf]
    lines += ["", *(f"- `{name}`: {' '.join(about.split())[:300]}" for name, about in abouts)]
    lines += [
        "",
        "Checked with `bottega taxonomy check`; the maintainer's page comes from `bottega taxonomy triage`.",
        "",
    ]
    return "\n".join(lines)


def contribute_text(result: Mapping[str, Any]) -> str:
    """What became of it, and the request's text."""
    state = "pushed" if result["pushed"] else "here; push it, or send the patch"
    lines = [f"{len(result['leaves'])} leaves on the branch {result['branch']} ({result['commit'][:12]}), {state}"]
    lines += [f"patch: {result['patch']}"] if result["patch"] else []
    return "\n".join([*lines, "", result["request"]])
