"""What must not be learned: held-out seeds and evaluation sets. Rows that hold them go; what else overlaps is measured.

Left out: paraphrases. Words are compared in lower case without punctuation, by runs of 13 (Brown et al. 2020, appendix C);
a shorter item of at least 4 words counts as one run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bottega.data.near import run_hashes, words_of
from bottega.synth.blocks import Block, Context, Stream, text_of

RUN, LEAST = 13, 4
OVERLAP = 8


class Known:
    """Runs of words of texts, by their length."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._runs: dict[int, set[int]] = {}
        self.texts = self.short = 0
        for text in texts:
            words = words_of(text)
            size = min(RUN, len(words))
            if size < LEAST:
                self.short += 1
                continue
            self.texts += 1
            self._runs.setdefault(size, set()).update(run_hashes(words, size=size))

    def found_in(self, text: str) -> bool:
        """Whether one of the runs stands in a text."""
        words = words_of(text)
        return any(
            not known.isdisjoint(run_hashes(words, size=size))
            for size, known in self._runs.items()
            if len(words) >= size
        )


def contamination(sets: dict[str, Known], columns: Sequence[str]) -> Block:
    """Reject rows in which something of a held-out set stands: the last stage of every flow."""

    async def block(rows: Stream, context: Context) -> Stream:
        async for row in rows:
            text = "\n".join(text_of(row.get(name)) for name in columns)
            guilty = next((name for name, known in sets.items() if known.found_in(text)), "")
            if guilty:
                context.reject(row, f"contaminated: {guilty}")
            else:
                yield row

    return block


def overlap(text: str, known: frozenset[int], *, size: int) -> float:
    """The share of a text's runs of `size` words that are among the known ones; 0 for a shorter text."""
    words = words_of(text)
    if len(words) < size:
        return 0.0
    runs = run_hashes(words, size=size)
    return sum(run in known for run in runs) / len(runs)


def runs(texts: Iterable[str], *, size: int) -> frozenset[int]:
    """The runs of `size` words of some texts."""
    return frozenset(
        run for text in texts if len(words := words_of(text)) >= size for run in run_hashes(words, size=size)
    )
