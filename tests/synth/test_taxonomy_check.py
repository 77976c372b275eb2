"""`bottega taxonomy check`: schema, YAML, names, attribution, and what leaves say of each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bottega.cli import door
from bottega.core.errors import CheckFailed, UserError
from bottega.synth.taxonomy import check, read_taxonomy
from bottega.synth.taxonomy_licence import spdx, works
from tests.synth.leaves import ATTRIBUTION, KNOWLEDGE, SKILL, put

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "taxonomy"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real taxonomy is not beside the checkout")


def errors(root: Path, text: str, place: str = "compositional_skills/rhymes", **options):
    put(root, place, text)
    result = check(root, **options)
    return [problem for file in result.files for problem in file.of("error")]


def only(root: Path, text: str, place: str = "compositional_skills/rhymes", **options):
    found = errors(root, text, place, **options)
    assert len(found) == 1, [one.message for one in found]
    return found[0]


@needs_real
def test_the_real_taxonomy_passes_and_eleven_leaves_fail_the_newest_schema():
    result = check(REAL).to_json()
    assert (result["leaves"], result["errors"]) == (16, 0)
    kinds = [file["kind"] for file in result["files"]]
    assert [kinds.count(kind) for kind in ("knowledge", "grounded_skill", "freeform_skill")] == [2, 2, 12]
    forced = check(REAL, schema_version=3)
    assert sum(bool(file.of("error")) for file in forced.files) == 11


@needs_real
def test_the_real_leaves_are_read_with_their_seeds_and_licences():
    leaves = {leaf.path: leaf for leaf in read_taxonomy(REAL)}
    birds = leaves["knowledge/science/animals/birds/black_capped_chickadee/qna.yaml"]
    assert (len(birds.seeds), len(birds.seeds[0].pairs), birds.patterns) == (5, 3, ("chickadee.md",))
    assert birds.licences == ("CC-BY-SA-4.0",)
    assert birds.seeds[0].where.row == 5


def test_sound_leaves_have_no_error_and_no_warning(tmp_path):
    put(tmp_path, "compositional_skills/rhymes", SKILL)
    put(tmp_path, "knowledge/moons", KNOWLEDGE)
    result = check(tmp_path)
    assert result.to_json() == {
        "leaves": 2,
        "errors": 0,
        "warnings": 0,
        "files": [
            {"path": "compositional_skills/rhymes/qna.yaml", "kind": "freeform_skill", "version": 3, "errors": [], "warnings": []},
            {"path": "knowledge/moons/qna.yaml", "kind": "knowledge", "version": 3, "errors": [], "warnings": []},
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "place", "key", "rule"),
    [
        ("created_by: anna\n", "", (1, 1), "created_by", "required"),
        ("version: 3", "version: 2.5", (2, 10), "version", "version"),
        ("version: 3", "version: 9", (2, 10), "version", "version"),
        ("version: 3", "version: yes", (2, 10), "version", "version"),
        ("Say what rhymes.", "''", (3, 19), "task_description", "length"),
        ("    answer: It is hat.\n", "    answer: Yes\n", (8, 13), "seed_examples[1].answer", "type"),
        ("    answer: It is hat.\n", "    answer: 12:30\n", (8, 13), "seed_examples[1].answer", "type"),
        ("    answer: It is hat.\n", "    answer: 2024-01-02\n", (8, 13), "seed_examples[1].answer", "type"),
        ("    answer: It is hat.\n", "    answer:\n", (8, 12), "seed_examples[1].answer", "type"),
        ("    answer: It is hat.\n", "    answer: [a, b]\n", (8, 13), "seed_examples[1].answer", "type"),
        ("    answer: It is hat.\n", "    answer: It is hat.\n    hint: x\n", (9, 5), "seed_examples[1].hint", "unknown"),
        ("created_by: anna\n", "created_by: anna\nauthor: x\n", (2, 1), "author", "unknown"),
        ("cat?\n    answer: It is hat.", "moon?\n    answer: It is spoon.", (7, 5), "seed_examples[1]", "unique"),
        ("created_by: anna\n", "created_by: anna\ncreated_by: ben\n", (2, 1), "created_by", "key-duplicates"),
        ("  - question: What rhymes with cat?\n    answer: It is hat.\n", "", (5, 3), "seed_examples", "count"),
        ("    answer: It is hat.\n", "\tanswer: It is hat.\n", (8, 1), "", "syntax"),
        ("    answer: It is hat.\n", "    answer: *none\n", (8, 13), "", "alias"),
        ("    answer: It is hat.\n", "    answer: !!python/name:os.system x\n", (8, 13), "", "tag"),
        ("    answer: It is hat.\n", "    answer: 2024-99-99\n", (8, 13), "", "value"),
        ("    answer: It is hat.\n", f"    answer: {'1' * 400}\n", (8, 13), "", "value"),
    ],
)  # fmt: skip
def test_each_fault_is_told_once_with_its_place(tmp_path, old, new, place, key, rule):
    assert old in SKILL
    found = only(tmp_path, SKILL.replace(old, new, 1))
    assert ((found.line, found.column), found.key, found.rule) == (place, key, rule)
    assert found.message and found.fix


@pytest.mark.parametrize(
    ("old", "new", "place", "key", "rule"),
    [
        ("domain: astronomy\n", "", (1, 1), "domain", "required"),
        ("document_outline: The moons of the planet Ilo.\n", "", (1, 1), "document_outline", "required"),
        ("  commit: 0123abc\n", "  commit: 5\n", (7, 11), "document.commit", "type"),
        ("  commit: 0123abc\n", "", (6, 3), "document.commit", "required"),
        ("  commit: 0123abc\n", "  commit: a\n  branch: b\n", (8, 3), "document.branch", "unknown"),
        ('    - "*.md"\n', "    - a\n    - a\n", (10, 7), "document.patterns[1]", "unique"),
        ('patterns:\n    - "*.md"', "patterns: []", (8, 13), "document.patterns", "count"),
        ("      Moon 1 of Ilo is 100 km wide.\n", "", (11, 14), "seed_examples[0].context", "length"),
        ("      - question: Question 3 on moon 1?\n        answer: Answer 3 of 1.\n", "", (14, 7),
         "seed_examples[0].questions_and_answers", "count"),
    ],
)  # fmt: skip
def test_each_fault_of_a_knowledge_leaf_is_told_once_with_its_place(tmp_path, old, new, place, key, rule):
    assert old in KNOWLEDGE
    found = only(tmp_path, KNOWLEDGE.replace(old, new, 1), "knowledge/moons")
    assert ((found.line, found.column), found.key, found.rule) == (place, key, rule)


def test_a_bare_yes_is_a_boolean_and_the_fix_is_to_quote_it(tmp_path):
    found = only(tmp_path, SKILL.replace("It is hat.", "Yes"))
    assert (found.found, found.fix) == ("Yes", 'put it in quotes: "Yes"')
    assert "boolean" in found.message
    assert not errors(tmp_path, SKILL.replace("It is hat.", '"Yes"'))


@pytest.mark.parametrize("version", ["", "version: 1\n", "version: 2\n"])
def test_old_knowledge_gives_one_deprecation_and_nothing_else(tmp_path, version):
    found = only(tmp_path, KNOWLEDGE.replace("version: 3\n", version + "x:  1   \n"), "knowledge/moons")
    assert (found.rule, found.key) == ("deprecated", "version")


def test_skills_of_version_1_need_no_version_one_seed_no_attribution_and_are_not_linted(tmp_path):
    text = "created_by:   anna\ntask_description: ''\nseed_examples:\n- question: a\n  answer: b   "
    put(tmp_path, "foundational_skills/old", text, None)
    result = check(tmp_path)
    assert not result.files[0].problems and result.files[0].version == 1
    assert check(tmp_path, schema_version=2).exit_code == 1


def test_the_first_part_of_the_path_says_which_schema_else_the_document(tmp_path):
    found = errors(tmp_path, SKILL, "knowledge/rhymes")
    assert {one.key for one in found} >= {"domain", "document", "seed_examples[0].context"}
    assert not errors(tmp_path / "b", KNOWLEDGE, "elsewhere/moons")
    assert {one.key for one in errors(tmp_path / "c", KNOWLEDGE, "compositional_skills/moons")} >= {
        "domain",
        "document",
    }
    file = put(tmp_path / "d", "knowledge/moons", KNOWLEDGE)
    assert check(file).files[0].kind == "knowledge" and not check(file.parent).exit_code


@pytest.mark.parametrize(
    ("text", "rule"),
    [("- a\n- b\n", "type"), ("just words\n", "type"), ("a: [1\n", "syntax"), ("a: b: c\n", "syntax"), ("a: \x00\n", "syntax"),
     ("[" * 100 + "]" * 100, "depth"), ("a: 1\n---\nb: 2\n", "documents"), ("<<: {a: 1}\n", "key"), ("? [a]\n: b\n", "key")],
)  # fmt: skip
def test_what_is_no_leaf_is_one_clean_error(tmp_path, text, rule):
    assert only(tmp_path, text).rule == rule


def test_an_alias_bomb_and_a_leaf_of_five_megabytes_are_refused_and_the_others_are_checked(tmp_path):
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi")
    )
    put(tmp_path, "compositional_skills/bomb", bomb)
    put(tmp_path, "compositional_skills/big", SKILL + "#" + "x" * 5_000_000)
    put(tmp_path, "compositional_skills/good", SKILL)
    (tmp_path / "compositional_skills/latin").mkdir()
    (tmp_path / "compositional_skills/latin/qna.yaml").write_bytes(b"created_by: ann\xe9\n")
    rules = {file.path.split("/")[1]: [one.rule for one in file.of("error")] for file in check(tmp_path).files}
    assert rules == {"bomb": ["alias"], "big": ["size"], "good": [], "latin": ["encoding"]}


def test_other_names_are_reported_and_skipped_and_an_empty_leaf_is_a_warning(tmp_path):
    put(tmp_path, "compositional_skills/a", "")
    put(tmp_path, "compositional_skills/b", "# only a comment\n")
    for name in ("qna.yml", "QNA.yaml", "notes.yaml"):
        (tmp_path / "compositional_skills" / name).write_text("- no leaf\n")
    (tmp_path / ".github").mkdir()
    (tmp_path / ".github/work.yaml").write_text("x: 1\n")
    result = check(tmp_path)
    assert (result.exit_code, result.to_json()["leaves"]) == (0, 2)
    assert sorted(one.rule for file in result.files for one in file.problems) == ["empty"] * 2 + ["name"] * 3
    with pytest.raises(UserError, match=r"there is no .*nowhere; give"):
        check(tmp_path / "nowhere")


def test_attribution_is_needed_beside_leaves_after_version_1(tmp_path):
    file = put(tmp_path, "compositional_skills/a", SKILL, None)
    assert [one.message for one in check(tmp_path).files[0].of("error")] == [
        "attribution.txt is missing beside a leaf of version 3"
    ]
    (file.parent / "attribution.txt").write_text(" \n")
    assert "is empty" in check(tmp_path).files[0].of("error")[0].message


@pytest.mark.parametrize(
    ("written", "name", "binds"),
    [
        ("CC BY-NC-SA 4.0", "CC-BY-NC-SA-4.0", "non-commercial, share-alike"),
        ("CC-BY-SA-4.0", "CC-BY-SA-4.0", "share-alike"),
        ("Creative Commons Attribution-ShareAlike 4.0 International License", "CC-BY-SA-4.0", "share-alike"),
        ("https://creativecommons.org/licenses/by-nd/3.0/", "CC-BY-ND-3.0", "no derivatives"),
        ("CC BY 4.0", "CC-BY-4.0", ""),
        ("CC0", "CC0-1.0", ""),
        ("CC0 1.0 Universal", "CC0-1.0", ""),
        ("Public Domain", "LicenseRef-Public-Domain", ""),
        ("Apache License, Version 2.0", "Apache-2.0", ""),
        ("Apache 2.0", "Apache-2.0", ""),
        ("The MIT License", "MIT", ""),
        ("BSD 3-Clause License", "BSD-3-Clause", ""),
        ("GNU General Public License v3.0 or later", "GPL-3.0-or-later", "copyleft"),
        ("GPLv2", "GPL-2.0-only", "copyleft"),
        ("AGPL-3.0", "AGPL-3.0-only", "copyleft"),
        ("all rights reserved", "", "unknown"),
        ("", "", "unknown"),
    ],
)
def test_licences_are_read_to_their_spdx_names(written, name, binds):
    assert spdx(written) == (name, binds)


def test_each_work_of_an_attribution_keeps_its_own_fields_and_binding_licences_are_flagged(tmp_path):
    text = ATTRIBUTION + "\n" + ATTRIBUTION.replace("Rhymes", "More\n  rhymes").replace("Apache-2.0", "CC BY-NC 4.0")
    assert [(work.title, work.licence, work.line) for work in works(text)] == [
        ("Rhymes", "Apache-2.0", 3), ("More rhymes", "CC BY-NC 4.0", 9)]  # fmt: skip
    put(tmp_path, "compositional_skills/a", SKILL, text)
    (warning,) = check(tmp_path).files[0].of("warning")
    assert warning.rule == "licence" and "CC-BY-NC-4.0: non-commercial" in warning.message


def test_mixed_leaves_and_one_question_of_two_contexts_are_named(tmp_path):
    mixed = SKILL.replace("    answer: It is hat.\n", "    answer: It is hat.\n    context: A poem.\n")
    put(tmp_path, "compositional_skills/mixed", mixed)
    same = mixed.replace("answer: It is bee.", "answer: It is bee.\n    context: A song.").replace(
        "with tree", "with cat"
    )
    put(tmp_path, "compositional_skills/same", same)
    rules = {
        file.path.split("/")[1]: [(one.rule, one.line) for one in file.of("warning")] for file in check(tmp_path).files
    }
    assert rules["mixed"] == [("mixed", 7)]
    assert ("same-question", 10) in rules["same"]


def test_near_duplicates_elsewhere_and_seeds_longer_than_the_window_are_named(tmp_path):
    put(tmp_path, "compositional_skills/a", SKILL)
    put(tmp_path, "foundational_skills/b", SKILL.replace("It is cold.", "It is very cold."))
    put(tmp_path, "knowledge/moons", KNOWLEDGE)
    result = check(tmp_path, window=60)
    found = [(file.path, one.rule, one.line) for file in result.files for one in file.of("warning")]
    assert ("foundational_skills/b/qna.yaml", "near-duplicate", 1) in found
    assert sum(rule == "window" for _, rule, _ in found) == 5  # 5 contexts of 31 + question 21 + answer 14 + 2 = 68
    assert not [one for one in check(tmp_path, window=68).files[2].problems]


def test_a_broken_leaf_stops_who_wants_to_read_it(tmp_path):
    put(tmp_path, "compositional_skills/a", SKILL.replace("It is hat.", "Yes"))
    with pytest.raises(CheckFailed, match=r"qna.yaml:8:13: .*boolean; put it in quotes"):
        read_taxonomy(tmp_path)


def test_the_door_prints_the_fixed_shape_and_exits_1(tmp_path, capsys):
    put(tmp_path, "compositional_skills/a", SKILL.replace("It is hat.", "Yes"))
    assert door(["taxonomy", "check", str(tmp_path), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"leaves", "errors", "warnings", "files"}
    assert set(result["files"][0]) == {"path", "kind", "version", "errors", "warnings"}
    assert set(result["files"][0]["errors"][0]) == {"line", "column", "key", "rule", "found", "message", "fix"}
    assert door(["taxonomy", "check", str(tmp_path), "--window", "100", "--model", "garzone"]) == 1
    assert door(["taxonomy", "tree", str(tmp_path), "--json"]) == 0
    assert '"freeform_skill": 1' in capsys.readouterr().out
