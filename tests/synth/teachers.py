"""Teachers for tests: a real HTTP server behind which the template teacher answers, and small taxonomies on disk.

Left out: what leaves may hold (leaves.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bottega.synth.teacher_template import reply
from tests.models.endpoint import Endpoint

CONTEXT = (
    "The Arolla observatory was opened in 1931. The dome is made of copper and weighs 14 tonnes. Marta Rey was its first director. "
    "The library holds 2,300 maps. Visitors can see the old clock every Sunday. The observatory has a garden of alpine plants. "
    "The main telescope was built in Jena. Students from Turin use the small telescope."
)


def answer(request: dict[str, Any]) -> str:
    """The template teacher's reply to a request of the chat interface."""
    return reply(request["messages"][-1]["content"], int(request.get("seed", 0)))


def server(**how: Any) -> Endpoint:
    """An endpoint with the template teacher behind it."""
    return Endpoint(**{"answer": answer, **how})


def skill_leaf(root: Path, name: str, *, number: int = 5, word: str = "swift", about: str = "Find a synonym.") -> Path:
    """A freeform skill of version 3."""
    folder = root / "compositional_skills" / name
    folder.mkdir(parents=True)
    seeds = "".join(
        f"  - question: What is a synonym of {word} number {n}?\n    answer: A synonym of {word} {n} is quick {n}.\n"
        for n in range(number)
    )
    text = f"version: 3\ncreated_by: ada\ntask_description: {about}\nseed_examples:\n{seeds}"
    (folder / "qna.yaml").write_text(text, encoding="utf-8")
    (folder / "attribution.txt").write_text(
        "Title of work: Words\nLink to work: https://example.org\nLicense of the work: Apache-2.0\nCreator names: Ada\n"
    )
    return folder / "qna.yaml"


def knowledge_leaf(root: Path, name: str, *, context: str = CONTEXT, about: str = "The Arolla observatory") -> Path:
    """A knowledge leaf of version 3 with five contexts of three questions."""
    folder = root / "knowledge" / name
    folder.mkdir(parents=True)
    seeds = ""
    for number in range(5):
        pairs = "".join(
            f"      - question: What is fact {part} of note {number} of the observatory?\n        answer: It is fact {part}{number}.\n"
            for part in range(3)
        )
        seeds += f"  - context: |\n      Note {number}. {context}\n    questions_and_answers:\n{pairs}"
    text = (
        f"version: 3\ncreated_by: bo\ndomain: astronomy\ndocument_outline: {about}\nseed_examples:\n{seeds}"
        "document:\n  repo: https://example.org/docs\n  commit: abc\n  patterns: ['*.md']\n"
    )
    (folder / "qna.yaml").write_text(text, encoding="utf-8")
    (folder / "attribution.txt").write_text(
        "Title of work: Notes\nLink to work: https://example.org\nLicense of the work: CC-BY-SA-4.0\nCreator names: Bo\n"
    )
    return folder / "qna.yaml"


def rows(path: Path) -> list[dict[str, Any]]:
    """The records of a jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
