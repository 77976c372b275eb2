"""Which texts are the same or nearly: shingles, MinHash bands to find candidates, Jaccard to decide.

Left out: similarity of meaning. (Broder 1997, "On the resemblance and containment of documents": resemblance is the
    share of common shingles, and the chance that two sets have the same minimum under a random order.)
"""

from __future__ import annotations

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np

THRESHOLD = 0.8
SAME_TEXT = 0.5
MANY = 20
SHINGLE = 5
HASHES = 128
BAND = 4
_PRIME = np.uint64((1 << 31) - 1)
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


def signatures(sets: Sequence[frozenset[int]], *, seed: int = 0) -> np.ndarray:
    """MinHash signatures, (len(sets), 128) uint64: the chance that two agree in a place is their Jaccard similarity."""
    random = np.random.default_rng(seed)
    factors = random.integers(1, int(_PRIME), HASHES, dtype=np.uint64)
    shifts = random.integers(0, int(_PRIME), HASHES, dtype=np.uint64)
    table = np.empty((len(sets), HASHES), np.uint64)
    for place, one in enumerate(sets):
        # 31 bits times 31 bits stays below 2**62, so nothing overflows
        values = np.fromiter(one, np.uint64, len(one)) % _PRIME
        table[place] = ((values[:, None] * factors + shifts) % _PRIME).min(axis=0)
    return table


def groups(texts: Iterable[str], *, threshold: float = THRESHOLD, seed: int = 0) -> list[int]:
    """For each text the place of the first text of its group; equal and near-equal texts share one.

    Two texts are near when the Jaccard similarity of their shingles is at least `threshold`; groups are chains of
    near texts. Bands of 4 of 128 hashes miss a pair of similarity 0.8 with a chance below 1e-7.

    Args:
        threshold: in (0, 1]; 1 finds texts with equal words only.
    """
    listed = list(texts)
    parent = list(range(len(listed)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    def join(one: int, other: int) -> None:
        one, other = sorted((root(one), root(other)))
        parent[other] = one

    first: dict[str, int] = {}
    for place, text in enumerate(listed):
        same = " ".join(words_of(text)) or text
        join(first.setdefault(same, place), place)
    if threshold < 1:
        distinct = sorted(first.values())
        sets = [shingles(listed[place]) for place in distinct]
        for one, other in candidates(signatures(sets, seed=seed)):
            pair = distinct[one], distinct[other]
            if root(pair[0]) != root(pair[1]) and jaccard(sets[one], sets[other]) >= threshold:
                join(*pair)
    return [root(place) for place in range(len(listed))]


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


def candidates(table: np.ndarray) -> Iterable[tuple[int, int]]:
    """Pairs of rows (of `signatures`) that agree in a whole band; a row meets the first and last few of a bucket."""
    for start in range(0, HASHES, BAND):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for place, row in enumerate(table[:, start : start + BAND]):
            bucket = buckets[row.tobytes()]
            yield from ((earlier, place) for earlier in [*bucket[:4], *bucket[4:][-8:]])
            bucket.append(place)
