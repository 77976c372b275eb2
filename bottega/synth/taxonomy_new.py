"""A new leaf from answers to a few questions, and old leaves brought to the newest version.

Left out: asking (cli/verbs_leaves.py), what makes a leaf good (taxonomy.py checks it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bottega.core.errors import UserError
from bottega.core.rundir import atomic_write
from bottega.synth.taxonomy import NAME, candidates, examine
from bottega.synth.taxonomy_schema import BRANCHES, NEWEST
from bottega.synth.taxonomy_yaml import Broken, Node, parse_leaf, read_leaf

ATTRIBUTION = "attribution.txt"
SKELETON = "qna.v3.yaml"
"""What `migrate` makes of old knowledge: its name is no leaf's, so that nothing half written is trained on."""
SEEDS, PAIRS = 5, 3
"""Seeds of a leaf, and questions on each context of a knowledge leaf, at least."""
KINDS = ("knowledge", "grounded_skill", "freeform_skill")
WORK = ("title", "link", "licence", "authors")
"""What attribution.txt says of a work; the title and the licence are needed."""


class _Dumper(yaml.SafeDumper):
    """Lists indented under their key, texts of several lines as blocks: what lint wants and a person reads."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def new(root: str | Path, answers: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
    """Write a leaf and its attribution below `root`, if the two pass `taxonomy check`.

    Args:
        answers: kind, branch (folders below `knowledge`, `compositional_skills` or `foundational_skills`), created_by, about (what the
            task is, or an outline of the document), seeds ({question, answer, context?}; of knowledge {context, pairs: [{question,
            answer}]}), works ({title, link, licence, authors}); of knowledge domain, repo, commit, patterns too.

    Returns: `path` of the leaf, `files` with their texts, `problems` of the check (as `taxonomy check` gives them), `exit_code`.
    Raises:
        UserError: an answer is missing, or a leaf stands there already.
    """
    kind = str(answers.get("kind", ""))
    if kind not in KINDS:
        raise UserError(f"kind is {kind!r}; a leaf is one of {', '.join(KINDS)}")
    branch = [part for part in str(answers.get("branch", "")).split("/") if part]
    if not branch or any(part.startswith(".") or "\\" in part or "\0" in part for part in branch):
        raise UserError(f"branch is {answers.get('branch')!r}; name folders, such as arts/music/violin")
    if branch[0] not in BRANCHES:
        branch.insert(0, "knowledge" if kind == "knowledge" else "compositional_skills")
    if (branch[0] == "knowledge") != (kind == "knowledge"):
        raise UserError(f"a leaf of the kind {kind} does not stand in the branch {branch[0]}; name another branch")
    folder = Path(root).joinpath(*branch)
    if (folder / NAME).exists():
        raise UserError(f"{folder / NAME} is there already; edit it, or name another branch")
    texts = {NAME: leaf_text(kind, answers), ATTRIBUTION: attribution_text(answers.get("works") or ())}
    problems = _tried(texts, branch)
    sound = not any(one["level"] == "error" for one in problems)
    if sound and not dry_run:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            atomic_write(folder / name, text)
    files = {f"{'/'.join(branch)}/{name}": text for name, text in texts.items()}
    return {"path": str(folder / NAME), "files": files, "problems": problems, "written": sound and not dry_run,
            "exit_code": 0 if sound else 1}  # fmt: skip


def _tried(texts: Mapping[str, str], branch: Sequence[str]) -> list[dict[str, Any]]:
    """What `taxonomy check` says of files that are not written yet."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).joinpath(*branch)
        folder.mkdir(parents=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        found = examine(folder / NAME, "/".join([*branch, NAME]), root=Path(scratch))
    return [{**one.to_json(), "level": one.level} for one in found.problems]


def leaf_text(kind: str, answers: Mapping[str, Any]) -> str:
    """The text of qna.yaml."""
    head: dict[str, Any] = {"version": NEWEST}
    if kind == "knowledge":
        head |= {"domain": _said(answers, "domain"), "created_by": _said(answers, "created_by")}
        head["seed_examples"] = [
            {
                "context": str(seed.get("context", "")),
                "questions_and_answers": [_pair(pair) for pair in seed.get("pairs") or ()],
            }
            for seed in answers.get("seeds") or ()
        ]
        head["document_outline"] = _said(answers, "about")
        patterns = answers.get("patterns") or ["*.md"]
        head["document"] = {
            "repo": _said(answers, "repo"),
            "commit": _said(answers, "commit"),
            "patterns": [str(one) for one in patterns],
        }
    else:
        head |= {"task_description": _said(answers, "about"), "created_by": _said(answers, "created_by")}
        grounded = kind == "grounded_skill"
        head["seed_examples"] = [
            {**({"context": str(seed.get("context", ""))} if grounded else {}), **_pair(seed)}
            for seed in answers.get("seeds") or ()
        ]
    return dumped(head)


def dumped(data: Mapping[str, Any]) -> str:
    """A leaf's data as YAML, keys in their order."""
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)


def _said(answers: Mapping[str, Any], name: str) -> str:
    found = str(answers.get(name) or "").strip()
    if not found:
        raise UserError(f"{name} is missing: a leaf cannot do without it")
    return found


def _pair(pair: Mapping[str, Any]) -> dict[str, str]:
    return {"question": str(pair.get("question", "")).strip(), "answer": str(pair.get("answer", "")).strip()}


def attribution_text(works: Sequence[Mapping[str, Any]]) -> str:
    """The text of attribution.txt, a paragraph a work.

    Raises:
        UserError: no work, or one without title or licence.
    """
    parts = []
    for work in works:
        if missing := [name for name in ("title", "licence") if not str(work.get(name) or "").strip()]:
            raise UserError(f"a work has no {missing[0]}: say where the leaf's texts are from and under which licence")
        lines = [f"Title of work: {work['title']}"]
        lines += [f"Link to work: {work['link']}"] if work.get("link") else []
        lines += [f"License of the work: {work['licence']}"]
        lines += [f"Creator names: {work['authors']}"] if work.get("authors") else []
        parts.append("\n".join(lines))
    if not parts:
        raise UserError(
            "no work is named: say where the leaf's texts are from (your own count) and under which licence"
        )
    return "\n\n".join(parts) + "\n"


def migrate(path: str | Path, *, dry_run: bool = False) -> dict[str, Any]:
    """Bring skills of version 1 and 2 to version 3, and make skeletons of knowledge of version 1 and 2.

    A skill keeps its text: the version is written into it. Knowledge needs contexts that the old form does not have: `qna.v3.yaml`
    beside it holds what is known, and is to be filled in and renamed.

    Returns: `files` with what was done and what is still missing of each, `written`, `exit_code` 1 where something is missing.
    Raises:
        UserError: nothing is there.
    """
    root, files = Path(path), []
    for file, shown in candidates(root):
        if file.name != NAME:
            continue
        try:
            tree, _ = parse_leaf(read_leaf(file))
        except Broken as stop:
            files.append({"path": shown, "did": "", "missing": [f"{stop.problem.message}; {stop.problem.fix}"]})
            continue
        found = examine(file, shown, root=root)
        if tree is None or tree.kind != "map" or found.version in (None, NEWEST):
            continue
        made = _skeleton if found.kind == "knowledge" else _raised
        files.append({"path": shown, **made(file, root, tree, dry_run)})
    return {"files": files, "written": not dry_run, "exit_code": int(any(one["missing"] for one in files))}


def _raised(file: Path, root: Path, tree: Node, dry_run: bool) -> dict[str, Any]:
    """A skill with `version: 3`, all else as it was."""
    text = read_leaf(file)
    version = tree.get("version")
    if version is None:
        apart, lines = ("#", "---", "%"), text.split("\n")
        first = next((n for n, line in enumerate(lines) if line.strip() and not line.lstrip().startswith(apart)), 0)
        lines.insert(first, f"version: {NEWEST}")
        raised = "\n".join(lines)
    else:
        start = version.end - len(version.text)
        raised = f"{text[:start]}{NEWEST}{text[version.end :]}"
    if not dry_run:
        atomic_write(file, raised)
    branch = file.relative_to(root).parts[:-1] if file != root else ()
    beside, texts = file.parent / ATTRIBUTION, {NAME: raised}
    if beside.is_file():
        texts[ATTRIBUTION] = beside.read_text(encoding="utf-8", errors="replace")
    found = _tried(texts, branch or ("compositional_skills", "x"))
    missing = [f"{one['message']}; {one['fix']}" for one in found if one["level"] == "error"]
    return {"did": f"version {NEWEST} written", "missing": missing}


def _skeleton(file: Path, root: Path, tree: Node, dry_run: bool) -> dict[str, Any]:
    """Old knowledge in the newest form, with empty contexts where a passage of the document belongs."""
    data = tree.data()
    old = [seed for seed in data.get("seed_examples") or () if isinstance(seed, Mapping)]
    pairs = [_pair(pair) for seed in old for pair in seed.get("questions_and_answers") or [seed]]
    groups = [pairs[at : at + PAIRS] for at in range(0, len(pairs), PAIRS)] or [[]]
    document = data.get("document") if isinstance(data.get("document"), Mapping) else {}
    named = {name: document.get(name, [] if name == "patterns" else "") for name in ("repo", "commit", "patterns")}
    made = {
        "version": NEWEST,
        "domain": data.get("domain") or "",
        "created_by": data.get("created_by") or "",
        "seed_examples": [{"context": "", "questions_and_answers": group} for group in groups],
        "document_outline": data.get("document_outline") or data.get("task_description") or "",
        "document": named,
    }
    target = file.with_name(SKELETON)
    missing = [f"write a passage of the document into each of {len(groups)} empty contexts"]
    if len(groups) < SEEDS or any(len(group) < PAIRS for group in groups):
        missing.append(f"it has {len(pairs)} questions, and {SEEDS} contexts want {PAIRS} each")
    missing += [f"{name} is not known" for name in ("domain", "document_outline") if not made[name]]
    missing += [f"document.{name} is not known" for name, value in named.items() if not value]
    if target.exists():
        return {
            "did": f"{SKELETON} is there already and was left alone",
            "missing": [f"fill it in, and rename it to {NAME}"],
        }
    if not dry_run:
        atomic_write(target, dumped(made))
    return {"did": f"{SKELETON} written beside it", "missing": [*missing, f"then rename it to {NAME}"]}


def new_text(result: Mapping[str, Any]) -> str:
    """What was written, or why nothing was."""
    lines = [
        f"{one['line']}:{one['column']}: {one['level']}: {one['message']}; {one['fix']}" for one in result["problems"]
    ]
    if result["written"]:
        lines += [*(f"wrote {name}" for name in result["files"]), f"next: bottega taxonomy check {result['path']}"]
    elif result["exit_code"]:
        lines.append("nothing was written: mend these and give the answers again")
    else:
        lines += [text for name, text in result["files"].items() for text in (f"# {name}", text)]
    return "\n".join(lines)


def migrate_text(result: Mapping[str, Any]) -> str:
    """A line a leaf, and what is still to do."""
    verb = "" if result["written"] else "would be: "
    lines = []
    for one in result["files"]:
        lines.append(f"{one['path']}: {verb}{one['did'] or 'left alone'}")
        lines += [f"  still to do: {what}" for what in one["missing"]]
    return "\n".join(lines) or "every leaf has the newest version"
