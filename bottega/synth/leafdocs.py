"""The documents of a knowledge leaf: found by its patterns in a repository, a folder or at a URL, and read to text.

Left out: fetching (leafdocs_fetch.py), reading a kind of file (data/documents.py), cutting (data/chunk.py). A link is
never followed, so that no leaf reads what lies outside its documents.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bottega.core.errors import Partial, UserError
from bottega.core.rundir import atomic_write, user_cache
from bottega.core.types import Document, Leaf, Where
from bottega.data.chunk import Chunk, chunk
from bottega.data.documents import SUFFIXES, Unreadable, read_text
from bottega.synth.leafdocs_fetch import MAX_BYTES, is_git_folder, page, snapshot
from bottega.synth.leafdocs_globs import glob
from bottega.synth.taxonomy import read_taxonomy

SIZE = 2000
_LFS = b"version https://git-lfs.github.com/spec/"
_SCP = re.compile(r"[\w.-]+@[\w.-]+:.+")


@dataclass(kw_only=True, slots=True)
class Gathered:
    """The documents of a leaf, and what was passed over or is worth knowing, a sentence each."""

    documents: list[Document] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    """A file that may be a document: its path below the root, and how to read it."""

    path: str
    size: Callable[[], int]
    content: Callable[[], bytes]
    is_link: bool = False


def gather(leaf: Leaf, *, root: str | Path, instead: str = "", cache: str | Path | None = None) -> Gathered:
    """The documents that a leaf rests on, in the order of their paths.

    `repo` is a git URL, `file://` (a repository or a folder), or a path: relative to the leaf's own folder. Patterns are
    those of `leafdocs_globs.glob`, alike for each source.

    Args:
        root: the taxonomy (or the file) that `leaf.path` is relative to.
        instead: a source that the user named, taken in place of `repo`: as above, or the URL of one document.
        cache: where fetched sources stay; default: `documents` in the user's cache.

    Returns: documents with `where` (the file) and `meta` (leaf, repo, commit, file, sha256).
    Raises:
        UserError: the source is not there, cannot be fetched, a pattern finds nothing, or nothing could be read.
    """
    if leaf.kind != "knowledge":
        return Gathered()
    repo, base, folder = instead or leaf.repo, _folder_of(leaf, root), Path(cache or user_cache("documents"))
    found = Gathered()
    if _is_page(repo):
        if not instead:
            raise UserError(
                f"{leaf.path}: {repo} is the URL of a document, which a leaf may not open by itself; name it with --documents"
            )
        _read(_whole(page(repo, cache=folder), Path(urlsplit(repo).path).name), leaf, repo, "", found)
    else:
        commit, files = _files(leaf, repo, base, folder, found, is_named=bool(instead))
        for file in _matching(leaf, files, repo, found, is_named=bool(instead)):
            _read(file, leaf, repo, commit, found)
    if not found.documents:
        raise UserError(f"{leaf.path}: no document could be read from {repo}: {'; '.join(found.notes) or 'none'}")
    return found


def _folder_of(leaf: Leaf, root: str | Path) -> Path:
    root = Path(root)
    return (root if root.is_dir() else root.parent) / Path(leaf.path).parent


def _is_page(repo: str) -> bool:
    parts = urlsplit(repo)
    return parts.scheme in ("http", "https") and Path(parts.path).suffix.lower() in SUFFIXES


def _files(
    leaf: Leaf, repo: str, base: Path, cache: Path, found: Gathered, *, is_named: bool
) -> tuple[str, list[_File]]:
    """The files of a source, and their commit ("" for a plain folder)."""
    scheme = urlsplit(repo).scheme if "://" in repo else ""
    if scheme in ("http", "https", "ssh", "git") or (not scheme and _SCP.fullmatch(repo)):
        return _committed(repo, leaf, cache, found)
    if scheme not in ("", "file"):
        raise UserError(
            f"{leaf.path}: {repo} has the scheme {scheme!r}; documents are at https, ssh, git, file or a path"
        )
    given = Path(unquote(urlsplit(repo).path)) if scheme else Path(repo).expanduser()
    path = given if is_named or scheme else base / given
    if path.is_file():
        return "", [_on_disk(path, path.name)]
    if (path.is_dir() and is_git_folder(path)) or (scheme and not path.is_dir()):
        return _committed(path.resolve().as_uri(), leaf, cache, found)
    if not path.is_dir():
        raise UserError(
            f"{leaf.path}: there is no {path} for its documents; mend `repo`, or name a copy with --documents"
        )
    found.notes.append(f"{leaf.path}: {repo} is a plain folder, so commit {leaf.commit} is not looked up")
    return "", list(_walk(path))


def _committed(repo: str, leaf: Leaf, cache: Path, found: Gathered) -> tuple[str, list[_File]]:
    try:
        kept = snapshot(repo, leaf.commit, cache=cache)
    except UserError as error:
        raise UserError(f"{leaf.path}: {error}") from None
    if kept.note:
        found.notes.append(f"{leaf.path}: {kept.note}")
    files = []
    for entry in kept.entries():
        size, content = (lambda one=entry: kept.size(one)), (lambda one=entry: kept.content(one))
        if entry.mode != "160000":  # another repository inside
            files.append(_File(path=entry.path, size=size, content=content, is_link=entry.mode == "120000"))
    return kept.commit, files


def _walk(root: Path) -> Iterator[_File]:
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name != ".git")
        for name in sorted(files):
            path = Path(folder, name)
            yield _on_disk(path, path.relative_to(root).as_posix())


def _on_disk(path: Path, shown: str) -> _File:
    return _File(path=shown, size=lambda: path.stat().st_size, content=path.read_bytes, is_link=path.is_symlink())


def _whole(path: Path, name: str) -> _File:
    shown = name if Path(name).suffix.lower() == path.suffix else name + path.suffix
    return _File(path=shown, size=lambda: path.stat().st_size, content=path.read_bytes)


def _matching(leaf: Leaf, files: Sequence[_File], repo: str, found: Gathered, *, is_named: bool) -> list[_File]:
    """Files that a pattern finds, in the order of their paths; a file that the user named is taken as it is."""
    if is_named and len(files) == 1 and Path(unquote(urlsplit(repo).path) or repo).name == files[0].path:
        return list(files)
    chosen: dict[str, _File] = {}
    for pattern in leaf.patterns:
        try:
            expression = glob(pattern)
        except UserError as error:
            raise UserError(f"{leaf.path}: {error}") from None
        hits = [file for file in files if expression.fullmatch(file.path)]
        if not hits:
            some = ", ".join(file.path for file in files[:5]) or "nothing"
            raise UserError(f"{leaf.path}: the pattern {pattern!r} finds no file in {repo} (there is {some}); mend it")
        chosen.update((file.path, file) for file in hits)
    return [chosen[path] for path in sorted(chosen)]


def _read(file: _File, leaf: Leaf, repo: str, commit: str, found: Gathered) -> None:
    """Read one file; what cannot be read is a note."""
    suffix, name = Path(file.path).suffix.lower(), f"{leaf.path}: {file.path} of {repo}"
    if suffix not in SUFFIXES:
        found.notes.append(f"{name} is skipped: documents are {' '.join(SUFFIXES)}")
        return
    if file.is_link:
        found.notes.append(f"{name} is skipped: links are not followed; name the file it leads to")
        return
    try:
        if file.size() > MAX_BYTES:
            found.notes.append(
                f"{name} is skipped: {file.size():,} bytes, and at most {MAX_BYTES:,} are read; split it"
            )
            return
        content = file.content()
        if content.startswith(_LFS):
            found.notes.append(
                f"{name} is skipped: it is only a pointer of git LFS; name a repository with the file itself"
            )
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "document" + suffix)
            path.write_bytes(content)
            text = read_text(path)
    except (Unreadable, OSError) as error:
        found.notes.append(f"{name} is skipped: {error}")
        return
    if not text.strip():
        found.notes.append(f"{name} is skipped: no text found in it")
        return
    digest = hashlib.sha256(content).hexdigest()
    meta = {"leaf": leaf.path, "repo": repo, "commit": commit, "file": file.path, "sha256": digest}
    found.documents.append(Document(text=text, where=Where(file.path), meta=meta))


def cut(found: Gathered, *, size: int = SIZE, measure: Callable[[str], int] = len) -> list[tuple[Document, Chunk]]:
    """Each document in chunks of at most `size` (see data/chunk.py: they tile the text, no table row or code fence is cut)."""
    return [(one, piece) for one in found.documents for piece in chunk(one.text, size=size, measure=measure)]


def documents(
    path: str | Path,
    *,
    instead: str = "",
    size: int = SIZE,
    out: str | Path | None = None,
    cache: str | Path | None = None,
) -> dict[str, Any]:
    """Fetch, read and cut the documents of every knowledge leaf; one leaf's failure does not stop the others.

    Args:
        path: a leaf or a taxonomy. instead, cache: see `gather`. size: characters a chunk may have.
        out: a jsonl file for the chunks: leaf, repo, commit, file, headings, text.

    Returns: `leaves` with their documents (file, commit, sha256, characters, chunks) and notes, `failed` ones with the
        reason, `exit_code` 9 if there are any of those.
    Raises:
        CheckFailed: a leaf has an error. Partial: `out` is asked for and not one leaf has a document.
    """
    leaves: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    lines: list[dict[str, Any]] = []
    for leaf in read_taxonomy(path):
        if leaf.kind != "knowledge":
            continue
        try:
            found = gather(leaf, root=path, instead=instead, cache=cache)
        except UserError as error:
            failed.append({"path": leaf.path, "message": str(error)})
            continue
        pieces = cut(found, size=size)
        rows = [
            {
                "file": one.meta["file"],
                "commit": one.meta["commit"],
                "sha256": one.meta["sha256"],
                "characters": len(one.text),
                "chunks": sum(document is one for document, _ in pieces),
            }
            for one in found.documents
        ]
        leaves.append({"path": leaf.path, "documents": rows, "notes": found.notes})
        about = ("leaf", "repo", "commit", "file")
        lines += [
            {**{key: one.meta[key] for key in about}, "headings": list(piece.headings), "text": piece.text}
            for one, piece in pieces
        ]
    if out is not None:
        if not lines and failed:
            raise Partial(f"{failed[0]['message']}; nothing was written to {out}")
        atomic_write(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return {"leaves": leaves, "failed": failed, "chunks": len(lines), "exit_code": 9 if failed else 0}


def documents_text(result: dict[str, Any]) -> str:
    """A line a document, a note, a failure; then the sums."""
    lines = []
    for leaf in result["leaves"]:
        lines.append(leaf["path"])
        lines += [
            f"  {one['file']}: {one['characters']:,} characters, {one['chunks']} chunks" for one in leaf["documents"]
        ]
        lines += [f"  note: {note}" for note in leaf["notes"]]
    lines += [f"failed: {one['message']}" for one in result["failed"]]
    return "\n".join(
        [*lines, f"{len(result['leaves'])} leaves, {result['chunks']} chunks, {len(result['failed'])} failed"]
    )
