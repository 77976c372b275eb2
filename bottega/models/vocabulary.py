"""A tokenizer that learns more tokens: byte-pair training goes on from the pieces it has, so that no old piece is lost.

Left out: tokenizers without a word splitter, and kinds other than BPE and unigram. A new token is a pair of older ones, merged
after all older merges: taking the new tokens of any text apart again gives the ids it had before.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bottega.core.errors import UserError

EDGE = 1e-3
"""What a new unigram piece gains over its parts' scores: enough to win where its parts were the best, nowhere else."""
LEAST = 2
"""A pair that occurs less often is no token."""
Pair = tuple[str, str]


def grow(
    tokenizer: Any, texts: Iterable[str], *, add: int, keep: Iterable[str] = (), folder: str | Path
) -> list[tuple[str, list[int]]]:
    """Add tokens learned from `texts` to `tokenizer` and save it in `folder`.

    Args:
        add: tokens wanted; texts with fewer repeated pairs give fewer. keep: texts that must go on encoding exactly as they did.

    Returns:
        (token, ids of the old tokens it is made of) in the order of the new ids, which follow all old ones.

    Raises:
        UserError: a kind of tokenizer that cannot learn so, or no text.
    """
    core = tokenizer.backend_tokenizer
    kind = json.loads(core.to_str())["model"]["type"]
    if kind not in ("BPE", "Unigram") or core.pre_tokenizer is None:
        raise UserError(
            f"a {kind} tokenizer{'' if core.pre_tokenizer else ' without a word splitter'} cannot learn more tokens; use BPE or unigram"
        )
    known = tokenizer.get_vocab()
    words = _split_words(core, texts)
    if not words:
        raise UserError("there is no text to learn tokens from; check the paths")
    forbidden = {pair for word in _split_words(core, keep) for pair in zip(word, word[1:])}
    merges = _learn(words, add, forbidden, set(known))
    parts: dict[str, list[str]] = {}
    for left, right in merges:
        parts[left + right] = parts.get(left, [left]) + parts.get(right, [right])
    tokenizer.save_pretrained(str(folder))
    _write(Path(folder) / "tokenizer.json", kind, merges, parts, first=len(tokenizer))
    return [(token, [known[part] for part in made_of]) for token, made_of in parts.items()]


def _split_words(core: Any, texts: Iterable[str]) -> Counter[tuple[str, ...]]:
    """Words as the tokenizer splits them, each as its tokens, with their counts."""
    plain: Counter[str] = Counter()
    for text in texts:
        normal = core.normalizer.normalize_str(text) if core.normalizer is not None else text
        plain.update(word for word, _ in core.pre_tokenizer.pre_tokenize_str(normal))
    words: Counter[tuple[str, ...]] = Counter()
    for word, count in plain.items():
        words[tuple(token.value for token in core.model.tokenize(word))] += count
    return words


def _learn(words: Counter[tuple[str, ...]], add: int, forbidden: set[Pair], taken: set[str]) -> list[Pair]:
    """The most frequent pairs, merged one after the other; ties go by the pair's text."""
    split = [list(word) for word in words]
    counts = list(words.values())
    totals: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for number, word in enumerate(split):
        for pair in zip(word, word[1:]):
            totals[pair] += counts[number]
            where[pair].add(number)
    heap = [(-total, pair) for pair, total in totals.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < add:
        total, pair = heapq.heappop(heap)
        if -total != totals[pair]:
            if totals[pair] >= LEAST:
                heapq.heappush(heap, (-totals[pair], pair))
            continue
        if -total < LEAST:
            break
        if pair in forbidden or "".join(pair) in taken:
            continue
        merges.append(pair)
        taken.add("".join(pair))
        touched: set[Pair] = set()
        for number in sorted(where[pair]):
            old, new = split[number], _merged(split[number], pair)
            for one in zip(old, old[1:]):
                totals[one] -= counts[number]
            for one in zip(new, new[1:]):
                totals[one] += counts[number]
                where[one].add(number)
                touched.add(one)
            split[number] = new
        for one in sorted(touched):
            heapq.heappush(heap, (-totals[one], one))
    return merges


def _merged(word: Sequence[str], pair: Pair) -> list[str]:
    """The word with every occurrence of the pair joined, from the left."""
    out: list[str] = []
    at = 0
    while at < len(word):
        joined = tuple(word[at : at + 2]) == pair
        out.append("".join(pair) if joined else word[at])
        at += 2 if joined else 1
    return out


def _write(path: Path, kind: str, merges: Sequence[Pair], parts: dict[str, list[str]], *, first: int) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    model = data["model"]
    if kind == "BPE":
        model["vocab"] |= {left + right: first + i for i, (left, right) in enumerate(merges)}
        as_text = bool(model["merges"]) and isinstance(model["merges"][0], str)
        model["merges"] += [f"{left} {right}" if as_text else [left, right] for left, right in merges]
    else:
        if len(model["vocab"]) != first:
            raise UserError(
                "this unigram tokenizer has tokens added behind its pieces, so that new pieces have no place"
            )
        scores = dict(model["vocab"])
        for token, made_of in parts.items():
            model["vocab"].append([token, sum(scores[part] for part in made_of) + EDGE * (len(made_of) - 1)])
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def start_at_parts(model: Any, new: Sequence[tuple[str, list[int]]], first: int) -> None:
    """Embeddings of new tokens, from id `first` on, at the mean of what they are made of; head rows likewise."""
    import torch

    from bottega.models import layers

    matrices = [model.get_input_embeddings().weight]
    if not layers.is_tied(model) and model.get_output_embeddings() is not None:
        matrices.append(model.get_output_embeddings().weight)
    with torch.no_grad():
        for matrix in matrices:
            for number, (_, made_of) in enumerate(new):
                matrix[first + number] = matrix[made_of].float().mean(0).to(matrix.dtype)


def texts_of(samples: Iterable[Any]) -> Iterator[str]:
    """What a tokenizer reads of samples: documents as they are, what people and models say in the others."""
    for sample in samples:
        if hasattr(sample, "text"):
            yield sample.text
        for turns in ("turns", "prompt", "chosen", "rejected"):
            yield from (turn.content for turn in getattr(sample, turns, ()))
