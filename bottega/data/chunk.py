"""Documents to chunks of a bounded size that tile the text, each with the headings it stands under.

Left out: overlap between chunks, chunking by meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from bottega.core.errors import UserError

_HEADING = re.compile(r"(#{1,6})[ \t]+(.+?)[ \t#]*$")
_FENCE = re.compile(r"[ \t]{0,3}(`{3,}|~{3,})")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A stretch text[start:end] of a document; `headings` are those above it, from the outermost in."""

    text: str
    start: int
    end: int
    headings: tuple[str, ...] = ()

    def titled(self) -> str:
        """The chunk with its headings in front: 'Guide > Setup\\n\\ntext'."""
        return " > ".join(self.headings) + "\n\n" + self.text.strip() if self.headings else self.text.strip()


class _Atom(NamedTuple):
    """What is never cut: a code fence, a table row, a heading, a sentence or a word."""

    text: str
    heading: bool
    headings: tuple[str, ...]


def chunk(text: str, *, size: int, measure: Callable[[str], int] = len) -> list[Chunk]:
    """Chunks of at most `size`, cut between paragraphs, lines, sentences or words, whichever comes first.

    Together the chunks are the text, character for character. A table row or a code fence is never cut: one that is
    longer than `size` is a chunk of its own. A chunk does not end with a heading, unless what follows leaves no room
    for it.

    Args:
        size: the most that `measure` may say of a chunk, at least 1; characters by default.
        measure: the size of a text; of two texts together at most the sum (characters, words or tokens).

    Raises:
        UserError: a size below 1.
    """
    if size < 1:
        raise UserError(f"a chunk size of {size} holds nothing; give at least 1")
    chunks: list[Chunk] = []
    held: list[_Atom] = []
    filled = 0
    for atom in _atoms(text, size, measure):
        weight = measure(atom.text)
        if held and (filled + weight > size or (atom.heading and filled > size / 2)):
            tail = _last_headings(held)
            if sum(measure(one.text) for one in tail) + weight > size:
                tail = []
            chunks.append(_closed(held[: len(held) - len(tail)], chunks[-1].end if chunks else 0))
            held, filled = tail, sum(measure(one.text) for one in tail)
        held.append(atom)
        filled += weight
    return [*chunks, _closed(held, chunks[-1].end if chunks else 0)] if held else chunks


def _last_headings(atoms: list[_Atom]) -> list[_Atom]:
    """The headings (and empty lines) at the end, which belong to what follows; none when there is nothing else."""
    kept = len(atoms)
    while kept and (atoms[kept - 1].heading or not atoms[kept - 1].text.strip()):
        kept -= 1
    tail = atoms[kept:] if kept else []
    return tail if any(atom.heading for atom in tail) else []


def _closed(atoms: list[_Atom], start: int) -> Chunk:
    """A chunk under the headings of its first line of text."""
    body = "".join(atom.text for atom in atoms)
    first = next((atom for atom in atoms if atom.text.strip() and not atom.heading), atoms[0])
    return Chunk(text=body, start=start, end=start + len(body), headings=first.headings)


def _atoms(text: str, size: int, measure: Callable[[str], int]) -> Iterator[_Atom]:
    path: list[tuple[int, str]] = []
    for block in _blocks(text):
        match = _HEADING.match(block.rstrip("\n")) if "\n" not in block.rstrip("\n") else None
        if match:
            level = len(match[1])
            path = [(depth, name) for depth, name in path if depth < level] + [(level, match[2])]
        titles = tuple(name for _, name in path)
        if match or _FENCE.match(block) or block.lstrip().startswith("|") or measure(block) <= size:
            yield _Atom(block, bool(match), titles)
        else:
            yield from (_Atom(piece, False, titles) for piece in _pieces(block, size, measure))


def _blocks(text: str) -> Iterator[str]:
    """Lines with their ends, a whole code fence as one."""
    fence = ""
    held: list[str] = []
    for line in text.splitlines(keepends=True):
        if fence:
            held.append(line)
            match = _FENCE.match(line)
            if match and match[1].startswith(fence) and not line.strip().strip(fence[0]):
                yield "".join(held)
                fence, held = "", []
        elif match := _FENCE.match(line):
            fence, held = match[1], [line]
        else:
            yield line
    if held:
        yield "".join(held)


def _pieces(line: str, size: int, measure: Callable[[str], int]) -> Iterator[str]:
    """A line in pieces of at most `size`: sentences, else words, else characters."""
    for sentence in _split_after(_SENTENCE, line):
        if measure(sentence) <= size:
            yield sentence
            continue
        for word in _split_after(re.compile(r"\s+"), sentence):
            if measure(word) <= size:
                yield word
                continue
            while word:
                cut = max(1, min(len(word), size))
                while cut > 1 and measure(word[:cut]) > size:
                    cut //= 2
                yield word[:cut]
                word = word[cut:]


def _split_after(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    """Pieces that tile the text, each with the white space behind it."""
    at = 0
    for match in pattern.finditer(text):
        if match.end() > at:
            yield text[at : match.end()]
            at = match.end()
    if at < len(text):
        yield text[at:]
