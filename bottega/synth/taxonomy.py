"""A taxonomy checked leaf by leaf: name, YAML, schema, lint, attribution, and what leaves say of each other.

Left out: mending (taxonomy_fix.py), what changed (taxonomy_git.py), the documents (taxonomy_documents.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bottega.core.errors import CheckFailed, UserError
from bottega.core.types import Leaf, Seed, Where
from bottega.synth.taxonomy_kin import alike, within
from bottega.synth.taxonomy_licence import check_attribution
from bottega.synth.taxonomy_lint import TAXONOMY, Rule, as_problem, lint, read_rules
from bottega.synth.taxonomy_schema import BRANCHES, NEWEST, check_schema, deprecated
from bottega.synth.taxonomy_yaml import Broken, Node, Problem, broken, parse_leaf, read_leaf

NAME = "qna.yaml"
Kind = Literal["knowledge", "grounded_skill", "freeform_skill", "unknown"]


@dataclass(kw_only=True, slots=True)
class Examined:
    """A file of the taxonomy with what was found in it; `leaf` is there when it could be read as one without an error."""

    path: str
    kind: Kind = "unknown"
    version: int | None = None
    problems: list[Problem] = field(default_factory=list)
    leaf: Leaf | None = None
    is_leaf: bool = True
    branch: str = ""

    def of(self, level: str) -> list[Problem]:
        return sorted((one for one in self.problems if one.level == level), key=lambda one: (one.line, one.column))

    def to_json(self) -> dict[str, Any]:
        errors, warnings = self.of("error"), self.of("warning")
        return {
            "path": self.path,
            "kind": self.kind,
            "version": self.version,
            "errors": [one.to_json() for one in errors],
            "warnings": [one.to_json() for one in warnings],
        }


@dataclass(kw_only=True, slots=True)
class Checked:
    """All files of a taxonomy; the exit code is 1 when there are errors."""

    files: list[Examined]
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        return 1 if any(file.of("error") for file in self.files) else 0

    def to_json(self) -> dict[str, Any]:
        return {
            "leaves": sum(file.is_leaf for file in self.files),
            "errors": sum(len(file.of("error")) for file in self.files),
            "warnings": sum(len(file.of("warning")) for file in self.files),
            "files": [file.to_json() for file in self.files],
        }


def check(
    path: str | Path,
    *,
    strict: bool = False,
    schema_version: int | None = None,
    rules: str | Path | None = None,
    window: int | None = None,
    measure: Callable[[str], int] = len,
    unit: str = "characters",
) -> Checked:
    """Check one leaf or a tree of them.

    Args:
        path: a file or a folder.
        strict: what lint warns of is an error.
        schema_version: hold every leaf to this version (1 .. 3) instead of its own.
        rules: a rule file in yamllint's form; else "relaxed" without a limit on lines.
        window: the most that `measure` may say of a seed (a context with one question and its answer).
        measure: the size of a text, in `unit`.

    Raises:
        UserError: nothing is there, or the rule file is none.
    """
    chosen, notes = (dict(TAXONOMY), ()) if rules is None else read_rules(rules)
    root = Path(path)
    files = [
        examine(file, shown, root=root, strict=strict, schema_version=schema_version, rules=chosen)
        for file, shown in candidates(root)
    ]
    for place, problem in alike([file.leaf for file in files]):
        files[place].problems.append(problem)
    if window is not None:
        for file in files:
            file.problems += within(file.leaf, window, measure, unit) if file.leaf else []
    return Checked(files=files, notes=tuple(f"{rules}: {name} is not checked here" for name in notes))


def read_taxonomy(path: str | Path, *, paths: Sequence[str] | None = None) -> list[Leaf]:
    """The leaves of a taxonomy (of `paths` of it, relative, alone), each sound.

    Raises:
        CheckFailed: one has an error; `bottega taxonomy check` shows them all.
    """
    root, leaves = Path(path), []
    for file, shown in candidates(root):
        if paths is not None and shown not in paths:
            continue
        found = examine(file, shown, root=root)
        if errors := found.of("error"):
            first = errors[0]
            raise CheckFailed(f"{file}:{first.line}:{first.column}: {first.message}; {first.fix}")
        leaves += [found.leaf] if found.leaf else []
    return leaves


def examine_all(path: str | Path) -> Iterator[Examined]:
    """Each file of a taxonomy with what is found in it, leaf by leaf.

    Raises:
        UserError: nothing is there.
    """
    root = Path(path)
    for file, shown in candidates(root):
        yield examine(file, shown, root=root)


def candidates(root: Path) -> Iterator[tuple[Path, str]]:
    """Files that are leaves or look like one by their ending, sorted, each with its path below `root`.

    Raises:
        UserError: nothing is there.
    """
    if root.is_file():
        yield root, root.name
        return
    if not root.is_dir():
        raise UserError(f"there is no {root}; give a leaf's {NAME} or the folder of a taxonomy")
    found = []
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith("."))
        found += [Path(folder, file) for file in files if file.lower().endswith((".yaml", ".yml"))]
    for file in sorted(found):
        if not file.name.startswith("."):
            yield file, file.relative_to(root).as_posix()


def examine(
    file: Path,
    shown: str,
    *,
    root: Path,
    strict: bool = False,
    schema_version: int | None = None,
    rules: Mapping[str, Rule] = TAXONOMY,
) -> Examined:
    """Everything that one file says of itself."""
    found = Examined(path=shown, branch=_branch(file, root))
    if file.name != NAME:
        found.is_leaf = False
        message = f"{file.name} is skipped: only the name {NAME} counts"
        level = "error" if file == root else "warning"
        found.problems.append(_at_start("name", file.name, message, f"rename it to {NAME}", level))
        return found
    try:
        text = read_leaf(file)
        tree, twice = parse_leaf(text)
    except Broken as stop:
        found.problems.append(stop.problem)
        found.kind = "knowledge" if found.branch == "knowledge" else "unknown"
        return found
    if tree is None or (tree.kind == "scalar" and tree.value is None):
        found.problems.append(_at_start("empty", "", "this leaf is empty", "write it, or remove the file", "warning"))
        return found
    found.problems += twice
    if tree.kind != "map":
        what = {"list": f"a list of {len(tree.items)}", "scalar": repr(tree.text[:60])}[tree.kind]
        message = f"the file must be a mapping of keys to values, and this is {what}"
        found.problems.append(
            broken(tree.line, tree.column, "type", what, message, "begin the file with `created_by:`")
        )
        return found
    _examine_tree(found, tree, text, file, strict=strict, forced=schema_version, rules=rules)
    return found


def _examine_tree(
    found: Examined,
    tree: Node,
    text: str,
    file: Path,
    *,
    strict: bool,
    forced: int | None,
    rules: Mapping[str, Rule],
) -> None:
    is_knowledge = found.branch == "knowledge" if found.branch else tree.get("document") is not None
    contexts = [item.get("context") is not None for item in _seeds(tree)]
    found.kind = "knowledge" if is_knowledge else "grounded_skill" if any(contexts) else "freeform_skill"
    version = forced or _version(found, tree)
    found.version = version
    if version is None:
        return
    if is_knowledge and version < NEWEST:
        found.problems = [deprecated(tree, version)]
        return
    found.problems += check_schema(tree, is_knowledge=is_knowledge, version=version)
    if is_knowledge or version > 1:
        lines = text.split("\n")
        findings = [one for one in lint(text, rules) if one.rule != "key-duplicates"]  # those are told in any case
        found.problems += [as_problem(one, lines, strict=strict) for one in findings]
    found.problems += _among_seeds(tree, is_knowledge, contexts)
    attribution, licences = check_attribution(file.parent, version)
    found.problems += attribution
    if not [one for one in found.of("error") if one.rule not in rules]:
        found.leaf = _leaf(found, tree, licences)


def _version(found: Examined, tree: Node) -> int | None:
    node = tree.get("version")
    if node is None:
        return 1
    if type(node.value) is int and 1 <= node.value <= NEWEST:
        return node.value
    shown = node.text[:40] or node.kind
    message = f"version is {shown!r}; the versions are 1 to {NEWEST}"
    found.problems.append(
        broken(node.line, node.column, "version", shown, message, f"write `version: {NEWEST}`", "version")
    )
    return None


def _branch(file: Path, root: Path) -> str:
    """The branch that a leaf stands in: the first part of its path below `root`, else the last folder above so named."""
    below = file.relative_to(root).parts[:-1] if file != root else ()
    if below and below[0] in BRANCHES:
        return below[0]
    given = [part for part in Path(root).parts if part in BRANCHES]
    above = [part for part in Path(root).absolute().parts if part in BRANCHES]
    return given[0] if given and not root.is_absolute() else above[-1] if above else ""


def _seeds(tree: Node) -> list[Node]:
    seeds = tree.get("seed_examples")
    return [item for item in seeds.items if item.kind == "map"] if seeds is not None and seeds.kind == "list" else []


def _among_seeds(tree: Node, is_knowledge: bool, contexts: list[bool]) -> Iterator[Problem]:
    """Seeds of one leaf that do not go together."""
    seeds = _seeds(tree)
    if not is_knowledge and any(contexts) and not all(contexts):
        odd = seeds[contexts.index(contexts.count(True) * 2 < len(contexts))]
        message = f"{contexts.count(True)} of {len(contexts)} seeds have a context: grounded and freeform are mixed"
        yield Problem(
            line=odd.line, column=odd.column, key="seed_examples", rule="mixed", found=f"{contexts.count(True)} of {len(contexts)}",
            message=message, fix="give each seed a context, or none; or make two leaves", level="warning",
        )  # fmt: skip
    asked: dict[str, tuple[str, int]] = {}
    for seed in seeds:
        context = seed.get("context")
        said = " ".join(str(context.value).split()) if context is not None else ""
        pairs = seed.get("questions_and_answers")
        for pair in [seed] if pairs is None else [item for item in pairs.items if item.kind == "map"]:
            question = pair.get("question")
            if question is None or not isinstance(question.value, str):
                continue
            words = " ".join(question.value.lower().split())
            before, line = asked.setdefault(words, (said, question.line))
            if before != said:
                message = f"this question is asked of another context too (line {line})"
                fix = "say in the question which context it is about, unless the task is the same for each"
                yield Problem(
                    line=question.line, column=question.column, key="question", rule="same-question",
                    found=question.value.strip()[:80], message=message, fix=fix, level="warning",
                )  # fmt: skip


def _leaf(found: Examined, tree: Node, licences: tuple[str, ...]) -> Leaf:
    data = tree.data()
    seeds = []
    for node, item in zip(_seeds(tree), data["seed_examples"]):
        pairs = item.get("questions_and_answers", [item])
        pairs = tuple((pair["question"], pair["answer"]) for pair in pairs)
        seeds.append(Seed(pairs=pairs, context=item.get("context", ""), where=Where(found.path, node.line)))
    document = data.get("document", {})
    assert found.kind != "unknown" and found.version is not None
    return Leaf(
        path=found.path,
        kind=found.kind,
        version=found.version,
        created_by=data["created_by"],
        about=data.get("task_description", data.get("document_outline", "")),
        seeds=tuple(seeds),
        domain=data.get("domain", ""),
        repo=document.get("repo", ""),
        commit=document.get("commit", ""),
        patterns=tuple(document.get("patterns", ())),
        licences=licences,
    )


def _at_start(rule: str, found: str, message: str, fix: str, level: str) -> Problem:
    return Problem(line=1, column=1, key="", rule=rule, found=found, message=message, fix=fix, level=level)


def check_text(result: Checked) -> str:
    """A line a problem, then the sums."""
    lines = [*result.notes]
    for file in result.files:
        for problem in sorted(file.problems, key=lambda one: (one.line, one.column)):
            place = f"{file.path}:{problem.line}:{problem.column}"
            lines.append(f"{place}: {problem.level}: {problem.message} ({problem.rule}); {problem.fix}")
    sums = result.to_json()
    return "\n".join([*lines, f"{sums['leaves']} leaves, {sums['errors']} errors, {sums['warnings']} warnings"])
