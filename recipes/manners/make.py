"""Writes the data of manners.yaml: answers to imitate, pairs that people chose from, prompts, and tasks for `bottega compare`.

Left out: anything real. The world is the bundled model's own; the people like a polite ending, and in 15 pairs of 100 they choose
the other answer, as people do. Held-out prompts are worded as no training prompt is; the old questions ask for facts that no file
here holds.

    python recipes/manners/make.py       # writes recipes/manners/data, the same bytes every time
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bottega.demo.plan import write_tasks
from bottega.demo.world import journey

FOLDER = Path(__file__).parent / "data"
SEED = 11
POLITE = 0.25
"""Share of the answers to imitate that end politely: what is to be preferred must be there before it can be."""
DISAGREE = 0.15
"""Share of the pairs in which the plain answer was chosen."""
COUNTS = {"answers": 1400, "known": 1200, "pairs": 480, "pairs-held": 300, "questions": 500}
TASKS = ("polite_endings", "requests", "old_world_questions", "old_world_reading")
Row = dict[str, Any]


def pairs() -> list[Row]:
    """The same right answer with a polite ending and without, one of them chosen."""
    rng = random.Random(SEED)
    rows = journey.align_rows(SEED, COUNTS["pairs"] + COUNTS["pairs-held"])
    return [
        {"prompt": row["prompt"], "chosen": row["rejected"], "rejected": row["chosen"]}
        if rng.random() < DISAGREE
        else row
        for row in rows
    ]


def files() -> Iterator[tuple[str, list[Row]]]:
    """Each file's name and rows."""
    chosen = pairs()
    yield "answers.jsonl", journey.instruct_rows(SEED, COUNTS["answers"], facts=False, politeness=POLITE)
    yield "known.jsonl", journey.replay_rows(SEED, COUNTS["known"])
    yield "pairs.jsonl", chosen[: COUNTS["pairs"]]
    yield "pairs-held.jsonl", chosen[COUNTS["pairs"] :]
    yield "questions.jsonl", [{"messages": row["prompt"]} for row in journey.align_rows(SEED + 1, COUNTS["questions"])]


def write(folder: Path) -> None:
    """Write all of it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_tasks(folder / "tasks", seed=SEED, names=TASKS)


if __name__ == "__main__":
    write(FOLDER)
