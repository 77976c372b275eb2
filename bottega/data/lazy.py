"""Places in a sequence whose rows are made when asked for: what a list's square brackets do with an index or a slice.

Left out: the sequences themselves (shards.py, blocks.py, mix.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def picked(index: int | slice, size: int, read: Callable[[int], T]) -> Any:
    """`read(place)` for an index into `size` rows, a list of them for a slice.

    >>> picked(-1, 3, str), picked(slice(0, 2), 3, str)
    ('2', ['0', '1'])

    Raises:
        IndexError: there is no such place.
    """
    if isinstance(index, slice):
        return [read(i) for i in range(*index.indices(size))]
    place = index + size if index < 0 else index
    if not 0 <= place < size:
        raise IndexError(index)
    return read(place)
