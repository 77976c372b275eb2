"""A unigram vocabulary by expectation maximisation and pruning, in a fixed order, so that the same words give the same
pieces.

Left out: threads, and the digamma prior of SentencePiece. (Kudo 2018, arXiv 1804.10959, section 3.2.) It exists
because the tokenizers library sums over hash maps in random order: five runs of its trainer gave five sets of scores.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

MAX_PIECE = 16
MAX_WORD = 32
SHRINK = 0.75
SEEDS_PER_PIECE = 8
_FLOOR = 1e-12


def learn_pieces(words: Mapping[str, int], *, size: int, alphabet: Sequence[str]) -> list[tuple[str, float]]:
    """The `size` likeliest pieces for counted words, with log-probabilities.

    Every word is a mixture over its segmentations, p(word) = sum over segmentations of the product of p(piece).
    Starting from frequent substrings, p is fitted by expectation maximisation and the quarter of pieces whose loss
    would change the likelihood least is dropped, until `size` are left.

    Args:
        words: word -> count; longer ones than 32 characters are cut. size: pieces wanted, at least len(alphabet).
        alphabet: single characters that always stay, so that every word can be written.

    Returns:
        (piece, log p), likeliest first; the same for the same words, whatever their order.
    """
    assert size >= len(set(alphabet)), "the alphabet alone is larger than the vocabulary wanted"
    counted = _cut(words)
    singles = sorted(set(alphabet) | {character for word, _ in counted for character in word})
    chances = _seeds(counted, singles, SEEDS_PER_PIECE * size)
    while True:
        for _ in range(2):
            chances = _maximise(_expect(counted, chances), singles)
        if len(chances) <= size:
            break
        chances = _prune(counted, chances, set(singles), max(size, int(len(chances) * SHRINK)))
    return sorted(
        ((piece, math.log(chance)) for piece, chance in chances.items()), key=lambda pair: (-pair[1], pair[0])
    )


def count_words(split_texts: Iterable[Iterable[str]]) -> Counter[str]:
    """How often each word occurs."""
    counts: Counter[str] = Counter()
    for words in split_texts:
        counts.update(words)
    return counts


def _cut(words: Mapping[str, int]) -> list[tuple[str, int]]:
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for start in range(0, len(word), MAX_WORD):
            counts[word[start : start + MAX_WORD]] += count
    return sorted(counts.items())


def _seeds(counted: list[tuple[str, int]], singles: list[str], limit: int) -> dict[str, float]:
    """All single characters, and the substrings that cover most: count times length."""
    found: Counter[str] = Counter()
    characters: Counter[str] = Counter(dict.fromkeys(singles, 1))
    for word, count in counted:
        for start in range(len(word)):
            characters[word[start]] += count
            for end in range(start + 2, min(len(word), start + MAX_PIECE) + 1):
                found[word[start:end]] += count
    repeated = [(count * len(piece), piece) for piece, count in found.items() if count > 1]
    best = sorted(repeated, key=lambda pair: (-pair[0], pair[1]))[: max(0, limit - len(singles))]
    weights = {piece: float(characters[piece]) for piece in singles} | {piece: float(score) for score, piece in best}
    total = sum(weights.values())
    return {piece: weight / total for piece, weight in weights.items()}


def _expect(counted: list[tuple[str, int]], chances: dict[str, float]) -> dict[str, float]:
    """Expected count of each piece over all segmentations of all words (forward and backward sums)."""
    expected = dict.fromkeys(chances, 0.0)
    for word, count in counted:
        length = len(word)
        edges = [
            (start, end, chance)
            for start in range(length)
            for end in range(start + 1, min(length, start + MAX_PIECE) + 1)
            if (chance := chances.get(word[start:end])) is not None
        ]
        forward, backward = [1.0] + [0.0] * length, [0.0] * length + [1.0]
        for start, end, chance in edges:
            forward[end] += forward[start] * chance
        for start, end, chance in reversed(edges):
            backward[start] += backward[end] * chance
        scale = count / forward[length]
        for start, end, chance in edges:
            expected[word[start:end]] += forward[start] * chance * backward[end] * scale
    return expected


def _maximise(expected: dict[str, float], singles: list[str]) -> dict[str, float]:
    """Chances in proportion to expected counts; pieces used less than half a time go, single characters stay."""
    always = set(singles)
    kept = {piece: max(count, _FLOOR) for piece, count in expected.items() if count >= 0.5 or piece in always}
    total = sum(kept.values())
    return {piece: count / total for piece, count in kept.items()}


def _prune(counted: list[tuple[str, int]], chances: dict[str, float], always: set[str], size: int) -> dict[str, float]:
    """Keep single characters and the pieces whose absence would cost most: count * (log p - log p of the best other
    way).
    """
    expected = _expect(counted, chances)
    cost = {
        piece: expected[piece] * (math.log(chance) - _best_other_way(piece, chances))
        for piece, chance in chances.items()
        if piece not in always
    }
    best = sorted(cost, key=lambda piece: (-cost[piece], piece))[: max(0, size - len(always))]
    return {piece: chances[piece] for piece in [*sorted(always), *best]}


def _best_other_way(piece: str, chances: dict[str, float]) -> float:
    """log p of the likeliest segmentation of `piece` into at least two pieces."""
    best = [0.0] + [-math.inf] * len(piece)
    for end in range(1, len(piece) + 1):
        for start in range(end):
            if (start, end) != (0, len(piece)) and piece[start:end] in chances:
                best[end] = max(best[end], best[start] + math.log(chances[piece[start:end]]))
    return best[-1]
