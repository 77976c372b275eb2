"""Files to shards, once: cut into parts that are tokenised apart (in this process or in others) and kept under their content's key.

Left out: the shards' format (shards.py) and starting processes (the caller does, with `run_jobs`).

A part is a stretch of the input of about PART_BYTES; where it ends depends on the files alone, so that the shards are the same
for any number of workers. A part that is finished has its `part-N.json`; a build that was cut off goes on behind those.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bottega.core import errors, rundir
from bottega.core.errors import FolderInUse, UserError
from bottega.data import formats, prepare
from bottega.data.chat import Template
from bottega.data.intake import Intake, Ledger
from bottega.data.shards import HEADER, ShardRows, Writer, write_header
from bottega.data.sides import Side
from bottega.data.sources import Span, find, spans

CODE_VERSION = 2
"""Part of every key: raise it when the same files give other rows."""
PART_BYTES = 16_000_000
POLL_S = 0.2
JOB = "job.json"

RunJobs = Callable[[Path, Sequence[int], Any], None]
"""run_jobs(folder, numbers, tokenizer): calls `write_part(folder, number, tokenizer)` for each number, here or elsewhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """What is to be tokenised, and how: everything that a row depends on. identity: the tokenizer's own hash."""

    path: str
    plan: prepare.Plan
    template: Template
    identity: str
    format: str | None = None
    columns: Mapping[str, str] | None = None
    side: tuple[str, int, str] | None = None
    """A file of held-out places (sides.py), the source's number in it, and which side this is."""


def shards(
    corpus: Corpus,
    tokenizer: Any,
    *,
    cache: Path,
    run_jobs: RunJobs | None = None,
    allow_loss: int | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> tuple[ShardRows, Intake]:
    """The rows of a corpus as shards under `cache`, made if they are not there, and the account of what was read.

    Args:
        run_jobs: does the parts; None: one after the other in this process.
        allow_loss: rows that may be lost, as in `prepare.rows`.
        note: is told where the shards are, and whether they were there.

    Raises:
        UserError: as `prepare.rows`. Unsafe: a shard that was there is damaged.
    """
    rows, counted = kept(corpus, tokenizer, cache=cache, run_jobs=run_jobs, note=note)
    return rows, account([rows], [counted], allow_loss)


def kept(
    corpus: Corpus,
    tokenizer: Any,
    *,
    cache: Path,
    run_jobs: RunJobs | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> tuple[ShardRows, dict[str, Any]]:
    """`shards`, with what its ledger counted in place of the finished account."""
    files = find([corpus.path])
    scanned = [spans(file, size=PART_BYTES) for file in files]
    key = key_of(corpus, [digest for digest, _ in scanned])
    folder = cache / key
    if not _is_there(folder):
        with _alone(cache / f".{key}.lock", folder) as mine:
            if mine:
                _build(corpus, files, scanned, tokenizer, folder, run_jobs or here)
            note(f"tokenised once into {folder}" if mine else f"tokenised by another process, in {folder}")
    else:
        note(f"tokenised before, in {folder}")
    rows = ShardRows(folder)
    return rows, _counted(rows, [str(file) for file in files])


def key_of(corpus: Corpus, digests: Sequence[str]) -> str:
    """The key of a corpus: a hash over its bytes, the tokenizer, the template, the options and this code's version."""
    known = {
        "version": CODE_VERSION,
        "files": list(digests),
        "tokenizer": corpus.identity,
        "template": [corpus.template.source, list(corpus.template.tokens)],
        "plan": asdict(corpus.plan),
        "format": corpus.format,
        "columns": dict(corpus.columns or {}),
        "side": [Path(corpus.side[0]).name, *corpus.side[1:]] if corpus.side else None,
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:32]


def _is_there(folder: Path) -> bool:
    return (folder / HEADER).is_file()


@contextlib.contextmanager
def _alone(lock: Path, folder: Path) -> Iterator[bool]:
    """True: this process builds; False: another did while this one waited. Needs no process group, so ranks may call it."""
    while True:
        try:
            with rundir.lock(lock):
                yield not _is_there(folder)
                return
        except FolderInUse:
            time.sleep(POLL_S)


def _build(
    corpus: Corpus,
    files: Sequence[Path],
    scanned: Sequence[tuple[str, list[Span]]],
    tokenizer: Any,
    folder: Path,
    run_jobs: RunJobs,
) -> None:
    draft = folder.with_name(f".{folder.name}.draft")
    parts = _parts(corpus, files, [found for _, found in scanned])
    job: dict[str, Any] = {
        "parts": parts,
        "plan": asdict(corpus.plan),
        "template": {**asdict(corpus.template), "tokens": [list(pair) for pair in corpus.template.tokens]},
        "columns": dict(corpus.columns) if corpus.columns else None,
        "side": list(corpus.side) if corpus.side else None,
        "files": [str(file) for file in files],
        "ids": "uint16" if len(tokenizer) <= 1 << 16 else "uint32",
    }
    with rundir.disk_errors(folder):
        if (draft / JOB).is_file() and rundir.read_json(draft / JOB) != job:
            shutil.rmtree(draft)  # the same files under other names
        draft.mkdir(parents=True, exist_ok=True)
    rundir.write_json(draft / JOB, job)
    run_jobs(draft, [n for n in range(len(parts)) if not _part_file(draft, n).is_file()], tokenizer)
    entries, ledger = [], Ledger()
    for number in range(len(parts)):
        done = rundir.read_json(_part_file(draft, number))
        ledger.absorb(done["ledger"])
        if done["error"]:
            shutil.rmtree(draft, ignore_errors=True)
            kind, message = done["error"]
            raise getattr(errors, kind)(message)
        entries += done["shards"]
    for path in [draft / JOB, *draft.glob("part-*.json"), *draft.glob(".*.tmp")]:
        path.unlink()
    shutil.rmtree(draft / "tokenizer", ignore_errors=True)
    write_header(draft, entries, key=folder.name, files=[str(file) for file in files], ledger=ledger.to_json())
    rundir.publish(draft, folder)


def _parts(corpus: Corpus, files: Sequence[Path], stretches: Sequence[list[Span]]) -> list[list[list[Any]]]:
    """Parts, each a list of [file, start, end, line, format]; small files share one."""
    parts: list[list[list[Any]]] = []
    room = 0
    for file, found in zip(files, stretches, strict=True):
        format = formats.settled(file, format=corpus.format, columns=corpus.columns)
        for span in found:
            size = (file.stat().st_size if span.end is None else span.end) - span.start
            if size > room:
                parts.append([])
                room = PART_BYTES
            parts[-1].append([str(file), *span, format])
            room -= size
    return parts


def _part_file(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.json"


def here(folder: Path, numbers: Sequence[int], tokenizer: Any) -> None:
    """Do the parts one after the other in this process."""
    for number in numbers:
        write_part(folder, number, tokenizer)


def write_part(folder: Path, number: int, tokenizer: Any) -> None:
    """Tokenise one part of the job that lies in `folder` into its shards, and write down what was counted.

    A row that stops the run (`over_length: error`, an unsafe template) is written down too: whoever waits raises it.
    """
    job = rundir.read_json(folder / JOB)
    plan, known = prepare.Plan(**job["plan"]), job["template"]
    tokens = tuple((name, value) for name, value in known["tokens"])
    template = Template(name=known["name"], source=known["source"], tokens=tokens)
    ledger, writer, error = Ledger(), Writer(folder, f"{number:05d}", ids=job["ids"]), None
    samples: Iterator[Any] = (
        sample
        for file, start, end, line, format in job["parts"][number]
        for sample in formats.span_samples(file, Span(start, end, line), format=format, columns=job["columns"])
    )
    if job["side"]:
        place, source, side = job["side"]
        mine = {file for file, *_ in job["parts"][number]}
        files = {file: i for i, file in enumerate(job["files"]) if file in mine}
        samples = Side(place, source, files, side)(samples)
    try:
        for row in prepare.iterate(samples, tokenizer, template, plan=plan, ledger=ledger):
            writer.add(row)
    except UserError as stop:
        error = [type(stop).__name__, str(stop)]
    rundir.write_json(
        _part_file(folder, number), {"ledger": ledger.to_json(), "shards": writer.close(), "error": error}
    )


def _counted(rows: ShardRows, files: Sequence[str]) -> dict[str, Any]:
    """What the ledger counted, its files called what they are called now."""
    names = dict(zip(rows.header["files"], files, strict=True))
    counted = dict(rows.header["ledger"])
    for key in ("files", "first", "lost"):
        counted[key] = {names[name]: value for name, value in counted[key].items()}
    counted["examples"] = [_renamed(text, names) for text in counted["examples"]]
    return counted


def account(rows: Sequence[ShardRows], counted: Sequence[Mapping[str, Any]], allow_loss: int | None) -> Intake:
    """The account of one or more sources together.

    Raises:
        UserError: as `Ledger.close`.
    """
    ledger = Ledger(allow_loss)
    for one in counted:
        ledger.absorb(one)
    trained = sum(shard["trained"] for one in rows for shard in one.shards)
    return ledger.close(taken=sum(map(len, rows)), tokens=sum(one.num_tokens for one in rows), trained=trained)


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """An example with the name that its file has now."""
    for old, new in names.items():
        if text.startswith(f"{old}:"):
            return new + text[len(old) :]
    return text
