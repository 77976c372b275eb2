"""Which rows a run holds, as a sorted file of 8-byte hashes; and leaving rows out of a file because they must be erased.

Left out: where runs lie (the workshop). A hash does not give its text back, but whoever holds the file can test a guess: it is as
confidential as the run.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from bottega.core.rundir import atomic_write
from bottega.core.types import Sample
from bottega.data.clean.account import Account, Item
from bottega.data.formats import samples
from bottega.data.pieces import keys, row_key, text_key, texts
from bottega.data.sources import Problem

_HASH = re.compile(r"[0-9a-f]{16}")


class Keys:
    """The hashes of rows and of their texts, gathered one row after another."""

    def __init__(self) -> None:
        self._found = array("Q")

    def add(self, sample: Sample, origin: bytes = b"") -> None:
        """One more row, and the hash that it had before a step rewrote it."""
        self._found.extend(int.from_bytes(key) for key in keys(sample))
        if origin:
            self._found.append(int.from_bytes(origin))

    def write(self, path: Path) -> None:
        """Write them: little-endian numbers of 8 bytes, sorted, each once."""
        found = np.unique(np.frombuffer(self._found, np.uint64)) if self._found else np.empty(0, np.uint64)
        atomic_write(path, found.astype("<u8").tobytes())


def holds(path: Path, wanted: Iterable[bytes]) -> list[bytes]:
    """Those of the hashes that a file of `Keys` holds, by binary search."""
    size = path.stat().st_size // 8
    if not size:
        return []
    table = np.memmap(path, "<u8", "r", shape=(size,))
    found = []
    for key in wanted:
        number = np.uint64(int.from_bytes(key))
        place = int(np.searchsorted(table, number))
        if place < size and table[place] == number:
            found.append(key)
    return found


class erase:
    """Leave out the rows that are named: by their hash, by a file of rows, or by a text that they hold.

    `keys` are the hashes to look for in runs: those that were given, and those of every row that was left out.
    """

    def __init__(self, named: Iterable[str]) -> None:
        """
        Args:
            named: 16 hex digits, a data file, or a text.

        Raises:
            UserError: a file of rows that cannot be read.
        """
        self.keys: dict[bytes, str] = {}
        self._rows: set[bytes] = set()
        self._texts: list[str] = []
        for one in named:
            if _HASH.fullmatch(one):
                self._rows.add(bytes.fromhex(one))
            elif Path(one).is_file():
                self._rows.update(row_key(sample) for sample in samples(one) if not isinstance(sample, Problem))
            else:
                self._texts.append(" ".join(one.split()))
                self.keys[text_key(one)] = "the text"
        self.keys |= dict.fromkeys(sorted(self._rows), "a row that was named")

    def __call__(self, items: Iterator[Item], account: Account) -> Iterator[Item]:
        for item in items:
            key = row_key(item.sample)
            folded = [" ".join(text.split()) for text in texts(item.sample)] if self._texts else ()
            if key in self._rows or any(one in text for text in folded for one in self._texts):
                self.keys[key] = str(item.sample.where)
                account.reject(item, "erased", detail=f"({key.hex()})")
            else:
                yield item
