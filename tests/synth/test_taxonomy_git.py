"""`bottega taxonomy diff` against a model of the history in plain Python, on random histories, and against git's own words."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bottega.cli import door
from bottega.core.errors import UserError
from bottega.synth.taxonomy_git import diff
from tests.synth.test_leafdocs import run_git

LEAVES = [f"{folder}/qna.yaml" for folder in ("knowledge/a", "knowledge/b", "skills ä/c", "skills ä/d\ne")]
OTHERS = ["knowledge/a/attribution.txt", "knowledge/a/qna.yml"]


def write(root: Path, tree: dict[str, str]) -> None:
    """Make the working tree (but for .git) hold exactly these files."""
    for path in [p for p in root.rglob("*") if p.is_file() and ".git" not in p.relative_to(root).parts[:1]]:
        if path.relative_to(root).as_posix() not in tree:
            path.unlink()
    for name, text in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def commit(root: Path, *parents: str, tree: dict[str, str]) -> str:
    """A commit with this tree and these parents; the branch is not moved."""
    write(root, tree)
    run_git(root, "add", "-A", ".")
    name = run_git(root, "write-tree")
    words = [word for parent in parents for word in ("-p", parent)]
    return run_git(root, "commit-tree", name, *words, "-m", "x")


TREES = st.dictionaries(st.sampled_from(LEAVES + OTHERS), st.sampled_from(["1", "2", "3"]), max_size=5)
STEP = st.tuples(TREES, st.integers(0, 9), st.integers(0, 9), st.booleans())


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEP, min_size=1, max_size=6), st.integers(0, 9), st.integers(0, 9), TREES, st.data())
def test_changed_leaves_equal_a_model_of_the_history(tmp_path_factory, steps, head, base, working, data):
    """Commits with one or two parents at will (merges, renames and deletions arise by themselves); HEAD, base and the
    working tree anywhere. Expected: the first commit on HEAD's first-parent line that is an ancestor of the base (or
    it), and the leaves of the working tree that are untracked, or whose text there is another, or none."""
    root = tmp_path_factory.mktemp("history")
    run_git(root, "init", "--quiet", "-b", "main")
    ids: list[str] = []
    trees: dict[str, dict[str, str]] = {}
    parents: dict[str, list[str]] = {}
    for number, (tree, one, other, merges) in enumerate(steps):
        chosen = [ids[one % number]] if number else []
        if number > 1 and merges and ids[other % number] not in chosen:
            chosen.append(ids[other % number])
        name = commit(root, *chosen, tree={**tree, "number": str(number)})
        ids.append(name)
        trees[name], parents[name] = tree, chosen
    at, to = ids[head % len(ids)], ids[base % len(ids)]
    run_git(root, "checkout", "--quiet", "--force", "--detach", at)
    run_git(root, "branch", "main", to)
    run_git(root, "branch", "feature/main", at)  # a branch whose name ends like the base
    write(root, working)
    staged = data.draw(st.booleans())
    if staged:
        run_git(root, "add", "-A", ".")
    known, queue = set(), [to]
    while queue:
        one = queue.pop()
        known.add(one)
        queue += [parent for parent in parents[one] if parent not in known]
    line = [at]
    while parents[line[-1]]:
        line.append(parents[line[-1]][0])
    since = next((one for one in line if one in known), None)
    before = run_git(root, "status", "--porcelain")
    if since is None:
        with pytest.raises(UserError, match="share no commit"):
            diff(root, base="main")
    else:
        untracked = set() if staged else set(working) - set(trees[at])  # these count, whatever they hold
        changed = {name for name, text in working.items() if trees[since].get(name) != text}
        expected = sorted((changed | untracked) & set(LEAVES))
        assert diff(root, base="main") == {"changed": expected}
        told = run_git(root, "diff", "--name-only", "--no-renames", "--diff-filter=d", "-z", since).split("\0")
        told += run_git(root, "ls-files", "--others", "-z").split("\0")
        assert expected == sorted({name for name in told if name.endswith("/qna.yaml")})
    assert run_git(root, "status", "--porcelain") == before


@pytest.fixture
def checkout(tmp_path):
    """A clone one commit ahead of its origin, which itself went on."""
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    origin.mkdir()
    run_git(origin, "init", "--quiet", "-b", "main")
    write(origin, {"knowledge/a/qna.yaml": "1", "knowledge/b/qna.yaml": "1"})
    run_git(origin, "add", "-A")
    run_git(origin, "commit", "--quiet", "-m", "one")
    run_git(origin, "tag", "v1")
    run_git(tmp_path, "clone", "--quiet", str(origin), str(clone))
    write(origin, {"knowledge/a/qna.yaml": "1", "knowledge/b/qna.yaml": "theirs"})
    run_git(origin, "commit", "--quiet", "-am", "two")
    run_git(clone, "fetch", "--quiet")
    run_git(clone, "checkout", "--quiet", "-b", "mine")
    write(clone, {"knowledge/a/qna.yaml": "mine", "knowledge/b/qna.yaml": "1"})
    run_git(clone, "commit", "--quiet", "-am", "mine")
    return clone


@pytest.mark.parametrize("base", ["origin/main", "main", "v1", "HEAD~1"])
def test_branches_remote_branches_tags_and_commits_are_bases(checkout, base):
    assert diff(checkout, base=base) == {"changed": ["knowledge/a/qna.yaml"]}
    assert diff(checkout / "knowledge", base=base) == {"changed": ["a/qna.yaml"]}


def test_everything_is_changed_since_empty_and_ignored_leaves_are_not_listed(checkout, capsys):
    assert diff(checkout, base="empty")["changed"] == ["knowledge/a/qna.yaml", "knowledge/b/qna.yaml"]
    write(checkout, {"knowledge/a/qna.yaml": "mine", "knowledge/b/qna.yaml": "1", "drafts/x/qna.yaml": "1",
                     "new/qna.yaml": "1", ".gitignore": "drafts/\n"})  # fmt: skip
    assert door(["taxonomy", "diff", str(checkout), "--base", "origin/main", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": ["knowledge/a/qna.yaml", "new/qna.yaml"]}


@pytest.mark.parametrize("base", ["n", "in", "nothing", "--output=x", "", "main\n"])
def test_a_base_that_is_none_is_refused_by_name(checkout, base):
    with pytest.raises(UserError, match="is no branch, remote branch, tag or commit of"):
        diff(checkout, base=base)
    assert not (checkout / "x").exists()


def test_no_checkout_and_a_checkout_without_a_commit_are_told(tmp_path):
    with pytest.raises(UserError, match="not a git repository"):
        diff(tmp_path, base="main")
    run_git(tmp_path, "init", "--quiet")
    with pytest.raises(UserError, match="is no branch"):
        diff(tmp_path, base="main")
    with pytest.raises(UserError, match="there is no folder"):
        diff(tmp_path / "none")


def test_the_index_and_the_files_are_not_touched(checkout):
    write(checkout, {"knowledge/a/qna.yaml": "later", "knowledge/b/qna.yaml": "1"})
    index = (checkout / ".git/index").read_bytes()
    diff(checkout, base="main")
    assert (checkout / ".git/index").read_bytes() == index
    assert subprocess.run(["git", "-C", str(checkout), "stash", "list"], capture_output=True).stdout == b""
