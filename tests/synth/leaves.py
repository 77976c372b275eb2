"""Small leaves for the tests of the taxonomy."""

from __future__ import annotations

from pathlib import Path

SKILL = """created_by: anna
version: 3
task_description: Say what rhymes.
seed_examples:
""" + "".join(f"  - question: What rhymes with {word}?\n    answer: It is {rhyme}.\n" for word, rhyme in
              [("moon", "spoon"), ("cat", "hat"), ("tree", "bee"), ("light", "night"), ("gold", "cold")])  # fmt: skip

KNOWLEDGE = """version: 3
created_by: anna
domain: astronomy
document_outline: The moons of the planet Ilo.
document:
  repo: https://example.org/moons.git
  commit: 0123abc
  patterns:
    - "*.md"
seed_examples:
""" + "".join(
    f"  - context: |\n      Moon {n} of Ilo is {n}00 km wide.\n    questions_and_answers:\n"
    + "".join(f"      - question: Question {q} on moon {n}?\n        answer: Answer {q} of {n}.\n" for q in (1, 2, 3))
    for n in range(1, 6)
)

ATTRIBUTION = "Title of work: Rhymes\nLink to work: -\nLicense of the work: Apache-2.0\nCreator names: Anna\n"


def put(root: Path, place: str, text: str, attribution: str | None = ATTRIBUTION) -> Path:
    """A leaf below `root`; returns its file."""
    file = root / place / "qna.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode())
    if attribution is not None:
        (file.parent / "attribution.txt").write_text(attribution, encoding="utf-8")
    return file
