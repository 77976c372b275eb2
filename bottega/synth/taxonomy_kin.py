"""Leaves that nearly say the same as one elsewhere, and seeds longer than the teacher's window.

Left out: likeness of meaning; near means a shared half of the five-word runs of questions and answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bottega.core.types import Leaf
from bottega.data.near import groups
from bottega.synth.taxonomy_yaml import Problem

NEAR = 0.5


def alike(leaves: Sequence[Leaf | None], *, threshold: float = NEAR) -> list[tuple[int, Problem]]:
    """For each leaf that is near an earlier one: its place, and a warning that names the other.

    Args:
        threshold: the least Jaccard similarity of five-word runs, in (0, 1].
    """
    places = [place for place, leaf in enumerate(leaves) if leaf is not None]
    if len(places) < 2:
        return []
    leaders = groups([_words(leaf) for leaf in leaves if leaf is not None], threshold=threshold)
    found = []
    for rank, leader in enumerate(leaders):
        first, leaf = leaves[places[leader]], leaves[places[rank]]
        if rank == leader or first is None or leaf is None:
            continue
        message = f"nearly the same questions and answers as {first.path}"
        fix = "keep one of the two, or ask what the other does not"
        found.append((places[rank], _warning("near-duplicate", first.path, message, fix, 1, "seed_examples")))
    return found


def _words(leaf: Leaf) -> str:
    return "\n".join(f"{question}\n{answer}" for seed in leaf.seeds for question, answer in seed.pairs)


def within(leaf: Leaf, window: int, measure: Callable[[str], int], unit: str) -> list[Problem]:
    """A warning for each seed whose context, with its longest question and answer, `measure` says to exceed `window`."""
    found = []
    for number, seed in enumerate(leaf.seeds):
        size = max((measure(f"{seed.context}\n{question}\n{answer}") for question, answer in seed.pairs), default=0)
        if size > window:
            message = f"seed {number + 1} has {size:,} {unit}; the teacher's window holds {window:,}"
            fix = "shorten its context or split it"
            found.append(_warning("window", f"{size}", message, fix, seed.where.row, f"seed_examples[{number}]"))
    return found


def _warning(rule: str, found: str, message: str, fix: str, line: int, key: str) -> Problem:
    return Problem(line=line, column=1, key=key, rule=rule, found=found, message=message, fix=fix, level="warning")
