"""Words of training texts that stand in held-out texts too, and their removal: a text that is given as two files.

Left out: paraphrases. (GPT-3, Brown et al. 2020, appendix C, takes 13-word overlaps with benchmarks out of its training
    text in the same way; here runs are shorter, for the texts are.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from bottega.data.near import SHINGLE, run_hashes, shingles, words_of

LEAST, GAP = 8, 5
"""The shortest stretch that counts as copied, and the longest gap of other words (a note's number, a unit written
another way) within one, in words. Shorter stretches are phrases that any two texts on a subject share."""
_WORD = re.compile(r"\w+")


class Cut(NamedTuple):
    """What is left of a text, and how many words were taken out in how many stretches."""

    pieces: list[str]
    words: int
    stretches: int


def without(text: str, held_out: frozenset[int]) -> Cut:
    """The text without the stretches of 8 words or more that stand in the held-out texts.

    held out 'a b c d e f g h', text 'x a b c d e f g h y z z z z' -> pieces ['y z z z z'], 8 words, 1 stretch: what is
    left over is a piece of its own, and 'x', shorter than a run of five words, goes too, uncounted.

    Args:
        held_out: five-word runs of the held-out texts (`runs_of`).
    """
    spans = [match.span() for match in _WORD.finditer(text)]
    stretches = _copied([text[start:end].lower() for start, end in spans], held_out)
    if not stretches:
        return Cut([text], 0, 0)
    edges = [0, *(place for first, last in stretches for place in (spans[first][0], spans[last][1])), len(text)]
    pieces = [text[start:end] for start, end in zip(edges[::2], edges[1::2])]
    kept = [piece.lstrip(" \t\n.,;:!?)]") for piece in pieces if len(words_of(piece)) >= SHINGLE]
    return Cut(kept, sum(last - first + 1 for first, last in stretches), len(stretches))


def _copied(words: list[str], held_out: frozenset[int]) -> list[tuple[int, int]]:
    """Stretches (first and last word) that held-out runs cover."""
    stretches: list[tuple[int, int]] = []
    for place, run in enumerate(run_hashes(words) if len(words) >= SHINGLE else ()):
        if run not in held_out:
            continue
        if stretches and place - stretches[-1][1] - 1 <= GAP:
            stretches[-1] = (stretches[-1][0], place + SHINGLE - 1)
        else:
            stretches.append((place, place + SHINGLE - 1))
    return [(first, last) for first, last in stretches if last - first + 1 >= LEAST]


def runs_of(texts: Iterable[str]) -> frozenset[int]:
    """The five-word runs of all the texts."""
    return frozenset().union(*(shingles(text) for text in texts))


def found_in(held_out: frozenset[int], texts: Iterable[str]) -> int:
    """How many of the held-out runs occur in the texts."""
    return len(held_out & runs_of(texts))
