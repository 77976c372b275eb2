"""The prompts of a file, for `generate`: of any format that the workshop reads, up to the last question.

Left out: answering them (use.py, distant.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bottega.core.errors import UserError
from bottega.core.types import Conversation, Document, Labelled, Preference, Turn


def prompts_of(path: str) -> Iterator[list[Turn]]:
    """The prompts of a file (jsonl with prompt or messages; txt, one prompt a line), as turns that end with a question.

    Raises:
        UserError: no file, no prompt, or a row that cannot be read.
    """
    from bottega.data.formats import samples
    from bottega.data.sources import Problem, read

    if Path(path).suffix == ".txt":
        if not Path(path).is_file():
            raise UserError(f"there is no file {path}; check the path")
        lines = [line for line in Path(path).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        if not lines:
            raise UserError(f"{path} has no prompt; write one a line")
        yield from ([Turn(role="user", content=line)] for line in lines)
        return
    plain_prompts = all(
        not isinstance(record, Problem) and isinstance(record.get("prompt"), str) for _, record in read(path)
    )
    if plain_prompts:
        for _, record in read(path):
            assert not isinstance(record, Problem)
            yield [Turn(role="user", content=record["prompt"])]
        return
    for sample in samples(path):
        if isinstance(sample, Problem):
            raise UserError(f"{sample}; mend the row, every prompt of the file is answered")
        yield _asked(sample)


def _asked(sample: Any) -> list[Turn]:
    """What a sample asks: its turns up to the last question."""
    if isinstance(sample, Document):
        return [Turn(role="user", content=sample.text)]
    if isinstance(sample, Preference | Labelled):
        return list(sample.prompt) or [Turn(role="user", content=getattr(sample, "text", ""))]
    assert isinstance(sample, Conversation)
    turns = list(sample.turns)
    while turns and turns[-1].role == "assistant":
        turns.pop()
    if not turns:
        raise UserError(f"{sample.where} asks nothing; a prompt ends with a turn that is not the assistant's")
    return turns
