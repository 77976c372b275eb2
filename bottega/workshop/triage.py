"""One page about contributed leaves for whoever decides on them: validation, licences, overlap, generated rows, scores.

Left out: the decision. Everything on the page is read from files: the taxonomy, what `bottega synth` wrote, two scorecards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.core.rundir import atomic_write
from bottega.data.sources import Problem, read
from bottega.evals.compare import compare
from bottega.evals.runner import Scorecard
from bottega.synth.taxonomy import Examined, check
from bottega.synth.taxonomy_git import diff
from bottega.workshop.markup import bounds, chip, clip, number, section, table
from bottega.workshop.report import CSS, GROUP_MARKS, POLICY

SHOWN = 5
"""Generated rows and rejects that are shown of a leaf."""


def triage(
    path: str | Path, *, base: str = "origin/main", data: str | None = None, before: str | None = None,
    after: str | None = None, out: str = "triage.html",
) -> dict[str, Any]:  # fmt: skip
    """Write the page and return what is on it.

    Args:
        path: the taxonomy with the contribution checked out. base: what it is compared with. data: the folder of `bottega synth --out`.
        before, after: scorecards of `bottega eval --out`, on a task that tells items apart by `group: leaf`.

    Returns: out, leaves (path, kind, contributor, errors, warnings, licences, overlap, rows, rejected, samples, scores), verdict,
    exit_code (1: a leaf has an error).
    Raises:
        UserError: no changed leaf, a folder without rows, one scorecard without the other. Mismatch: they are of other items.
    """
    root = Path(path)
    if (before is None) != (after is None):
        raise UserError("scores before and after belong together: give both --before and --after, or neither")
    changed = diff(root, base=base)["changed"]
    if not changed:
        raise UserError(f"no leaf changed against {base}: there is nothing to look at")
    files = {file.path: file for file in check(root).files}
    rows = _rows(Path(data)) if data is not None else {}
    scores = _scores(before, after) if before is not None and after is not None else {}
    leaves = [_leaf(files[name], rows.get(name, {}), scores.get(name)) for name in changed]
    wrong = sum(bool(one["errors"]) for one in leaves)
    flagged = sum(bool(one["flagged"] or one["overlap"]) for one in leaves)
    verdict = f"{len(leaves)} leaves: {wrong} with errors, {flagged} to look at for licence or overlap"
    found = {"out": out, "base": base, "leaves": leaves, "verdict": verdict, "exit_code": int(wrong > 0)}
    atomic_write(Path(out), _page(found, with_data=data is not None, with_scores=bool(scores)))
    return found


def _leaf(file: Examined, rows: Mapping[str, Any], score: Any) -> dict[str, Any]:
    overlap = [one.message for one in file.problems if one.rule == "near-duplicate"]
    flagged = [one.message for one in file.problems if one.rule == "licence"]
    told = {"near-duplicate", "licence"}
    return {
        "path": file.path,
        "kind": file.kind,
        "contributor": file.leaf.created_by if file.leaf else "",
        "seeds": len(file.leaf.seeds) if file.leaf else 0,
        "licences": list(file.leaf.licences) if file.leaf else [],
        "flagged": flagged,
        "overlap": overlap,
        "errors": [one.to_json() for one in file.of("error")],
        "warnings": [one.to_json() for one in file.of("warning") if one.rule not in told],
        "rows": rows.get("rows", 0),
        "rejected": rows.get("rejected", 0),
        "samples": rows.get("samples", []),
        "rejects": rows.get("rejects", []),
        "scores": score,
    }


def _rows(folder: Path) -> dict[str, dict[str, Any]]:
    """Of each leaf how many rows were made and rejected, and a few of both."""
    if not (folder / "train.jsonl").is_file():
        raise UserError(f"{folder} holds no train.jsonl; give the folder that `bottega synth --out` wrote")
    found: dict[str, dict[str, Any]] = {}
    for name, count, kept in (("train.jsonl", "rows", "samples"), ("rejects.jsonl", "rejected", "rejects")):
        file = folder / name
        if not file.is_file() or not file.stat().st_size:
            continue
        for _, row in read(file):
            if isinstance(row, Problem):
                raise UserError(f"{row}; make the rows again: bottega synth")
            leaf = str((row.get("metadata") or {}).get("leaf") or row.get("leaf") or "")
            one = found.setdefault(leaf, {"rows": 0, "rejected": 0, "samples": [], "rejects": []})
            one[count] += 1
            if len(one[kept]) < SHOWN:
                one[kept].append(row)
    return found


def _scores(before: str, after: str) -> dict[str, Any]:
    """Leaf -> how its items stand before and after."""
    cards = [Scorecard.from_json(rundir.read_json(name)) for name in (before, after)]
    report = compare(cards[0], cards[1], seed=cards[0].seed)
    found: dict[str, Any] = {}
    for task in report.tasks:
        for group in task.groups:
            found[group.name] = {
                "task": task.task, "before": group.before, "after": group.after, "verdict": group.verdict,
                **{key: value for key, value in asdict(group.difference).items() if key in ("value", "low", "high", "n")},
            }  # fmt: skip
    return found


def _page(found: Mapping[str, Any], *, with_data: bool, with_scores: bool) -> str:
    body = "".join(_shown(one, with_data=with_data, with_scores=with_scores) for one in found["leaves"])
    head = ("Leaf", "Kind", "By", "Seeds", "Licence", "Errors", "Warnings", "Overlap")
    lines = [
        [
            escape(one["path"]),
            escape(one["kind"]),
            escape(one["contributor"]),
            number(one["seeds"]),
            escape(", ".join(one["licences"]) or "none known") + (chip("bad", "look") if one["flagged"] else ""),
            chip("bad", f"✗ {len(one['errors'])}") if one["errors"] else chip("good", "✓ none"),
            number(len(one["warnings"])),
            chip("bad", "look") if one["overlap"] else chip("good", "none found"),
        ]
        for one in found["leaves"]
    ]
    top = section("At a glance", table(head, lines, numbers=(3, 6), stacks=True), found["verdict"])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>Contributed leaves · Bottega</title>'
        f'<style>{CSS.read_text(encoding="utf-8")}</style></head><body><main><header><div class="eyebrow">Bottega triage</div>'
        f"<h1>{len(found['leaves'])} contributed leaves</h1></header>{top}{body}</main></body></html>\n"
    )


def _shown(one: Mapping[str, Any], *, with_data: bool, with_scores: bool) -> str:
    told = [(*_place(e), "error", e) for e in one["errors"]] + [(*_place(w), "warning", w) for w in one["warnings"]]
    rows = [
        [f"{line}:{column}", level, f"{escape(p['message'])}; {escape(p['fix'])}"] for line, column, level, p in told
    ]
    parts = [table(("Place", "", "What and remedy"), rows, stacks=True)]
    notes = [*one["flagged"], *one["overlap"]]
    parts.append("<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>" if notes else "")
    if with_scores:
        parts.append(_score(one["scores"]))
    if with_data:
        parts.append(
            f"<p>{one['rows']:,} rows generated, {one['rejected']:,} rejected</p>"
            + "".join(map(_sample, one["samples"]))
        )
        if one["rejects"]:
            cards = "".join(map(_sample, one["rejects"]))
            parts.append(f"<details><summary>rows that were rejected, and why</summary>{cards}</details>")
    return section(one["path"], "".join(parts) or "<p>Nothing to say of it.</p>")


def _place(problem: Mapping[str, Any]) -> tuple[int, int]:
    return problem["line"], problem["column"]


def _score(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "<p>No item of the scorecards is of this leaf.</p>"
    mark = chip(*GROUP_MARKS[score["verdict"]])
    gap = f"{score['value']:+.3f}{bounds(score['low'], score['high'])}"
    return table(
        ("Before", "After", "Difference", "n", ""),
        [[number(score["before"]), number(score["after"]), gap, f"{score['n']:,}", mark]],
        numbers=(0, 1, 2, 3),
    )


def _sample(row: Mapping[str, Any]) -> str:
    turns = row.get("messages")
    texts = [f"{turn.get('role')}: {turn.get('content')}" for turn in turns] if isinstance(turns, list) else [
        f"{key}: {value}" for key, value in row.items() if key not in ("metadata", "leaf") and isinstance(value, str | int | float)
    ]  # fmt: skip
    return '<div class="sample">' + "".join(f'<p class="prompt">{clip(text)}</p>' for text in texts) + "</div>"


def triage_text(result: Mapping[str, Any]) -> str:
    """A line a leaf, and where the page is."""
    lines = []
    for one in result["leaves"]:
        counts = f"{len(one['errors'])} errors, {len(one['warnings'])} warnings"
        said = "".join(f"; {what}" for what in (*one["flagged"], *one["overlap"]))
        lines.append(f"{one['path']}: {counts}, {', '.join(one['licences']) or 'no licence known'}{said}")
    return "\n".join([*lines, result["verdict"], f"page: {result['out']}"])
