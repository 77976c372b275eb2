"""Sums of a step turned into the numbers people read, and the log they go to.

Left out: how a file of lines survives (core/rundir.py) and pictures (workshop/report.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bottega.core.rundir import JsonLines, append_jsonl


class NoLines:
    """In the place of a log that another process writes."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def __enter__(self) -> NoLines:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def log_to(path: Path, writes: bool) -> JsonLines | NoLines:
    """The log at `path`, or nothing where this process is not the one that writes."""
    return append_jsonl(path) if writes else NoLines()


def averages(sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
    """`loss/tokens` divided by the number of tokens is `loss`; a name without a unit stays a sum.

    >>> averages({"loss/tokens": 6.0, "skipped": 1.0}, {"tokens": 3.0})
    {'loss': 2.0, 'skipped': 1.0}
    """
    result = {}
    for name, value in sums.items():
        short, _, unit = name.partition("/")
        result[short] = value / max(counts[unit], 1e-12) if unit else value
    return result
