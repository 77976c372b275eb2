"""Documents of leaves: from git, folders, file://, a page and the cache; one rule for patterns; what is passed over is said."""

from __future__ import annotations

import glob as python_glob
import json
import subprocess
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bottega.cli import door
from bottega.core.errors import UserError
from bottega.core.types import Leaf
from bottega.data.documents import read_text
from bottega.synth.leafdocs import cut, documents, gather
from bottega.synth.leafdocs_globs import glob
from tests.synth.leaves import KNOWLEDGE, SKILL, put

LEAF = Leaf(
    path="knowledge/moons/qna.yaml", kind="knowledge", version=3, created_by="anna", about="moons", seeds=(),
    repo="docs", commit="main", patterns=("**/*.md",),
)  # fmt: skip


def run_git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=Anna", "-c", "user.email=anna@example.org", "-c", "protocol.file.allow=always")
    done = subprocess.run(["git", *identity, "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A repository of documents with two commits on `main`; returns (folder, first commit)."""
    folder = tmp_path / "moons"
    folder.mkdir()
    run_git(folder, "init", "--quiet", "-b", "main")
    (folder / "a.md").write_text("# Ilo\n\nIlo has three moons.\n")
    (folder / "deep/er").mkdir(parents=True)
    (folder / "deep/er/b.md").write_text("The second moon is red.\n")
    (folder / "data.bin").write_bytes(b"\x00")
    (folder / "link.md").symlink_to("/etc/hostname")
    run_git(folder, "add", "-A")
    run_git(folder, "commit", "--quiet", "-m", "one")
    first = run_git(folder, "rev-parse", "HEAD")
    (folder / "a.md").write_text("# Ilo\n\nIlo has four moons.\n")
    run_git(folder, "commit", "--quiet", "-am", "two")
    return folder, first


def leaf_at(repo: Path | str, commit: str, *patterns: str) -> Leaf:
    return replace(LEAF, repo=str(repo), commit=commit, patterns=patterns or LEAF.patterns)


def test_the_commit_of_a_repository_is_read_whatever_its_working_tree_holds(repository, tmp_path):
    folder, first = repository
    (folder / "a.md").write_text("changed and not committed")
    for repo in (folder, folder.as_uri()):
        for commit in (first, first[:10]):
            found = gather(leaf_at(repo, commit), root=tmp_path, cache=tmp_path / "cache")
            assert [one.meta["file"] for one in found.documents] == ["a.md", "deep/er/b.md"]
            assert found.documents[0].text == "# Ilo\n\nIlo has three moons.\n"
            assert found.documents[0].meta["commit"] == first
            assert found.notes == [
                f"knowledge/moons/qna.yaml: link.md of {repo} is skipped: links are not followed; name the file it leads to"
            ]
    assert "four" in gather(leaf_at(folder, "main"), root=tmp_path, cache=tmp_path / "cache").documents[0].text
    assert run_git(folder, "status", "--porcelain") == "M a.md"


def test_what_was_fetched_once_is_read_offline_and_after_the_repository_is_gone(repository, tmp_path, monkeypatch):
    folder, first = repository
    before = gather(leaf_at(folder.as_uri(), first), root=tmp_path, cache=tmp_path / "cache")
    branch = gather(leaf_at(folder.as_uri(), "main"), root=tmp_path, cache=tmp_path / "cache")
    folder.rename(tmp_path / "gone")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert gather(leaf_at(folder.as_uri(), first), root=tmp_path, cache=tmp_path / "cache") == before
    later = gather(leaf_at(folder.as_uri(), "main"), root=tmp_path, cache=tmp_path / "cache")
    assert later.documents == branch.documents and "what was fetched last is used" in later.notes[0]
    with pytest.raises(UserError, match=r"cannot be fetched: .*mend `repo`, or name a copy with --documents"):
        gather(leaf_at(folder.as_uri(), first), root=tmp_path, cache=tmp_path / "other")
    with pytest.raises(UserError, match="was not fetched before, and offline is set"):
        gather(leaf_at("https://example.org/x.git", first), root=tmp_path, cache=tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


def test_a_folder_beside_the_leaf_is_read_and_the_commit_is_said_to_be_unused(tmp_path):
    folder = tmp_path / "knowledge/moons/docs"
    folder.mkdir(parents=True)
    (folder / "a.md").write_text("Ilo.")
    (folder / "secret.md").symlink_to("/etc/hostname")
    found = gather(LEAF, root=tmp_path)
    assert [one.text for one in found.documents] == ["Ilo."]
    assert "plain folder, so commit main is not looked up" in found.notes[0] and "links are not" in found.notes[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patterns": ("none/*.md",)}, r"'none/\*.md' finds no file in .*there is a.md.*mend it"),
        ({"patterns": ("../*.md",)}, "does not stay inside the documents"),
        ({"patterns": ("data.bin",)}, "no document could be read .*data.bin .* is skipped: documents are .txt"),
        ({"commit": "beef"}, "has no commit, branch or tag 'beef'; mend `commit`"),
        ({"commit": "--upload-pack=touch x"}, "names no commit, branch or tag"),
        ({"repo": "ext::sh -c true"}, "there is no .*ext::sh"),
        ({"repo": "ftp://example.org/x"}, "has the scheme 'ftp'"),
        ({"repo": "nowhere"}, "there is no .*nowhere for its documents"),
        ({"repo": "http://127.0.0.1:1/page.html"}, "a leaf may not open by itself; name it with --documents"),
    ],
)
def test_documents_that_cannot_be_had_are_told_in_one_sentence(repository, tmp_path, change, message):
    leaf = replace(leaf_at(repository[0], "main"), **change)
    with pytest.raises(UserError, match=message) as caught:
        gather(leaf, root=tmp_path, cache=tmp_path / "cache")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("knowledge/moons/qna.yaml")


def test_a_page_that_the_user_named_is_fetched_once(tmp_path):
    asked = []

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(302 if self.path == "/away.html" else 200)
            self.send_header("Location", "ftp://127.0.0.1:1/x.html")
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(b"<h1>Ilo</h1><p>Four moons.</p>")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        for _ in range(2):
            found = gather(LEAF, root=tmp_path, instead=f"{url}/moons.html", cache=tmp_path / "cache")
            assert [one.text for one in found.documents] == ["# Ilo\n\nFour moons.\n"]
        assert asked == ["/moons.html"]
        with pytest.raises(UserError, match="leads to ftp://"):
            gather(LEAF, root=tmp_path, instead=f"{url}/away.html", cache=tmp_path / "cache")
    finally:
        server.shutdown()
        server.server_close()
    found = gather(LEAF, root=tmp_path, instead=f"{url}/moons.html", cache=tmp_path / "cache")
    assert found.documents[0].meta["file"] == "moons.html"


def test_one_leaf_without_documents_does_not_stop_the_others_and_is_exit_9(repository, tmp_path, capsys):
    folder, first = repository
    taxonomy = tmp_path / "taxonomy"
    sound = KNOWLEDGE.replace("https://example.org/moons.git", folder.as_uri()).replace("0123abc", first)
    put(taxonomy, "knowledge/a", sound)
    put(taxonomy, "knowledge/b", sound.replace("moons\n", "gone\n").replace("astronomy", "myths"))
    put(taxonomy, "compositional_skills/c", SKILL)
    out, cache = tmp_path / "chunks.jsonl", tmp_path / "cache"
    result = documents(taxonomy, out=out, cache=cache, size=20)
    assert [leaf["path"] for leaf in result["leaves"]] == ["knowledge/a/qna.yaml"]
    assert [one["path"] for one in result["failed"]] == ["knowledge/b/qna.yaml"]
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert "".join(line["text"] for line in lines) == "# Ilo\n\nIlo has three moons.\n"
    assert lines[-1]["headings"] == ["Ilo"] and lines[0]["commit"] == first
    assert door(["taxonomy", "documents", str(taxonomy), "--cache", str(cache), "--json"]) == 9
    assert json.loads(capsys.readouterr().out)["chunks"] == 1


NAMES = st.sampled_from(["a", "b.md", ".h", "ab", "a.md", "[x]", "é.md"])
PARTS = st.sampled_from(["*", "**", "a", "*.md", "?", "?.md", ".*", "[ab]", "[!a]*", "[[]x]", "a*", "é*"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sets(st.lists(NAMES, min_size=1, max_size=3).map("/".join), max_size=6), st.lists(PARTS, min_size=1, max_size=3)
)
def test_patterns_find_what_the_recursive_glob_of_python_finds(tmp_path_factory, paths, parts):
    root = tmp_path_factory.mktemp("tree")
    for path in sorted(paths, key=len, reverse=True):
        file = root / path
        if not file.exists() and not any(parent.is_file() for parent in file.parents):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("x")
    pattern = "/".join(parts)
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    found = {path for path in python_glob.glob(pattern, root_dir=root, recursive=True) if (root / path).is_file()}
    assert {path for path in files if glob(pattern).fullmatch(path)} == found


RST = """Guide
=====

First *text* and :ref:`a role <x>`.

.. versionadded:: 3.2
   Words that matter.

.. include:: /etc/hostname

Tools
-----

- saw

.. code-block:: python

   def f():

       return 1

=====  =====
Tool   Count
=====  =====
saw    3
=====  =====
"""


def test_restructured_text_keeps_headings_lists_tables_code_and_the_words_of_what_it_does_not_know(tmp_path):
    pytest.importorskip("docutils")
    (tmp_path / "a.rst").write_text(RST)
    text = read_text(tmp_path / "a.rst")
    assert text == (
        "# Guide\n\nFirst text and :ref:`a role <x>`.\n\n3.2 Words that matter.\n\n/etc/hostname\n\n## Tools\n\n- saw\n\n"
        "```\ndef f():\n\n    return 1\n```\n\n| Tool | Count |\n| --- | --- |\n| saw | 3 |\n"
    )


@pytest.mark.parametrize("name", ["phoenix", "moo_deng"])
def test_the_chunks_of_a_real_document_tile_it_and_cut_no_row_in_md_and_pdf(shared_data, tmp_path, name):
    pytest.importorskip("pypdf")
    folder = shared_data(f"documents/{name}.md").parent
    words = {}
    for kind in ("md", "pdf"):
        found = gather(replace(LEAF, patterns=(f"{name}.{kind}",)), root=tmp_path, instead=str(folder))
        text, pieces = found.documents[0].text, [piece for _, piece in cut(found, size=1500)]
        assert "".join(piece.text for piece in pieces) == text
        ends = {piece.end for piece in pieces[:-1]}
        at = 0
        for line in text.splitlines(keepends=True):
            assert not line.startswith("|") or not ends & set(range(at + 1, at + len(line)))
            at += len(line)
        oversized = [piece for piece in pieces if len(piece.text) > 1500]
        assert all(piece.text.strip().startswith("|") for piece in oversized)
        words[kind] = set(text.lower().split())
    assert len(words["md"] & words["pdf"]) > 0.8 * len(words["md"])
