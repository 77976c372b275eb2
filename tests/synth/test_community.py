"""Leaves written, brought up to date, contributed and looked at (rows L3, L6, L21, L22), on real checkouts and a bare remote.

Left out: what a leaf must be (test_taxonomy_check.py), what changed (test_taxonomy_git.py).
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from bottega.cli import door
from bottega.synth import taxonomy
from bottega.synth.taxonomy_fix import fix, mend

EXAMPLE = Path(__file__).resolve().parents[2] / "recipes" / "examples" / "leaf.yaml"


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def answers(**more) -> dict:
    return yaml.safe_load(EXAMPLE.read_text()) | more


@pytest.fixture
def checkout(tmp_path):
    """A clone of a bare remote whose main has one sound leaf."""
    remote, folder = tmp_path / "remote.git", tmp_path / "tax"
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(remote)], check=True)
    subprocess.run(["git", "clone", "--quiet", str(remote), str(folder)], check=True, capture_output=True)
    git(folder, "config", "user.name", "Anna Bo")
    git(folder, "config", "user.email", "anna@example.org")
    git(folder, "checkout", "--quiet", "-b", "main")
    write(folder, answers(branch="writing/first", created_by="first"))
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    git(folder, "push", "--quiet", "origin", "main")
    git(folder, "fetch", "--quiet")
    return folder


def write(folder: Path, given: dict) -> Path:
    from bottega.synth.taxonomy_new import new

    found = new(folder, given)
    assert found["exit_code"] == 0, found["problems"]
    return Path(found["path"])


def different(number: int) -> dict:
    """Answers whose questions no other leaf has."""
    seeds = [
        {"question": f"What is {number} times {i}?", "answer": f"It is {number * i}, as {number} {i} times is."}
        for i in range(5)
    ]
    return answers(
        branch=f"maths/by-{number}", created_by=f"person-{number}", about=f"Multiply by {number}.", seeds=seeds
    )


# new


def test_a_new_leaf_passes_the_check_and_stands_where_it_belongs(tmp_path, capsys):
    assert door(["taxonomy", "new", str(tmp_path / "tax"), "--answers", str(EXAMPLE), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["path"].endswith("tax/compositional_skills/writing/notices/qna.yaml") and found["written"]
    checked = taxonomy.check(tmp_path / "tax", strict=True)
    assert [file.kind for file in checked.files] == ["freeform_skill"] and checked.exit_code == 0
    assert checked.files[0].leaf.licences == ("CC-BY-4.0",) and len(checked.files[0].leaf.seeds) == 5
    assert door(["taxonomy", "new", str(tmp_path / "tax"), "--answers", str(EXAMPLE)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_person_who_is_asked_writes_the_same_leaf(tmp_path, monkeypatch, capsys):
    from click.testing import CliRunner

    from bottega.cli import cli

    given = answers()
    said = [given["kind"], given["branch"], given["created_by"], given["about"]]
    for seed in given["seeds"]:
        said += [seed["question"], seed["answer"]]
    work = given["works"][0]
    said += ["n", work["title"], "", work["licence"], work["authors"]]
    done = CliRunner().invoke(
        cli, ["taxonomy", "new", str(tmp_path / "asked")], input="\n".join(said) + "\n", standalone_mode=False
    )
    assert done.exception is None, done.output
    write(tmp_path / "given", given)
    for name in ("qna.yaml", "attribution.txt"):
        one, other = (next((tmp_path / d).rglob(name)).read_text() for d in ("asked", "given"))
        assert one == other


def test_a_knowledge_leaf_keeps_its_contexts_of_several_lines(tmp_path):
    passage = "The mill stands by the river.\n\nIt was built in 1901: by hand.\n"
    seeds = [
        {
            "context": f"{passage}Part {i}.",
            "pairs": [{"question": f"Q{i}{j}?", "answer": f"A {i} {j}."} for j in range(3)],
        }
        for i in range(5)
    ]
    given = answers(kind="knowledge", branch="history/mill", domain="history", repo="https://example.org/mill.git", commit="abc123",
                    patterns=["*.md"], seeds=seeds)  # fmt: skip
    path = write(tmp_path, given)
    data = yaml.safe_load(path.read_text())
    assert data["seed_examples"][2]["context"] == f"{passage}Part 2." and "context: |" in path.read_text()
    assert path.relative_to(tmp_path).as_posix() == "knowledge/history/mill/qna.yaml"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"kind": "poem"}, "kind is 'poem'"),
        ({"branch": "../up"}, "branch is '../up'"),
        ({"branch": "knowledge/x"}, "does not stand in the branch knowledge"),
        ({"about": " "}, "about is missing"),
        ({"works": []}, "no work is named"),
        ({"works": [{"title": "T"}]}, "a work has no licence"),
    ],
)
def test_answers_that_make_no_leaf_are_one_sentence_and_write_nothing(tmp_path, more, said):
    from bottega.core.errors import UserError

    with pytest.raises(UserError, match=said):
        write(tmp_path / "tax", answers(**more))
    assert not (tmp_path / "tax").exists()


def test_too_few_seeds_are_told_with_their_place_and_nothing_is_written(tmp_path, capsys):
    given = tmp_path / "few.yaml"
    given.write_text(yaml.safe_dump(answers(seeds=answers()["seeds"][:2])))
    assert door(["taxonomy", "new", str(tmp_path / "tax"), "--answers", str(given)]) == 1
    shown = capsys.readouterr().out
    assert "seed_examples" in shown and "nothing was written" in shown and not (tmp_path / "tax").exists()


# migrate and fix

OLD = "created_by: old\ntask_description: Say it.\nseed_examples:\n" + "".join(
    f"  - question: Question {i}?\n    answer: Answer {i}.\n" for i in range(5)
)
OLD_KNOWLEDGE = "created_by: old\ntask_description: About the mill.\nversion: 1\nseed_examples:\n" + "".join(
    f"  - question: Question {i}?\n    answer: Answer {i}.\n" for i in range(5)
)


def test_old_skills_get_their_version_and_old_knowledge_a_skeleton_that_nobody_trains_on(tmp_path, capsys):
    for place, text in (("compositional_skills/a", f"# mine\n{OLD}"), ("knowledge/b", OLD_KNOWLEDGE)):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "qna.yaml").write_text(text)
    assert door(["taxonomy", "migrate", str(tmp_path), "--dry-run"]) == 1
    assert (tmp_path / "compositional_skills/a/qna.yaml").read_text() == f"# mine\n{OLD}"
    assert door(["taxonomy", "migrate", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "attribution.txt is missing" in shown and "empty contexts" in shown
    assert (tmp_path / "compositional_skills/a/qna.yaml").read_text() == f"# mine\nversion: 3\n{OLD}"
    made = yaml.safe_load((tmp_path / "knowledge/b/qna.v3.yaml").read_text())
    assert [len(seed["questions_and_answers"]) for seed in made["seed_examples"]] == [3, 2]
    assert made["document_outline"] == "About the mill." and {seed["context"] for seed in made["seed_examples"]} == {""}
    files = {file.path: file for file in taxonomy.check(tmp_path).files}
    assert not files["knowledge/b/qna.v3.yaml"].is_leaf
    (tmp_path / "compositional_skills/a/attribution.txt").write_text(
        "Title of work: Mine\nLicense of the work: CC-BY-4.0\n"
    )
    assert taxonomy.check(tmp_path / "compositional_skills").exit_code == 0


def test_a_version_that_stands_there_is_raised_in_its_place(tmp_path):
    from bottega.synth.taxonomy_new import migrate

    (tmp_path / "qna.yaml").write_text(f"version:   2   # ours\n{OLD}")
    migrate(tmp_path / "qna.yaml")
    assert (tmp_path / "qna.yaml").read_text() == f"version:   3   # ours\n{OLD}"
    assert migrate(tmp_path / "qna.yaml")["files"] == []


def test_fix_mends_white_space_and_booleans_and_changes_no_text(tmp_path):
    """Trailing spaces, a bare Yes, three blank lines too many, no last line end; a block of text keeps its own spaces."""
    text = "a: Yes   \n\n\n\n\n\nb: |\n  kept   \n\n  text\nc: 'x'"
    mended, changes = mend(text)
    assert mended == "a: \"Yes\"\n\n\nb: |\n  kept   \n\n  text\nc: 'x'\n"
    assert {change.what for change in changes} >= {"Yes put in quotes", "the last line ended", "a blank line removed"}
    assert mend(mended) == (mended, [])
    (tmp_path / "qna.yaml").write_text(text)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "qna.yaml").write_text("a: [1\n")
    found = fix(tmp_path)
    assert [file["path"] for file in found["files"]] == ["qna.yaml"] and (tmp_path / "qna.yaml").read_text() == mended
    assert [file["path"] for file in found["unreadable"]] == ["bad/qna.yaml"] and found["exit_code"] == 1


def test_tree_counts_leaves_by_branch_and_kind(tmp_path, capsys):
    for given in (different(3), different(4), answers(kind="grounded_skill", branch="foundational_skills/read",
                  seeds=[{**seed, "context": f"c{i}"} for i, seed in enumerate(answers()["seeds"])])):  # fmt: skip
        write(tmp_path, given)
    assert door(["taxonomy", "tree", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    none = {"knowledge": 0, "grounded_skill": 0, "freeform_skill": 0, "unknown": 0}
    assert found["leaves"] == 3 and found["kinds"] == none | {"grounded_skill": 1, "freeform_skill": 2}
    assert found["branches"]["compositional_skills"] == none | {"leaves": 2, "freeform_skill": 2}
    assert found["branches"]["foundational_skills"] == none | {"leaves": 1, "grounded_skill": 1}
    assert found["branches"]["knowledge"] == none | {"leaves": 0}
    assert [file["questions"] for file in found["files"]] == [5, 5, 5]


# contribute


def test_a_leaf_becomes_a_signed_off_commit_on_a_branch_of_the_remote_and_the_checkout_stays(
    checkout, tmp_path, capsys
):
    write(checkout, different(7))
    (checkout / "notes.txt").write_text("mine")
    (checkout / "compositional_skills/writing/first/qna.yaml").touch()
    git(checkout, "add", "notes.txt")
    before = (
        git(checkout, "status", "--porcelain"),
        git(checkout, "rev-parse", "HEAD"),
        git(checkout, "branch", "--show-current"),
    )
    patch = tmp_path / "leaf.patch"
    assert door(["taxonomy", "contribute", str(checkout), "--remote", "origin", "--patch", str(patch), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    after = (
        git(checkout, "status", "--porcelain"),
        git(checkout, "rev-parse", "HEAD"),
        git(checkout, "branch", "--show-current"),
    )
    assert before == after and found["pushed"] and found["branch"] == "leaf/compositional-skills-maths-by-7"
    remote = tmp_path / "remote.git"
    names = git(remote, "show", "--name-only", "--format=%an <%ae>%n%B", found["branch"])
    assert (
        names.splitlines()[0] == "Anna Bo <anna@example.org>" and "Signed-off-by: Anna Bo <anna@example.org>" in names
    )
    assert names.splitlines()[-2:] == [
        "compositional_skills/maths/by-7/attribution.txt",
        "compositional_skills/maths/by-7/qna.yaml",
    ]
    assert git(remote, "rev-parse", f"{found['branch']}^") == git(remote, "rev-parse", "main")
    assert "freeform_skill" in found["request"] and "CC-BY-4.0" in found["request"]
    fresh = tmp_path / "fresh"
    subprocess.run(["git", "clone", "--quiet", str(remote), str(fresh)], check=True)
    git(fresh, "-c", "user.name=M", "-c", "user.email=m@x", "am", "--quiet", str(patch))
    leaf = "compositional_skills/maths/by-7/qna.yaml"
    assert (fresh / leaf).read_bytes() == (checkout / leaf).read_bytes()


def test_what_cannot_be_contributed_is_one_sentence_and_leaves_nothing_behind(checkout, tmp_path, monkeypatch, capsys):
    def refused(*more: str) -> str:
        assert door(["taxonomy", "contribute", str(checkout), *more]) == 2
        return capsys.readouterr().err

    assert "no leaf changed" in refused()
    path = write(checkout, different(8))
    assert "is no changed leaf" in refused("--only", "elsewhere/qna.yaml")
    good = path.read_text()
    path.write_text(good.replace("version: 3", "version: 9"))
    assert "version is '9'" in refused()
    path.write_text(good)
    licence = path.with_name("attribution.txt")
    kept = licence.read_text()
    licence.write_text(" \n")
    assert "attribution.txt is empty" in refused()
    licence.write_text(kept)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    git(checkout, "config", "--unset", "user.email")
    assert "git does not know your user.email" in refused()
    git(checkout, "config", "user.email", "anna@example.org")
    assert "no name for a branch" in refused("--branch", "a..b")
    git(checkout, "branch", "taken")
    assert "there is a branch taken already" in refused("--branch", "taken")
    assert git(checkout, "branch", "--format=%(refname:short)").split() == ["main", "taken"]
    said = refused("--remote", str(tmp_path / "gone.git"), "--branch", "mine")
    assert "does not take the branch" in said and "it is here as mine" in said
    assert git(checkout, "rev-parse", "--verify", "mine")


# triage


def test_the_maintainer_s_page_says_what_is_wrong_alike_and_made_of_a_leaf(checkout, tmp_path, capsys):
    write(checkout, different(5))
    twin = answers(branch="writing/second", works=[{"title": "T <b>", "licence": "CC BY-NC 4.0"}])
    write(checkout, twin)
    data = tmp_path / "data"
    how = ["--teacher", "template", "--base", "origin/main", "--samples", "4", "--quiet"]
    assert door(["synth", str(checkout), "--out", str(data), *how]) in (0, 9)
    capsys.readouterr()
    out = tmp_path / "triage.html"
    assert door(["taxonomy", "triage", str(checkout), "--data", str(data), "--out", str(out), "--json"]) == 0
    found = {one["path"].split("/")[-2]: one for one in json.loads(capsys.readouterr().out)["leaves"]}
    assert set(found) == {"by-5", "second"} and found["by-5"]["rows"] + found["by-5"]["rejected"] > 0
    assert (
        any("non-commercial" in said for said in found["second"]["flagged"])
        and "writing/first" in found["second"]["overlap"][0]
    )
    page = out.read_text()
    assert "person-5" in page and "<b>" not in page and "2 contributed leaves" in page
    with (data / "train.jsonl").open("a") as file:
        file.write('{"messages": [\n')
    assert door(["taxonomy", "triage", str(checkout), "--data", str(data), "--out", str(out)]) == 2
    assert door(["taxonomy", "triage", str(checkout), "--before", "x.json", "--out", str(out)]) == 2
    assert "belong together" in capsys.readouterr().err


# several contributors, one model (L23)


def test_branches_of_several_people_build_one_model_that_names_them_and_can_be_rebuilt_without_a_leaf(
    checkout, tmp_path, capsys
):
    """Two branches from two leaves, merged by the maintainer; rows, run and card keep leaf, contributor and licence; without one leaf
    nothing of it is left."""
    from bottega.workshop.exporting import export
    from bottega.workshop.stages import run
    from tests.workshop.made import workshop

    for number in (7, 8):
        write(checkout, different(number))
        leaf = f"compositional_skills/maths/by-{number}/qna.yaml"
        assert (
            door(
                [
                    "taxonomy",
                    "contribute",
                    str(checkout),
                    "--remote",
                    "origin",
                    "--branch",
                    f"b{number}",
                    "--only",
                    leaf,
                ]
            )
            == 0
        )
    merged = tmp_path / "merged"
    subprocess.run(["git", "clone", "--quiet", str(tmp_path / "remote.git"), str(merged)], check=True)
    for name in ("b7", "b8"):
        git(merged, "-c", "user.name=M", "-c", "user.email=m@x", "merge", "--quiet", "--no-edit", f"origin/{name}")
    model = workshop(tmp_path / "made") / "model"

    def built(name: str, *more: str) -> tuple[list[dict], str]:
        out = tmp_path / name
        how = ["--teacher", "template", "--samples", "6", "--quiet", *more]
        assert door(["synth", str(merged), "--out", str(out), *how]) in (0, 9)
        stage = {"objective": "sft", "data": str(out / "train.jsonl"), "steps": 2, "batch": 2}
        run({"name": name, "model": str(model), "stages": [{"learn": stage}]}, out=tmp_path / f"run-{name}", quiet=True)
        export(str(tmp_path / f"run-{name}"), out=str(tmp_path / f"given-{name}"), quiet=True)
        rows = [json.loads(line)["metadata"] for line in (out / "train.jsonl").read_text().splitlines()]
        return rows, (tmp_path / f"given-{name}" / "README.md").read_text()

    rows, card = built("all")
    assert {row["contributor"] for row in rows} >= {"person-7", "person-8"} and all(
        row["licences"] == ["CC-BY-4.0"] for row in rows
    )
    count = sum(row["contributor"] == "person-7" for row in rows)
    assert rf"| compositional\_skills/maths/by-7/qna.yaml | person-7 | CC-BY-4.0 | {count} |" in card
    rows, card = built("without", "--exclude", "compositional_skills/maths/by-7")
    assert rows and not any("by-7" in row["leaf"] for row in rows)
    assert "person-7" not in card and "person-8" in card
