"""Train, validation and test: by seed, stratified, by group or by time, with no near duplicate across.

Left out: cross-validation folds.

Rows that are equal or nearly so, documents of two files that are one text (a md and its pdf), and rows of one group
stay together; whole bundles are dealt out. The result depends on the rows, the seed and the shares alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bottega.core.errors import UserError
from bottega.core.rundir import atomic_write
from bottega.core.types import Conversation, Document, Labelled, Preference, Row, Turn
from bottega.data.formats import to_json
from bottega.data.near import THRESHOLD, groups, same_texts
from bottega.data.sources import Problem, read

SHARES = {"train": 0.9, "validation": 0.1}


def text_of(item: Any) -> str:
    """The words by which two rows are compared: texts of a sample or record, ids of a Row.

    System turns are left out: rows that share a long one are not alike for that.
    """
    if isinstance(item, Document):
        return item.text
    if isinstance(item, Conversation):
        return _said(item.turns)
    if isinstance(item, Preference):
        return "\n".join((_said(item.prompt), _said(item.chosen), _said(item.rejected)))
    if isinstance(item, Labelled):
        return "\n".join((_said(item.prompt), item.text))
    if isinstance(item, Row):
        return " ".join(str(i) for part in (item.prefix, *item.branches) for i in part.ids)
    return "\n".join(_texts(item))


def _said(turns: Sequence[Turn]) -> str:
    return "\n".join(turn.content for turn in turns if turn.role != "system")


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        if "system" in (value.get("role"), value.get("from")):
            return []
        return [text for key, inner in value.items() if key not in ("role", "from", "system") for text in _texts(inner)]
    if isinstance(value, list | tuple):
        return [text for inner in value for text in _texts(inner)]
    return [str(value)] if isinstance(value, int | float) else []


def _column(item: Any, name: str | Callable[[Any], Any]) -> Any:
    """A column of a record, or of a sample's meta (`label` is a Labelled's label)."""
    if callable(name):
        return name(item)
    holder = item if isinstance(item, Mapping) else getattr(item, "meta", {})
    if name in holder:
        return holder[name]
    if name == "label" and isinstance(item, Labelled):
        return item.label
    where = getattr(item, "where", "")
    raise UserError(
        f"{where}{': ' if where else ''}there is no column {name!r} to split by; name one that every row has"
    )


def split(
    rows: Sequence[Any],
    *,
    seed: int,
    shares: Mapping[str, float] = SHARES,
    group: str | Callable[[Any], Any] | None = None,
    stratify: str | Callable[[Any], Any] | None = None,
    time: str | Callable[[Any], Any] | None = None,
    threshold: float = THRESHOLD,
) -> dict[str, list[Any]]:
    """The parts, each in the order of the rows; every row is in exactly one.

    Args:
        rows: records, samples or core Rows.
        shares: part -> share, positive, adding up to 1.
        group: column (or function) whose equal values stay in one part.
        stratify: column whose values come in every part in the same shares.
        time: column to sort by; the first part gets the earliest, the last the latest. A later part's near duplicate
            of an earlier row goes to the earlier part.
        threshold: Jaccard similarity from which two rows count as one.

    Raises:
        UserError: shares that do not add up, too few rows, a column that is missing, or two of stratify and time
            together.
    """
    _check(shares, len(rows), stratify, time)
    bundles = _bundles(rows, group, threshold)
    if time is not None:
        return _by_time(rows, bundles, shares, time)
    strata: dict[str, list[list[int]]] = defaultdict(list)
    for bundle in bundles:
        labels = Counter(to_json(_column(rows[i], stratify)) for i in bundle) if stratify is not None else Counter([""])
        strata[min(labels, key=lambda label: (-labels[label], label))].append(bundle)
    parts: dict[str, list[int]] = {name: [] for name in shares}
    for label in sorted(strata):
        _deal(strata[label], shares, f"{seed}:{label}", parts)
    _fill_empty(parts, bundles)
    return {name: [rows[i] for i in sorted(places)] for name, places in parts.items()}


def places_held_out(leader: Sequence[int], *, share: float, seed: int) -> list[int]:
    """Places of the texts that `split` with these shares puts into `validation`.

    Args:
        leader: the place of the first text of each text's group, as near.groups gives it.

    Raises:
        UserError: there are too few.
    """
    shares = {"train": 1 - share, "validation": share}
    if len(leader) < 2:
        raise UserError(f"validation: {share} needs at least 2 rows to split, and there is {len(leader)}; give a file")
    bundles: dict[int, list[int]] = defaultdict(list)
    for place, first in enumerate(leader):
        bundles[first].append(place)
    parts: dict[str, list[int]] = {name: [] for name in shares}
    _deal(list(bundles.values()), shares, f"{seed}:", parts)
    _fill_empty(parts, list(bundles.values()))
    return sorted(parts["validation"])


def _check(shares: Mapping[str, float], num_rows: int, stratify: Any, time: Any) -> None:
    if not shares or any(share <= 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise UserError(f"the shares {dict(shares)} must be positive and add up to 1, not {sum(shares.values()):g}")
    if num_rows < len(shares):
        raise UserError(f"{num_rows} rows cannot fill {len(shares)} parts; give at least one row a part")
    if stratify is not None and time is not None:
        raise UserError("a split by time cannot be stratified; choose one of the two")


def _bundles(rows: Sequence[Any], group: Any, threshold: float) -> list[list[int]]:
    """Places of rows that must stay together, in order of their first."""
    leader = groups((text_of(row) for row in rows), threshold=threshold)
    ties = [*enumerate(leader), *_twins(rows)]
    if group is not None:
        first: dict[str, int] = {}
        for place, row in enumerate(rows):
            ties.append((place, first.setdefault(to_json(_column(row, group)), place)))
    merged = list(range(len(rows)))

    def root(place: int) -> int:
        while merged[place] != place:
            merged[place] = merged[merged[place]]
            place = merged[place]
        return place

    for pair in ties:
        one, other = sorted(map(root, pair))
        merged[other] = one
    bundles: dict[int, list[int]] = defaultdict(list)
    for place in range(len(rows)):
        bundles[root(place)].append(place)
    return list(bundles.values())


def _twins(rows: Sequence[Any]) -> list[tuple[int, int]]:
    """Places of documents that are one text in two files."""
    places = [place for place, row in enumerate(rows) if isinstance(row, Document)]
    pairs = same_texts([rows[place].text for place in places], [rows[place].where.file for place in places])
    return [(places[one], places[other]) for one, other in pairs]


def _deal(bundles: list[list[int]], shares: Mapping[str, float], seed: str, parts: dict[str, list[int]]) -> None:
    """Deal bundles in a seeded order, largest first, each to the part that is furthest below its share."""

    def draw(bundle: list[int]) -> str:
        return hashlib.sha256(f"{seed}:{bundle[0]}".encode()).hexdigest()

    total = sum(map(len, bundles))
    given = dict.fromkeys(shares, 0)
    for bundle in sorted(bundles, key=lambda bundle: (-len(bundle), draw(bundle))):
        name = max(shares, key=lambda name: shares[name] * total - given[name])
        given[name] += len(bundle)
        parts[name] += bundle


def _fill_empty(parts: dict[str, list[int]], bundles: list[list[int]]) -> None:
    empty = [name for name, places in parts.items() if not places]
    if empty:
        raise UserError(
            f"the part {empty[0]!r} stays empty: the rows fall into {len(bundles)} groups of near-equal rows; "
            "give more rows, or a larger share"
        )


def _by_time(
    rows: Sequence[Any], bundles: list[list[int]], shares: Mapping[str, float], time: Any
) -> dict[str, list[Any]]:
    moments = [_column(row, time) for row in rows]
    kinds = {type(moment) if not isinstance(moment, int) else float for moment in moments}
    if len(kinds) > 1 or None in moments:
        raise UserError(
            f"the column {time!r} mixes {', '.join(sorted(k.__name__ for k in kinds))}; give one kind of time"
        )
    names = list(shares)
    bounds, filled = [], 0.0
    for name in names:
        filled += shares[name]
        bounds.append(round(filled * len(rows)))
    order = sorted(range(len(rows)), key=lambda i: (moments[i], i))
    part = {}
    for rank, place in enumerate(order):
        part[place] = next(n for n, bound in enumerate(bounds) if rank < bound or n == len(names) - 1)
    for bundle in bundles:
        earliest = min(part[place] for place in bundle)
        part.update(dict.fromkeys(bundle, earliest))
    parts: dict[str, list[int]] = {name: [] for name in names}
    for place in range(len(rows)):
        parts[names[part[place]]].append(place)
    _fill_empty(parts, bundles)
    return {name: [rows[i] for i in places] for name, places in parts.items()}


def split_file(
    path: str | Path,
    *,
    shares: Mapping[str, float] = SHARES,
    seed: int = 0,
    out: str | Path,
    group: str | None = None,
    stratify: str | None = None,
    time: str | None = None,
) -> dict[str, Any]:
    """Split a file's records into `out`/<part>.jsonl; returns counts and paths.

    Raises:
        UserError: a record that cannot be read (named), or as `split`.
    """
    records = []
    for where, record in read(path):
        if isinstance(record, Problem):
            raise UserError(f"{record}; mend it before splitting")
        records.append(Document(text=text_of(record), where=where, meta=record))
    parts = split(records, seed=seed, shares=shares, group=group, stratify=stratify, time=time)
    folder = Path(out)
    stale = sorted(file.name for file in folder.glob("*.jsonl") if file.stem not in parts)
    if stale:
        raise UserError(
            f"{folder} holds {stale[0]} of another split, which would overlap with this one: name another --out"
        )
    written = {}
    for name, rows in parts.items():
        file = folder / f"{name}.jsonl"
        atomic_write(file, "".join(to_json(row.meta) + "\n" for row in rows))
        written[name] = {"path": str(file), "rows": len(rows), "share": round(len(rows) / len(records), 4)}
    return {"file": str(path), "rows": len(records), "seed": seed, "parts": written}
