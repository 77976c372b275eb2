"""Sums of a step turned into the numbers people read.

Left out: the file they are kept in (core/rundir.py) and pictures (workshop/report.py).
"""

from __future__ import annotations

from collections.abc import Mapping


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
