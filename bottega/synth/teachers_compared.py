"""`bottega lab teachers`: what several teachers made of the same leaves, side by side, from the folders that `synth` wrote.

Left out: asking them (`synth`, once a teacher) and what a model learns from each (`lab recipe`, `run`, `compare`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.core.textio import table


def compare_teachers(folders: Sequence[str | os.PathLike[str]]) -> dict[str, Any]:
    """Rows kept, reasons for the others, variety, calls and cost by leaf and teacher; which questions two asked alike.

    Returns: {"teachers": [{"folder", "teacher", "calls", "seconds", "cost"}], "leaves": {leaf: [{"teacher", "made", "kept",
        "kept_share", "most_rejected", "words", "distinct_pairs", "near_duplicates", "contaminated"}]}, "alike": [{"leaf", "teachers",
        "same_questions", "same_answers"}]}; shares are of all that the leaf's flow made, contaminated rows among them.

    Raises:
        UserError: fewer than two folders, one that `synth` has not ended, or no leaf that all have.
    """
    if len(folders) < 2:
        raise UserError("one teacher alone is compared with nobody; name two folders of `bottega synth` or more")
    read = [_read(Path(folder)) for folder in folders]
    shared = [leaf for leaf in read[0]["leaves"] if all(leaf in one["leaves"] for one in read)]
    if not shared:
        raise UserError(
            f"no leaf is in all of {', '.join(str(folder) for folder in folders)}; give the same leaves to each teacher"
        )
    names = _names(read)
    return {
        "teachers": [
            {"name": name, **{key: one[key] for key in ("folder", "teacher", "flows", "calls", "seconds", "cost")}}
            for name, one in zip(names, read, strict=True)
        ],
        "leaves": {
            leaf: [{"name": name, **one["leaves"][leaf]} for name, one in zip(names, read, strict=True)]
            for leaf in shared
        },
        "alike": [
            {"leaf": leaf, "teachers": [a, b], **_alike(one["said"].get(leaf, {}), other["said"].get(leaf, {}))}
            for leaf in shared
            for (a, one), (b, other) in itertools.combinations(zip(names, read, strict=True), 2)
        ],
    }


def compare_teachers_text(result: Mapping[str, Any]) -> str:
    """Three tables: the teachers, the leaves, what was asked alike."""
    who = [
        [
            one["name"],
            one["teacher"],
            ", ".join(one["flows"]),
            one["calls"],
            f"{one['seconds']:.0f}",
            f"{one['cost']:.2f}",
        ]
        for one in result["teachers"]
    ]
    rows = [
        [leaf, one["name"], one["made"], one["kept"], f"{one['kept_share']:.0%}", one["most_rejected"]]
        + [one["words"], one["distinct_pairs"], one["near_duplicates"], one["contaminated"]]
        for leaf, own in result["leaves"].items()
        for one in own
    ]
    alike = [
        [one["leaf"], " and ".join(one["teachers"]), one["same_questions"], one["same_answers"]]
        for one in result["alike"]
    ]
    head = (
        "leaf",
        "teacher",
        "made",
        "kept",
        "share",
        "most rejected by",
        "words",
        "distinct pairs",
        "near",
        "contaminated",
    )
    return "\n\n".join(
        [
            table(who, ("teacher", "model", "flows", "calls", "seconds", "cost")),
            table(rows, head),
            table(alike, ("leaf", "teachers", "same questions", "same answers")),
        ]
    )


def _read(folder: Path) -> dict[str, Any]:
    missing = [
        name for name in ("manifest.json", "funnel.json", "report.json", "train.jsonl") if not (folder / name).is_file()
    ]
    if missing:
        raise UserError(f"{folder} has no {missing[0]}: `bottega synth` has not ended there; give its command again")
    manifest, funnel, report = (rundir.read_json(folder / f"{name}.json") for name in ("manifest", "funnel", "report"))
    spent = manifest["circumstances"]
    said: dict[str, dict[str, str]] = {}
    for row in rundir.read_jsonl(folder / "train.jsonl"):
        turns = row.get("messages") or []
        if len(turns) >= 2:
            question, reply = (" ".join(str(turn["content"]).lower().split()) for turn in turns[-2:])
            said.setdefault(row["metadata"]["leaf"], {})[question] = reply
    leaves = {one["leaf"]: _leaf(one, report["leaves"].get(one["leaf"], {})) for one in funnel["leaves"]}
    return {
        "folder": str(folder),
        "teacher": manifest["teacher"],
        "flows": sorted(manifest["flows"]),
        "calls": spent["calls"],
        "seconds": spent["seconds"],
        "cost": spent["cost"],
        "leaves": leaves,
        "said": said,
    }


def _leaf(counted: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    made = counted["kept"] + counted["rejected"] + counted["unused"]
    lost = [(number, f"{step['step']}: {why}") for step in counted["steps"] for why, number in step["rejected"].items()]
    most = max(lost, default=(0, ""), key=lambda one: one[0])
    return {
        "made": made,
        "kept": counted["kept"],
        "kept_share": counted["kept"] / made if made else 0.0,
        "most_rejected": f"{most[1]} ({most[0]})" if most[0] else counted["failed"] or "",
        "words": seen.get("words", 0.0),
        "distinct_pairs": seen.get("distinct_pairs", 0.0),
        "near_duplicates": seen.get("near_duplicates", 0),
        "contaminated": seen.get("contaminated", 0),
    }


def _alike(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, int]:
    both = one.keys() & other.keys()
    return {"same_questions": len(both), "same_answers": sum(one[asked] == other[asked] for asked in both)}


def _names(read: Sequence[Mapping[str, Any]]) -> list[str]:
    """The teachers' names; the folders' where two have the same teacher (other flows, other seeds)."""
    teachers = [str(one["teacher"]) for one in read]
    return teachers if len(set(teachers)) == len(teachers) else [Path(one["folder"]).name for one in read]
