"""MT-Bench's files (arXiv 2306.05685): question.jsonl, and reference answers beside it, as the records of a judged task.

Left out: its judge's words; the task's rubric is our own, so that its ratings are not those of other programs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bottega.core.errors import UserError
from bottega.evals.rows import located


def records(files: Sequence[str]) -> Iterator[dict[str, Any]]:
    """{"question_id", "category", "turns"} a question, and "answer", a list with a reference a turn, where there is one.

    Args:
        files: question.jsonl, or its folder; references are read from `reference_answer/*.jsonl` beside it.

    Raises:
        UserError: a row without question_id or turns, or that cannot be read.
    """
    for file in files:
        path = Path(file) / "question.jsonl" if Path(file).is_dir() else Path(file)
        known = _references(sorted((path.parent / "reference_answer").glob("*.jsonl")))
        for where, row in located([str(path)]):
            turns = row.get("turns")
            if "question_id" not in row or not isinstance(turns, list) or not turns:
                raise UserError(
                    f"{where} has no question_id with a list of turns: correct the row, or choose another task"
                )
            answer = known.get(row["question_id"])
            shown = {"question_id": row["question_id"], "category": str(row.get("category", "")), "turns": turns}
            yield shown | ({"answer": answer} if answer else {})


def _references(files: Sequence[Path]) -> dict[Any, list[str]]:
    found: dict[Any, list[str]] = {}
    for file in files:
        for where, row in located([str(file)]):
            try:
                found[row["question_id"]] = [str(turn) for turn in row["choices"][0]["turns"]]
            except (KeyError, IndexError, TypeError):
                raise UserError(f"{where} has no question_id with choices[0].turns: correct the row") from None
    return found
