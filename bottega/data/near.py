"""Which texts are the same or nearly: shingles, MinHash bands to find candidates, Jaccard to decide.

Left out: similarity of meaning. Shingles and signatures lie in temporary files and bands are compared one at a time, so
memory holds about 60 bytes a text, however long the texts are. Source: Broder 1997, "On the resemblance and containment of
documents": resemblance is the share of common shingles, and the chance that two sets have the same minimum under a random
order.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np

from bottega.core.rundir import disk_errors

THRESHOLD = 0.8
SAME_TEXT = 0.5
MANY = 20
SHINGLE = 5
HASHES = 128
BAND = 4
_PRIME = np.uint64((1 << 31) - 1)
_BITS = np.uint64(31)
_MIX = np.uint64(0x9E3779B97F4A7C15)
CHUNK = 4096
"""Shingles hashed at a time: 4 MB for each of a few temporaries."""
_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Words in lower case, without punctuation: what is compared."""
    return _WORD.findall(text.lower())


def shingles(text: str, *, size: int = SHINGLE) -> frozenset[int]:
    """Hashes (32 bits) of each run of `size` words; a shorter text is one shingle of all its words.

    'to be or not to be', size 5 -> {to be or not to, be or not to be}
    """
    return frozenset(run_hashes(words_of(text), size=size))


def run_hashes(words: Sequence[str], *, size: int = SHINGLE) -> list[int]:
    """The hash of the run that begins at each word, in order; fewer words than `size` make one run."""
    runs = (words[i : i + size] for i in range(max(1, len(words) - size + 1)))
    return [zlib.crc32(" ".join(run).encode()) for run in runs]


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    """|A and B| / |A or B|, in [0, 1]; 1 for two empty sets."""
    both = len(one | other)
    return len(one & other) / both if both else 1.0


def coefficients(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors and shifts of the 128 hash functions h(x) = (a x + b) mod (2**31 - 1), (128,) uint64 each."""
    random = np.random.default_rng(seed)
    factors = random.integers(1, int(_PRIME), HASHES, dtype=np.uint64)
    return factors, random.integers(0, int(_PRIME), HASHES, dtype=np.uint64)


def signature(values: np.ndarray, factors: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """The least value of each hash function over a set of shingles (uint64, at least one): (128,) uint64."""
    least = np.full(HASHES, _PRIME, np.uint64)
    for start in range(0, len(values), CHUNK):
        part = values[start : start + CHUNK, None] % _PRIME
        # 31 bits times 31 bits stays below 2**62; x mod (2**31 - 1) is the sum of x's pieces of 31 bits, folded twice
        hashed = part * factors + shifts
        hashed = (hashed & _PRIME) + (hashed >> _BITS)
        hashed = (hashed & _PRIME) + (hashed >> _BITS)
        least = np.minimum(least, hashed.min(axis=0))
    return least


def signatures(sets: Sequence[frozenset[int]], *, seed: int = 0) -> np.ndarray:
    """MinHash signatures, (len(sets), 128) uint64: the chance that two agree in a place is their Jaccard similarity."""
    factors, shifts = coefficients(seed)
    table = [signature(np.fromiter(one, np.uint64, len(one)), factors, shifts) for one in sets]
    return np.stack(table) if table else np.empty((0, HASHES), np.uint64)


class Index:
    """Texts added one after another; `leaders` then says which belong together. Use it in a `with`."""

    def __init__(self, *, threshold: float = THRESHOLD, seed: int = 0) -> None:
        self.threshold = threshold
        self._factors, self._shifts = coefficients(seed)
        self._equal, self._ends = array("Q"), array("Q", [0])
        self._signatures, self._shingles = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self._signatures.close()
        self._shingles.close()

    def add(self, text: str) -> None:
        """One more text."""
        words = words_of(text) or [text.encode("ascii", "backslashreplace").decode()]  # `?` and `!` are not alike
        digest = hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest()
        self._equal.append(int.from_bytes(digest))
        if self.threshold >= 1:
            return
        found = set(run_hashes(words))
        values = np.sort(np.fromiter(found, np.uint32, len(found)))
        self._ends.append(self._ends[-1] + len(values))
        with disk_errors(tempfile.gettempdir()):
            self._shingles.write(values.tobytes())
            row = signature(values.astype(np.uint64), self._factors, self._shifts)
            self._signatures.write(row.astype(np.uint32).tobytes())

    def leaders(self) -> array[int]:
        """For each text the place of the first text of its group."""
        parent = array("q", range(len(self._equal)))

        def root(place: int) -> int:
            while parent[place] != place:
                parent[place] = parent[parent[place]]
                place = parent[place]
            return place

        if not parent:
            return parent
        equal = np.frombuffer(self._equal, np.uint64)
        _, first, which = np.unique(equal, return_index=True, return_inverse=True)
        for place, leader in enumerate(first[which]):
            parent[place] = int(leader)
        distinct = np.sort(first)
        if self.threshold < 1 and len(distinct) > 1:
            with disk_errors(tempfile.gettempdir()):
                self._signatures.flush()
                self._shingles.flush()
            table = np.memmap(self._signatures, np.uint32, "r", shape=(len(self._equal), HASHES))
            sets = np.memmap(self._shingles, np.uint32, "r", shape=(self._ends[-1],))
            for earlier, later in candidates(table, distinct):
                one, other = root(earlier), root(later)
                if one != other and self._jaccard(sets, earlier, later) >= self.threshold:
                    parent[max(one, other)] = min(one, other)
        for place in range(len(parent)):
            parent[place] = root(place)
        return parent

    def _jaccard(self, sets: np.ndarray, one: int, other: int) -> float:
        a, b = (sets[self._ends[i] : self._ends[i + 1]] for i in (one, other))
        common = len(np.intersect1d(a, b, assume_unique=True))
        return common / (len(a) + len(b) - common)


def groups(texts: Iterable[str], *, threshold: float = THRESHOLD, seed: int = 0) -> list[int]:
    """For each text the place of the first text of its group; equal and near-equal texts share one.

    Two texts are near when the Jaccard similarity of their shingles is at least `threshold`; groups are chains of
    near texts. Bands of 4 of 128 hashes miss a pair of similarity 0.8 with a chance below 1e-7.

    Args:
        threshold: in (0, 1]; 1 finds texts with equal words only.
    """
    with Index(threshold=threshold, seed=seed) as index:
        for text in texts:
            index.add(text)
        return list(index.leaders())


def same_texts(texts: Sequence[str], files: Sequence[str], *, share: float = SAME_TEXT) -> list[tuple[int, int]]:
    """Pairs of texts of different files that are one text: a md and its pdf, whose words differ by notes and headers.

    |A and B| / max(|A|, |B|) >= share, over five-word runs: Broder's containment of the longer text in the shorter. An
    excerpt is no pair with its whole, so that a licence in every file does not tie them together.

    Args:
        files: the file of each text; two texts of one file are never a pair. share: in (0, 1].

    Returns: pairs of places, the smaller first. Runs that lie in more than 20 texts count in the first 20 alone.
    """
    if len(set(files)) < 2:
        return []
    sets = [shingles(text) for text in texts]
    sizes = [len(one) for one in sets]
    hashes = np.concatenate([np.fromiter(one, np.uint32, len(one)) for one in sets])
    owners = np.repeat(np.arange(len(sets)), sizes)
    order = np.lexsort((owners, hashes))
    hashes, owners = hashes[order], owners[order]
    starts = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))
    common: Counter[tuple[int, int]] = Counter()
    for start, end in zip(starts, [*starts[1:], len(hashes)]):
        if end - start > 1:
            common.update(combinations(owners[start : min(end, start + MANY)].tolist(), 2))
    pairs = ((pair, count / max(sizes[pair[0]], sizes[pair[1]])) for pair, count in sorted(common.items()))
    return [pair for pair, found in pairs if found >= share and files[pair[0]] != files[pair[1]]]


def candidates(table: np.ndarray, places: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of `places` whose rows of `table` agree in a whole band; a row meets the first and last few of its bucket."""
    for start in range(0, HASHES, BAND):
        keys = table[places, start].astype(np.uint64)
        for column in range(
            start + 1, start + BAND
        ):  # one by one: with a million rows a band at once is what memory is used for
            keys = (
                (keys * _MIX) ^ (keys >> _BITS) ^ table[places, column]
            )  # wraps; an accidental equal key is only compared
        order = np.argsort(keys, kind="stable")
        edges = np.flatnonzero(np.diff(keys[order])) + 1
        bounds = np.concatenate(([0], edges, [len(order)]))
        for i in np.flatnonzero(np.diff(bounds) > 1):
            bucket = places[order[bounds[i] : bounds[i + 1]]].tolist()
            for rank, place in enumerate(bucket):
                met = [*bucket[: min(rank, 4)], *bucket[max(4, rank - 8) : rank]]
                yield from ((earlier, place) for earlier in met)
