"""The lint against yamllint itself, finding by finding: on the real taxonomy, on leaves that were hurt, under rule files (row L2).

Left out: what becomes of a finding in `taxonomy check` (test_taxonomy_check.py).
"""

from __future__ import annotations

import random
import re

import pytest
import yaml

from bottega.core.errors import UserError
from bottega.synth.taxonomy_lint import RELAXED, lint, read_rules
from tests.synth.leaves import KNOWLEDGE, SKILL

yamllint = pytest.importorskip("yamllint")

RULE_FILES = {
    "default": "extends: default\nrules:\n  comments: disable\n  comments-indentation: disable\n",
    "strict": "extends: relaxed\nrules:\n  line-length: {max: 60}\n  trailing-spaces: enable\n"
              "  indentation: {spaces: 2, indent-sequences: true}\n",
    "few": "rules:\n  new-line-at-end-of-file: enable\n  truthy: {level: warning}\n  empty-lines: {max: 1}\n"
           "  colons: {max-spaces-after: 2}\n",
}  # fmt: skip
HURTS = (
    lambda text, rng: cut(text, rng, "   \n"),
    lambda text, rng: cut(text, rng, "\n\n\n\n"),
    lambda text, rng: text.replace(": ", ":  ", rng.randrange(1, 4)),
    lambda text, rng: text.replace("  - ", "  -   ", rng.randrange(1, 3)),
    lambda text, rng: text.replace("\n", "\r\n", rng.randrange(1, 9)),
    lambda text, rng: text.rstrip("\n"),
    lambda text, rng: text + "\n\n",
    lambda text, rng: text.replace("created_by: anna", "created_by: Yes"),
    lambda text, rng: text + "created_by: twice\n",
    lambda text, rng: text.replace("    answer", "     answer", 1),
    lambda text, rng: text + "more: {a: 1,b:  2 , c: [ 1,2]}\n",
    lambda text, rng: "\n" + text,
    lambda text, rng: text + f"long: {'word ' * 30}\n",
    lambda text, rng: text.replace("anna", "&who anna", 1) + "other: *who\n",
    lambda text, rng: "---\n" + text + "...\n",
)  # fmt: skip


def cut(text: str, rng: random.Random, by: str) -> str:
    """One line end made another."""
    ends = [at for at, letter in enumerate(text) if letter == "\n"]
    at = rng.choice(ends)
    return text[:at] + by + text[at + 1 :]


def theirs(text: str, rules: str) -> list[tuple[int, int, str, str]]:
    from yamllint import linter
    from yamllint.config import YamlLintConfig

    found = linter.run(text, YamlLintConfig(rules))
    return sorted((one.line, one.column, one.rule, one.level) for one in found if one.rule is not None)


def ours(text: str, rules) -> list[tuple[int, int, str, str]]:
    return sorted((one.line, one.column, one.rule, one.level) for one in lint(text, rules))


def test_every_finding_on_the_real_taxonomy_is_yamllint_s(shared_data):
    files = sorted(shared_data("taxonomy").rglob("*.y*ml"))
    assert len(files) >= 16
    for file in files:
        text = file.read_bytes().decode("utf-8")
        assert ours(text, RELAXED) == theirs(text, "extends: relaxed"), file


@pytest.mark.parametrize("name", RULE_FILES)
def test_rule_files_mean_what_they_mean_to_yamllint(name, tmp_path, shared_data):
    (tmp_path / "rules.yaml").write_text(RULE_FILES[name])
    rules, unsupported = read_rules(tmp_path / "rules.yaml")
    assert unsupported == ()
    for file in sorted(shared_data("taxonomy").rglob("qna.yaml")):
        text = file.read_bytes().decode("utf-8")
        assert ours(text, rules) == theirs(text, RULE_FILES[name]), file


@pytest.mark.parametrize("rules", ["relaxed", *RULE_FILES])
def test_leaves_that_were_hurt_are_found_out_in_the_same_places(rules, tmp_path):
    """Two hundred leaves with one to three faults each, drawn with a seed; what is no YAML any more is left to the parser."""
    said = RULE_FILES.get(rules, "extends: relaxed\n")
    (tmp_path / "rules.yaml").write_text(said)
    chosen, _ = read_rules(tmp_path / "rules.yaml")
    rng, seen = random.Random(f"lint {rules}"), 0
    while seen < 200:
        text = rng.choice((SKILL, KNOWLEDGE))
        for hurt in rng.sample(HURTS, rng.randrange(1, 4)):
            text = hurt(text, rng)
        if re.search(r"\r(?!\n)", text):
            continue  # a return alone ends a line to YAML, and none to yamllint
        try:
            list(yaml.parse(text, Loader=yaml.SafeLoader))
        except yaml.YAMLError:
            continue  # `taxonomy check` says so, and looks no further
        seen += 1
        assert ours(text, chosen) == theirs(text, said), text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: nobody\n", "extends 'nobody' is not known"),
        ("rules: {no-such: enable}\n", "there is no rule 'no-such'"),
        ("rules: {line-length: {max: wide}}\n", "line-length.max is 'wide'"),
        ("rules: {line-length: sometimes}\n", "is not enable, disable or a mapping"),
        ("rules: [a]\n", "rules must be a mapping"),
        ("- a\n", "is no rule file"),
    ],
)
def test_a_rule_file_that_means_nothing_is_one_sentence(text, said, tmp_path):
    (tmp_path / "rules.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        read_rules(tmp_path / "rules.yaml")
