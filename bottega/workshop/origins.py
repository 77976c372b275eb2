"""Whose leaves a stage's rows come from: rows that `bottega synth` made say so, and the model's card sums them up.

Left out: rows of other files, which say nothing of their origin.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bottega.data.remote import is_remote
from bottega.data.sources import find
from bottega.workshop.recipe import Part


def origins(parts: Sequence[Part]) -> dict[str, Any]:
    """{"origins": [{leaf, contributor, licences, rows}]} of what a stage learns from, as its files say; {} where they say nothing."""
    found: Counter[tuple[str, str, tuple[str, ...]]] = Counter()
    for part in parts:
        if is_remote(part.path) or not Path(part.path).exists():
            continue
        for path in find([Path(part.path)]):
            if path.suffix == ".jsonl":
                found.update(_of(path))
    made_of = [
        {"leaf": leaf, "contributor": who, "licences": list(licences), "rows": rows}
        for (leaf, who, licences), rows in sorted(found.items())
    ]
    return {"origins": made_of} if made_of else {}


def _of(path: Path) -> Iterable[tuple[str, str, tuple[str, ...]]]:
    """One entry a row; a file whose first row names no leaf is not read on."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines):
            about = _metadata(line)
            if about is None:
                if number == 0:
                    return
                continue
            licences = about.get("licences")
            named = tuple(str(one) for one in licences) if isinstance(licences, list) else ()
            yield str(about["leaf"]), str(about.get("contributor", "")), named


def _metadata(line: str) -> Mapping[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    about = row.get("metadata") if isinstance(row, dict) else None
    return about if isinstance(about, dict) and about.get("leaf") else None
