"""A file through the cleaning steps: the rows that stay, a list of what went and why, and the account.

Left out: what the steps do (steps.py); a run's own cleaning (the workshop).

The folder holds cleaned.jsonl (messages, text, preference or labelled rows), rejects.jsonl (step, reason and place of every
row that went; its words stay in the source alone, since they may be what had to go) and clean.json.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.core.types import Conversation, Document, Preference, Sample, Where
from bottega.data import convert
from bottega.data.clean.account import Account, Item, Rejected
from bottega.data.clean.held import erase
from bottega.data.clean.steps import cleaned, through
from bottega.data.formats import samples, to_json
from bottega.data.intake import Ledger
from bottega.data.sources import Problem

Choices = Sequence[tuple[str, Mapping[str, Any]]]
CLEANED, REJECTS, REPORT = "cleaned.jsonl", "rejects.jsonl", "clean.json"


def clean(
    paths: str | Path | Iterable[str | Path],
    choices: Choices,
    *,
    out: str | Path,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    allow_loss: int | None = None,
    erasing: erase | None = None,
) -> dict[str, Any]:
    """Clean files into the folder `out`; returns the account, as written to clean.json.

    The same files, steps and seed give the same bytes. Nothing in `out` changes before everything was read.

    Args:
        choices: (step, options) in order. seed: of MinHash and of pseudonyms. allow_loss: rows that cannot be used and
            may be left out (default: as for a run). erasing: rows that go before the first step.

    Raises:
        UserError: a mistake in a step, rows that cannot be used, several kinds of rows at once, or no row left.
    """
    folder, ledger, kinds = Path(out), Ledger(allow_loss), Counter[str]()
    with rundir.disk_errors(folder), ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        kept, gone = (stack.enter_context(_draft(folder / name)) for name in (CLEANED, REJECTS))

        def reject(rejected: Rejected) -> None:
            _line(gone, rejected.step, str(rejected), rejected.item.sample.where)

        items = _items(samples(paths, format=format, columns=columns), ledger, gone)
        erased = Account(name="erase", options={}, seed=seed, sink=reject)
        if erasing is not None:
            items = through(items, erasing, erased)
        stream, accounts = cleaned(items, choices, seed=seed, sink=reject)
        accounts = [erased, *accounts] if erasing is not None else accounts
        for item in stream:
            kinds[type(item.sample).__name__] += 1
            kept.write(to_json(record(item.sample)) + "\n")
        _check(kinds, accounts, ledger)
        intake = ledger.close(taken=kinds.total() + erased.rejected.total(), tokens=0, trained=0)
        report = {
            "files": dict(intake.files),
            "seed": seed,
            "read": intake.read,
            "kept": kinds.total(),
            "not_usable": dict(intake.bad),
            "steps": [account.to_json() for account in accounts],
        }
        for name, file in ((CLEANED, kept), (REJECTS, gone)):
            file.flush()
            os.fsync(file.fileno())
            os.replace(_draft_of(folder / name), folder / name)
        rundir.sync_folder(folder)
    hashes = {name: rundir.sha256(folder / name) for name in (CLEANED, REJECTS)}
    rundir.write_json(folder / REPORT, {**report, "sha256": hashes})
    return {"out": str(folder), **report, "sha256": hashes}


def record(sample: Sample) -> dict[str, Any]:
    """The sample as a row of the format that holds all of it."""
    if isinstance(sample, Document):
        return convert.to_text(sample)
    if isinstance(sample, Conversation):
        return convert.to_messages(sample)
    if isinstance(sample, Preference):
        return convert.to_preference(sample)
    return convert.to_unpaired(sample) if sample.prompt else convert.to_labelled(sample)


def _items(found: Iterable[Sample | Problem], ledger: Ledger, gone: IO[str]) -> Iterator[Item]:
    """The usable samples; what cannot be used is listed and counted."""
    last: Where | None = None
    for sample in found:
        ledger.read += 1
        if last is None or sample.where[:2] != last[:2] or not sample.where.row:
            ledger.files[sample.where.file] = ledger.files.get(sample.where.file, 0) + 1
        last = sample.where
        if isinstance(sample, Problem):
            ledger.problem(sample)
            _line(gone, "read", sample.reason, sample.where)
        else:
            yield Item(0, sample)


def _line(file: IO[str], step: str, reason: str, where: Where) -> None:
    file.write(to_json({"step": step, "reason": reason, **where._asdict()}) + "\n")


def _check(kinds: Counter[str], accounts: Sequence[Account], ledger: Ledger) -> None:
    if len(kinds) > 1:
        have = " and ".join(f"{count:,} {name.lower()} rows" for name, count in sorted(kinds.items()))
        raise UserError(f"the files hold {have}, which do not go into one file; clean them one kind at a time")
    if not kinds and not any(a.rejected["erased"] for a in accounts) and ledger.read > sum(ledger.bad.values()):
        went = ", ".join(f"{a.name} {sum(a.rejected.values()):,}" for a in accounts if a.rejected)
        first = next((a.examples[0] for a in accounts if a.examples), "")
        raise UserError(f"no row is left after cleaning ({went}; e.g. {first}); loosen a step or leave it out")


class _draft:
    """A file written beside its place; a rename puts it there, leaving without one removes it."""

    def __init__(self, path: Path) -> None:
        self.path = _draft_of(path)

    def __enter__(self) -> IO[str]:
        self.file = self.path.open("w", encoding="utf-8", errors="surrogatepass", newline="\n")
        return self.file

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.path.unlink(missing_ok=True)


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
