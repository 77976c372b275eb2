"""The verbs around feedback: data into the queue, answers out as training rows, backups both ways.

Left out: the pages (studio/), the store itself (store/), statistics (feedback_stats.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bottega.core.errors import UserError
from bottega.core.rundir import atomic_write
from bottega.core.types import Conversation, Document, Labelled, Preference, Sample, Turn
from bottega.data.formats import FORMATS, detect, to_json
from bottega.data.labels import name_of
from bottega.data.sources import Problem, Record, read
from bottega.data.turns import BadRow
from bottega.grade.teach import label_information, pair_information
from bottega.store import queue
from bottega.store.backup import backup, is_backup, restore
from bottega.store.database import Database
from bottega.store.feedback import judgements
from bottega.store.kinds import KINDS, Settings, spans_of
from bottega.store.rows import export
from bottega.store.schema import open_store

OWN = ("answers", "words", "gold", "given", "scores", "probabilities")
"""A record with one of these is an item as store/kinds.py describes it."""
SHOWN_PROBLEMS = 20
BATCH = 500


def import_items(
    files: Sequence[str],
    *,
    store: str = "feedback.db",
    project: str | None = None,
    kind: str | None = None,
    labels: Sequence[str] = (),
    several: bool = False,
    scale: int = 5,
    reasons: Sequence[str] = (),
    per_item: int = 1,
    gold_every: int = 0,
    instructions: str = "",
) -> dict[str, Any]:
    """Put the rows of files into a project's queue, or bring a backup back into an empty store.

    Rows are items of their own form, or samples of any format of the data room. What is there already is not put twice.

    Returns:
        counts, and the rows that could not be asked with their reasons; exit code 9 when there are any.

    Raises:
        UserError: no project or kind where one is needed; nothing in the files can be asked.
    """
    db = open_store(store)
    try:
        if len(files) == 1 and Path(files[0]).is_file() and is_backup(files[0]):
            return {"store": db.name, "restored": restore(db, files[0])}
        if project is None:
            raise UserError("name the project with --project; only a backup needs none")
        known = {one.name: one for one in queue.projects(db)}
        kind = kind or (known[project].kind if project in known else None)
        if kind not in KINDS:
            raise UserError(f"name the kind of the new project {project} with --kind: {', '.join(KINDS)}")
        items, problems = _items(files, kind)
        if project in known:
            to = queue.open_project(db, project, kind)
        else:
            found = tuple(labels) or _labels_in(items, kind)
            settings = Settings(
                labels=found,
                several=several,
                scale=scale,
                tags=tuple(reasons),
                per_item=per_item,
                gold_every=gold_every,
                instructions=instructions,
            )
            to = queue.open_project(db, project, kind, settings)
        return {"store": db.name, "project": project, **_put(db, to, items, problems)}
    finally:
        db.close()


def _items(files: Sequence[str], kind: str) -> tuple[list[tuple[str, Record]], list[str]]:
    """Items with their places, and what could not be one."""
    items: list[tuple[str, Record]] = []
    problems: list[str] = []
    for where, record in read(list(files)):
        if isinstance(record, Problem):
            problems.append(str(record))
            continue
        try:
            items += [(str(where), item) for item in _as_items(record, where, kind)]
        except (BadRow, UserError) as error:
            problems.append(f"{where}: {getattr(error, 'reason', error)}")
    return items, problems


def _as_items(record: Record, where: Any, kind: str) -> Iterator[Record]:
    """A record as it is if it has the form of an item, else what its format makes of it."""
    if isinstance(record.get("prompt"), str) and set(record) & {"prompt", *OWN} and "chosen" not in record:
        plain = {**record, "prompt": [{"role": "user", "content": record["prompt"]}]}
        if kind == "write" or set(record) & set(OWN):
            yield plain
            return
    if set(record) & set(OWN) or kind == "write" and "prompt" in record and len(record) == 1:
        yield record
        return
    made = FORMATS[detect([record])](record, where)
    for sample in made if isinstance(made, tuple) else (made,):
        yield _item(sample, kind) | ({"id": record["id"]} if record.get("id") is not None else {})


def _turns(turns: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _item(sample: Sample, kind: str) -> Record:
    """What people are asked of a sample; its label or last answer is where they start from."""
    match sample:
        case Preference() if kind == "compare":
            if len(sample.chosen) > 1 or len(sample.rejected) > 1:
                raise UserError("the sides have several turns; only their last answers may differ")
            sides = [
                {"text": s[0].content, "source": name}
                for s, name in ((sample.chosen, "chosen"), (sample.rejected, "rejected"))
            ]
            return {"prompt": _turns(sample.prompt), "answers": sides}
        case Conversation() if kind in ("rate", "edit", "write") and sample.turns[-1].role == "assistant":
            prompt, answer = _turns(sample.turns[:-1]), sample.turns[-1].content
            return {"prompt": prompt} | ({"given": {"text": answer}} if kind == "write" else {"answers": [answer]})
        case Labelled() if kind == "class":
            given = sample.label if isinstance(sample.label, tuple) else (name_of(sample.label),)
            return {"text": sample.text, "given": {"labels": list(given)}}
        case Labelled() if kind == "span" and sample.words and isinstance(sample.label, tuple):
            return {"words": list(sample.words), "given": {"spans": spans_of([str(tag) for tag in sample.label])}}
        case Document() if kind in ("class", "write"):
            return {"text": sample.text}
        case Document() if kind == "span":
            return {"words": sample.text.split()}
    raise UserError(f"a {type(sample).__name__} cannot be asked as {kind}")


def _labels_in(items: Sequence[tuple[str, Record]], kind: str) -> tuple[str, ...]:
    """The labels that the rows bring with them, by name."""
    found: set[str] = set()
    for _, item in items:
        for answer in (item.get("given"), item.get("gold")):
            if isinstance(answer, Mapping) and kind == "class":
                found |= {label for label in answer.get("labels", ()) if isinstance(label, str)}
            elif isinstance(answer, Mapping) and kind == "span":
                found |= {span[2] for span in answer.get("spans", ()) if isinstance(span, list) and len(span) == 3}
    return tuple(sorted(found))


def priority(item: Mapping[str, Any]) -> float | None:
    """How much an answer would teach: from `scores` (a pair of rewards, or one pair a model) or `probabilities`; None without them.

    Raises:
        UserError: they are not numbers.
    """
    try:
        if item.get("scores") is not None:
            pairs = item["scores"] if isinstance(item["scores"][0], list) else [item["scores"]]
            return pair_information([float(a) - float(b) for a, b in pairs])
        if item.get("probabilities") is not None:
            return label_information([max(0.0, float(share)) for share in item["probabilities"]])
    except (TypeError, ValueError, LookupError, ZeroDivisionError):
        raise UserError("scores are two numbers, or a list of such pairs; probabilities are numbers") from None
    return None


def _put(db: Database, to: queue.Project, items: list[tuple[str, Record]], problems: list[str]) -> dict[str, Any]:
    """Many in one call; where one of them cannot be asked, each alone, so that the others are."""
    before = _count(db, to)
    for start in range(0, len(items), BATCH):
        batch = items[start : start + BATCH]
        try:
            _put_some(db, to, [item for _, item in batch])
        except UserError:
            for where, item in batch:
                try:
                    _put_some(db, to, [item])
                except UserError as error:
                    problems.append(f"{where}: {error}")
    added = _count(db, to) - before
    if problems and not _count(db, to):
        raise UserError(f"no row can be asked; the first: {problems[0]}")
    result = {"rows": len(items), "added": added, "items": before + added, "problems": len(problems)}
    return result | {"first_problems": problems[:SHOWN_PROBLEMS], "exit_code": 9 if problems else 0}


def _put_some(db: Database, to: queue.Project, items: Sequence[Record]) -> None:
    weights = [priority(item) for item in items]
    rated = [(item, weight) for item, weight in zip(items, weights) if weight is not None]
    queue.put(db, to, [item for item, weight in zip(items, weights) if weight is None])
    queue.put(db, to, [item for item, _ in rated], priorities=[weight for _, weight in rated])


def _count(db: Database, of: queue.Project) -> int:
    return int(db.read("SELECT COUNT(*) FROM items WHERE project = ?", of.name)[0][0])


def import_items_text(result: dict[str, Any]) -> str:
    """For people."""
    if "restored" in result:
        return f"{result['store']}: restored " + ", ".join(f"{n} {name}" for name, n in result["restored"].items())
    lines = [f"{result['project']}: {result['added']} items added, {result['items']} in all"]
    if result["problems"]:
        lines += [f"{result['problems']} rows cannot be asked:", *(f"  {line}" for line in result["first_problems"])]
    return "\n".join(lines)


def export_rows(
    *,
    out: str,
    store: str = "feedback.db",
    project: str | None = None,
    by: str = "each",
    shape: str = "default",
    min_gold: float = 0.0,
    whole: bool = False,
) -> dict[str, Any]:
    """Write what people said as training rows (JSON lines, mode 0600), or the whole store as a backup.

    Args:
        by, shape, min_gold: see store/rows.py.
        whole: a backup of everything instead, for `feedback import` into an empty store.

    Raises:
        UserError: no project, or nothing to write.
    """
    if (
        store.partition("://")[0] not in ("postgresql", "postgres")
        and not Path(store.removeprefix("sqlite:///")).is_file()
    ):
        raise UserError(f"there is no store {store}; name it with --store, or make it with feedback import")
    db = open_store(store)
    try:
        if whole:
            return {"out": out, "backup": backup(db, out)}
        if project is None:
            raise UserError("name the project with --project, or ask for everything with --backup")
        of = queue.project(db, project)
        made = export(of, judgements(db, of), by=by, shape=shape, min_gold=min_gold)
    finally:
        db.close()
    if not made.rows:
        reasons = ", ".join(f"{reason}: {number}" for reason, number in made.left_out.items())
        raise UserError(f"the project {project} has no row to write ({reasons or 'nobody answered yet'})")
    atomic_write(out, "".join(to_json(row) + "\n" for row in made.rows), mode=0o600)
    return {"out": out, "project": project, "rows": len(made.rows), "left_out": dict(made.left_out)}


def export_rows_text(result: dict[str, Any]) -> str:
    """For people."""
    if "backup" in result:
        return f"{result['out']}: a backup of " + ", ".join(f"{n} {name}" for name, n in result["backup"].items())
    left = "".join(f"\n  left out, {reason}: {number}" for reason, number in result["left_out"].items())
    return f"{result['out']}: {result['rows']} rows{left}"
