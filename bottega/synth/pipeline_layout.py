"""InstructLab's own file names, row forms and recipes, beside ours, so that its tools find what they expect.

Left out: its log of discarded rows as text (rejects.jsonl holds them). Names carry the time at which the journal began, so that
the same command gives the same names.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from bottega.core import rundir
from bottega.core.config import dump_yaml
from bottega.synth.pipeline import Job
from bottega.synth.pipeline_files import Draft, lines

SYSTEM = "I am an AI language model. My primary role is to serve as a chat assistant."


def write_layout(out: Path, jobs: Sequence[Job], *, teacher: str, stamp: str) -> list[str]:
    """Write the files; returns their names.

    messages_*: all rows as conversations with an id. train_*, test_*: system, user, assistant. node_datasets_*: a file a leaf.
    knowledge_train_msgs_*, skills_train_msgs_*: the rows of each branch, and *_recipe_*: their data sets with sizes.
    """
    model = "".join(c if c.isalnum() or c in ".-" else "-" for c in teacher.rpartition("#")[2])
    for old in [
        *out.glob(f"*_{stamp}*.jsonl"),
        *out.glob(f"*_{stamp}.yaml"),
        *(out / f"node_datasets_{stamp}").glob("*.jsonl"),
    ]:
        old.unlink()
    names: list[str] = []

    def draft(name: str) -> Draft:
        names.append(name)
        (out / name).parent.mkdir(exist_ok=True)
        return Draft(out / name)

    with draft(f"messages_{model}_{stamp}.jsonl") as messages, draft(f"train_{model}_{stamp}.jsonl") as train:
        for row in _conversations(out / "train.jsonl"):
            messages.write(_message(row))
            train.write(_legacy(row))
    with draft(f"test_{model}_{stamp}.jsonl") as test:
        for row in _conversations(out / "test.jsonl"):
            test.write(_legacy(row))
    sizes: dict[str, int] = {}
    for path, rows in groupby(_conversations(out / "train.jsonl"), key=lambda row: row["metadata"]["leaf"]):
        with draft(f"node_datasets_{stamp}/{_node(path)}.jsonl") as node:
            for row in rows:
                node.write(_message(row))
        sizes[path] = node.number
    for branch, is_knowledge in (("knowledge", True), ("skills", False)):
        mine = [job.leaf for job in jobs if (job.leaf.kind == "knowledge") == is_knowledge and sizes.get(job.leaf.path)]
        if not mine:
            continue
        sets = [
            {"path": f"node_datasets_{stamp}/{_node(leaf.path)}.jsonl", "sampling_size": sizes[leaf.path]}
            for leaf in mine
        ]
        recipe = {"datasets": sets, "metadata": {"sys_prompt": SYSTEM}}
        rundir.atomic_write(out / f"{branch}_recipe_{stamp}.yaml", dump_yaml(recipe))
        names.append(f"{branch}_recipe_{stamp}.yaml")
        with draft(f"{branch}_train_msgs_{stamp}.jsonl") as branch_rows:
            paths = {leaf.path for leaf in mine}
            for row in _conversations(out / "train.jsonl"):
                if row["metadata"]["leaf"] in paths:
                    branch_rows.write(_message(row, system=SYSTEM))
    return names


def _conversations(path: Path) -> Iterator[dict[str, Any]]:
    return (row for row in lines([path]) if "messages" in row)


def _node(path: str) -> str:
    return path.removesuffix("/qna.yaml").replace("/", "_")


def _message(row: dict[str, Any], *, system: str = "") -> dict[str, Any]:
    """Their form: metadata as JSON in a text, an id of the row's content."""
    first = [{"role": "system", "content": system}] if system else []
    metadata = json.dumps(row["metadata"], ensure_ascii=False, sort_keys=True)
    made = {"messages": [*first, *row["messages"]], "metadata": metadata, "unmask": row["unmask"]}
    return {**made, "id": _name(made)}


def _name(row: dict[str, Any]) -> str:
    return str(
        uuid.UUID(
            bytes=hashlib.sha256(json.dumps(row, sort_keys=True).encode("utf-8", "replace")).digest()[:16], version=4
        )
    )


def _legacy(row: dict[str, Any]) -> dict[str, str]:
    said = {"user": "", "assistant": ""}
    for turn in row["messages"]:
        said[turn["role"]] = said.get(turn["role"], "") or turn["content"]
    return {"system": SYSTEM, "user": said["user"], "assistant": said["assistant"]}
