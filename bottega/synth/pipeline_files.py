"""A run's files: parts a leaf while it works, then train, test, rejects, funnel, report and manifest, each put in place whole.

Left out: InstructLab's names and recipes (pipeline_layout.py). Parts and the rest are read line by line: memory does not grow.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from bottega.core import rundir
from bottega.data.near import Index
from bottega.synth.pipeline import Job
from bottega.synth.pipeline_account import Account
from bottega.synth.pipeline_rows import asked_of, chunk_id

PARTS = ".parts"
NEAR = 0.9
"""Rows of which nine in ten five-word runs are shared are one row."""


class Part:
    """The rows of one leaf as they come. Use it in a `with`."""

    def __init__(self, folder: Path, number: int) -> None:
        self.paths = {name: folder / PARTS / f"{number:05d}.{name}.jsonl" for name in ("rows", "rejects", "auxiliary")}
        self._files: dict[str, IO[str]] = {}

    def __enter__(self) -> Part:
        for name, path in self.paths.items():
            with rundir.disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._files[name] = open(path, "w", encoding="utf-8", errors="replace")  # noqa: SIM115
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            with rundir.disk_errors():
                file.close()

    def row(self, row: dict[str, Any]) -> None:
        self._write("rows", row)

    def reject(self, row: dict[str, Any]) -> None:
        self._write("rejects", row)

    def auxiliary(self, row: dict[str, Any]) -> None:
        self._write("auxiliary", row)

    def _write(self, name: str, row: dict[str, Any]) -> None:
        with rundir.disk_errors(self.paths[name]):
            self._files[name].write(json.dumps(row, ensure_ascii=False) + "\n")


def lines(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The records of files that we wrote, one by one."""
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


class Draft:
    """A file that appears whole. Use it in a `with`; `number` counts its rows."""

    def __init__(self, path: Path) -> None:
        self.path, self.number = path, 0
        self._draft = path.with_name(f".{path.name}.draft")

    def __enter__(self) -> Draft:
        with rundir.disk_errors(self.path):
            self._file = open(self._draft, "w", encoding="utf-8", errors="replace")  # noqa: SIM115
        return self

    def write(self, row: Mapping[str, Any]) -> None:
        with rundir.disk_errors(self.path):
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.number += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with rundir.disk_errors(self.path):
            self._file.close()
            if kind is None:
                rundir.put(self._draft, self.path)
            else:
                self._draft.unlink(missing_ok=True)


def said(row: Mapping[str, Any]) -> str:
    """The text of a row by which rows are compared."""
    turns = [*row.get("messages", ()), *row.get("prompt", ()), *row.get("chosen", ())]
    return "\n".join(
        [turn["content"] for turn in turns] + [str(row.get("query", "")), *map(str, row.get("choices", ()))]
    ).strip()


def assemble(out: Path, jobs: Sequence[Job], accounts: Sequence[Account], parts: Sequence[Part]) -> dict[str, int]:
    """Join the parts: near duplicates go to the rejects, the rest is train.jsonl; returns the files' numbers of rows."""
    with Index(threshold=NEAR) as index:
        for row in lines([part.paths["rows"] for part in parts]):
            index.add(said(row))
        leaders = index.leaders()
    place = 0
    with Draft(out / "train.jsonl") as train, Draft(out / "rejects.jsonl") as rejects:
        for account, part in zip(accounts, parts):
            for row in lines([part.paths["rejects"]]):
                rejects.write(row)
            step = account.step("near duplicates")
            step.taken = account.kept
            account.sink = rejects.write
            for row in lines([part.paths["rows"]]):
                if leaders[place] == place:
                    train.write(row)
                    step.given += 1
                else:
                    account.reject(step, row, "near duplicate", score=NEAR)
                place += 1
            account.kept = step.given
            if step.taken and not step.given:
                account.why = "every row was rejected"
    with Draft(out / "test.jsonl") as test:
        for row in (row for job in jobs for row in held_rows(job)):
            test.write(row)
    with Draft(out / "auxiliary.jsonl") as auxiliary:
        for row in lines([part.paths["auxiliary"] for part in parts]):
            auxiliary.write(row)
    with Draft(out / "documents.jsonl") as documents:
        for job in jobs:
            for chunk in job.chunks:
                documents.write({"id": chunk_id(chunk), "leaf": job.leaf.path, "text": chunk})
    if not documents.number:
        (out / "documents.jsonl").unlink()
    found = {"train": train.number, "test": test.number, "rejects": rejects.number, "auxiliary": auxiliary.number}
    if not auxiliary.number:
        (out / "auxiliary.jsonl").unlink()
    return found


def held_rows(job: Job) -> Iterator[dict[str, Any]]:
    """The held-out seeds as rows, the context in front of a grounded skill's question; then the same in other words."""
    for other, seeds in ((False, job.held), (True, job.paraphrases)):
        for question, answer, context in seeds:
            asked = asked_of(job.leaf.kind, question, context)
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer.strip()}]
            metadata = {
                "leaf": job.leaf.path,
                "kind": job.leaf.kind,
                "contributor": job.leaf.created_by,
                "held_out": True,
            }
            yield {
                "messages": messages,
                "unmask": False,
                "metadata": metadata | ({"paraphrase": True} if other else {}),
            }


def write_rejects(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows that went, if any did; a file of an earlier run does not stay."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    with Draft(path) as draft:
        for row in rows:
            draft.write(row)


def remove_parts(out: Path) -> None:
    """The parts are not needed once the files stand."""
    shutil.rmtree(out / PARTS, ignore_errors=True)


def write_manifest(out: Path, facts: Mapping[str, Any], names: Sequence[str], circumstances: Mapping[str, Any]) -> None:
    """manifest.json: what the files are and depend on; clock, host and cost apart, under `circumstances`."""
    files = {
        name: {"bytes": (out / name).stat().st_size, "sha256": rundir.sha256(out / name)}
        for name in sorted(names)
        if (out / name).is_file()
    }
    rundir.write_json(
        out / "manifest.json", {"schema": 1, **facts, "files": files, "circumstances": dict(circumstances)}
    )
