"""Where documents are fetched from: git repositories (once, into a cache) and the URL of one document.

Left out: which files of a repository are read (leafdocs.py), passwords: git's own helpers give them.

A commit that is named in full is fetched once and then read offline; a branch or a tag is looked up again each time that
there is a network, and the last fetched one is used where there is none.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from bottega.core.errors import UserError
from bottega.core.rundir import atomic_write, publish
from bottega.data.documents import SUFFIXES
from bottega.models.locate import is_offline
from bottega.synth.gitcalls import ask, complaint, text_of

MAX_BYTES = 200_000_000
"""The largest document that is read."""
TIMEOUT_S = 60.0
_FULL = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_][\w./+-]*")
_KINDS = {
    "text/html": ".html",
    "text/markdown": ".md",
    "text/plain": ".txt",
    "text/x-rst": ".rst",
    "application/pdf": ".pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A file of a commit: its path, its mode and the name of its content."""

    path: str
    mode: str
    object: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A commit in a bare repository of the cache; note: why it may not be the newest."""

    folder: Path
    commit: str
    note: str = ""

    def entries(self) -> list[Entry]:
        """Its files, sorted by path."""
        listed = text_of(ask(self.folder, "ls-tree", "-r", "-z", "--full-tree", self.commit))
        found = []
        for line in listed.split("\0"):
            if line:
                about, _, path = line.partition("\t")
                mode, _, name = about.split(" ")
                found.append(Entry(path=path, mode=mode, object=name))
        return sorted(found, key=lambda one: one.path)

    def size(self, entry: Entry) -> int:
        """The bytes of a file."""
        return int(text_of(ask(self.folder, "cat-file", "-s", entry.object)))

    def content(self, entry: Entry) -> bytes:
        """A file."""
        return ask(self.folder, "cat-file", "blob", entry.object).stdout


def is_git_folder(path: Path) -> bool:
    """Whether a folder is the root of a repository, bare or with its working tree."""
    return (path / ".git").exists() or ((path / "HEAD").is_file() and (path / "objects").is_dir())


def snapshot(repo: str, commit: str, *, cache: Path) -> Snapshot:
    """The commit of a repository, from the cache or fetched into it.

    Args:
        repo: a URL that git knows. commit: a full or short id, a branch or a tag.

    Raises:
        UserError: it cannot be fetched (or, offline, was not), or holds no such commit.
    """
    if not _NAME.fullmatch(commit) or ".." in commit:
        raise UserError(f"commit {commit!r} names no commit, branch or tag; write the id of a commit")
    key = hashlib.sha256(f"{repo}\0{commit}".encode("utf-8", "surrogatepass")).hexdigest()[:24]
    folder = cache / f"{key}.git"
    kept = _kept(folder)
    if kept and (_FULL.fullmatch(commit) or kept.startswith(commit)):
        return Snapshot(folder=folder, commit=kept)
    if is_offline() and not repo.startswith("file://"):
        if kept:
            return Snapshot(folder=folder, commit=kept, note=f"offline: {repo} at {commit} as it was fetched last")
        raise UserError(f"{repo} at {commit} was not fetched before, and offline is set; run once without it")
    try:
        _fetch(repo, commit, folder)
    except UserError as error:
        if not kept:
            raise
        return Snapshot(folder=folder, commit=kept, note=f"{error}; what was fetched last is used")
    found = _kept(folder)
    assert found, "a repository was published without its commit"
    return Snapshot(folder=folder, commit=found)


def _kept(folder: Path) -> str:
    """The commit that the cache holds whole ("" : none)."""
    if not (folder / "HEAD").is_file():
        return ""
    done = ask(folder, "rev-parse", "--verify", "--quiet", "refs/bottega/wanted^{tree}")
    return text_of(ask(folder, "rev-parse", "refs/bottega/wanted^{commit}")).strip() if not done.returncode else ""


def _fetch(repo: str, commit: str, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.{os.getpid()}.", suffix=".tmp", dir=folder.parent))
    try:
        ask(draft, "init", "--quiet", "--bare", ".")
        wanted = f"+{commit}:refs/bottega/wanted"
        done = ask(draft, "fetch", "--quiet", "--no-tags", "--depth", "1", "--", repo, wanted)
        if done.returncode:  # a short id, or a server that gives ids to nobody: then all of it
            everything = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
            whole = ask(draft, "fetch", "--quiet", "--no-tags", "--", repo, *everything)
            if whole.returncode:
                raise UserError(
                    f"{repo} cannot be fetched: {complaint(whole)}; mend `repo`, or name a copy with --documents"
                )
            found = ask(draft, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
            if found.returncode:
                raise UserError(f"{repo} has no commit, branch or tag {commit!r}; mend `commit`")
            ask(draft, "update-ref", "refs/bottega/wanted", text_of(found).strip())
        if not _kept(draft):
            raise UserError(f"{repo}: {commit!r} is no commit; mend `commit`")
        publish(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


class _Web(urllib.request.HTTPRedirectHandler):
    """Follows only to http and https."""

    def redirect_request(self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.URLError(f"it leads to {urlsplit(newurl).scheme}://")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def page(url: str, *, cache: Path) -> Path:
    """The file of the cache that holds the document at a URL, fetched when it is not there.

    Raises:
        UserError: it cannot be fetched (or, offline, was not), is too big, or of no kind that is read.
    """
    key = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:24]
    for suffix in SUFFIXES:
        if (cache / f"{key}{suffix}").is_file():
            return cache / f"{key}{suffix}"
    if is_offline():
        raise UserError(f"{url} was not fetched before, and offline is set; run once without it")
    opener = urllib.request.build_opener(_Web())
    try:
        with opener.open(urllib.request.Request(url, headers={"User-Agent": "bottega"}), timeout=TIMEOUT_S) as answer:
            content = answer.read(MAX_BYTES + 1)
            kind = answer.headers.get_content_type()
    except (urllib.error.URLError, OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise UserError(f"{url} cannot be fetched: {why}; look at the URL, or give a file") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{url} is larger than {MAX_BYTES:,} bytes, the most that is read; give a part of it")
    suffix = Path(urlsplit(url).path).suffix.lower()
    suffix = suffix if suffix in SUFFIXES else _KINDS.get(kind, "")
    if not suffix:
        raise UserError(f"{url} is {kind}, which is not read; documents are {' '.join(SUFFIXES)}")
    atomic_write(cache / f"{key}{suffix}", content)
    return cache / f"{key}{suffix}"
