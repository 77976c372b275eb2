"""How many leaves a taxonomy has: by branch, by kind, and drawn as a tree.

Left out: whether they are sound (taxonomy.py says so; leaves with errors are counted, and told).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, get_args

from bottega.synth.taxonomy import Kind, examine_all
from bottega.synth.taxonomy_schema import BRANCHES

KINDS: tuple[Kind, ...] = get_args(Kind)


def tree(path: str | Path) -> dict[str, Any]:
    """Leaves per branch and kind; `other` are leaves outside the three branches.

    Raises:
        UserError: nothing is there.
    """
    files = [file for file in examine_all(path) if file.is_leaf]
    branches: dict[str, Counter[str]] = {name: Counter() for name in BRANCHES}
    for file in files:
        branches.setdefault(file.branch or "other", Counter())[file.kind] += 1
    kinds = Counter(file.kind for file in files)
    rows = [
        {
            "path": file.path,
            "kind": file.kind,
            "version": file.version,
            "seeds": len(file.leaf.seeds) if file.leaf else None,
            "questions": sum(len(seed.pairs) for seed in file.leaf.seeds) if file.leaf else None,
            "errors": len(file.of("error")),
        }
        for file in files
    ]
    return {
        "leaves": len(files),
        "branches": {
            name: {"leaves": found.total(), **{kind: found[kind] for kind in KINDS}} for name, found in branches.items()
        },
        "kinds": {kind: kinds[kind] for kind in KINDS},
        "files": rows,
    }


def tree_text(result: dict[str, Any]) -> str:
    """The folders, each leaf with its kind and questions; then the sums."""
    lines: list[str] = []
    before: tuple[str, ...] = ()
    for row in result["files"]:
        *parts, _ = row["path"].split("/")
        for depth, part in enumerate(parts):
            if before[: depth + 1] == tuple(parts[: depth + 1]):
                continue
            is_leaf = depth == len(parts) - 1
            lines.append("  " * depth + part + (f"  ({_said(row)})" if is_leaf else "/"))
        if not parts:
            lines.append(f"{row['path']}  ({_said(row)})")
        before = tuple(parts)
    lines += [
        f"{name}: {found['leaves']} leaves" + "".join(f", {found[kind]} {kind}" for kind in KINDS if found[kind])
        for name, found in result["branches"].items()
    ]
    return "\n".join([*lines, f"{result['leaves']} leaves in all"])


def _said(row: dict[str, Any]) -> str:
    questions = "not readable" if row["questions"] is None else f"{row['questions']} questions"
    return f"{row['kind']}, {questions}" + (f", {row['errors']} errors" if row["errors"] else "")
