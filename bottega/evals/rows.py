"""The records of a benchmark's files: all of them, or none.

Left out: what their columns mean (tasks.py, harness.py, mt_bench.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bottega.core.errors import UserError
from bottega.core.types import Where
from bottega.data import sources


def located(files: Sequence[str]) -> Iterator[tuple[Where, dict[str, Any]]]:
    """Each record with its place.

    Raises:
        UserError: a row that cannot be read: a score of the others would be another benchmark's.
    """
    for where, record in sources.read(files):
        if isinstance(record, sources.Problem):
            raise UserError(f"{record}: correct the row, a benchmark is read whole")
        yield where, record


def records(files: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The same without their places."""
    return (record for _, record in located(files))
