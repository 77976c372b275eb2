"""`bottega lab example`: a small taxonomy with documents, a replay file and test questions, to learn the whole way on.

Everything is invented (demo/world/parish.py) and unknown to the bundled base. Left out: teaching and training, which are the ordinary
verbs: `synth`, `lab recipe`, `run`, `compare`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from bottega.core import rundir
from bottega.core.config import dump_yaml
from bottega.core.errors import UserError
from bottega.demo.world import journey, parish

ATTRIBUTION = """Title of work: The parish, an invented place
Link to work: https://example.org/parish
License of the work: Apache-2.0
Creator names: Bottega
"""
REPLAY = 2000
MEASURED = {"courtesy": 200, "old_world": 500, "reading": 300}
"""Items of the tasks whose number is a choice; knowledge has one for each fact."""


def example(out: str | os.PathLike[str], *, seed: int = 0) -> dict[str, Any]:
    """Write taxonomy/, documents/, tasks/ and replay.jsonl.

    Args:
        out: a folder that is empty or not there. seed: another one, another parish.

    Raises:
        UserError: the folder holds something.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there and not empty; name a new folder")
    with rundir.disk_errors(folder):
        return _write(folder, seed)


def _write(folder: Path, seed: int) -> dict[str, Any]:
    leaves, asked = parish.leaves(seed), list[dict[str, str]]()
    for leaf, places in leaves.items():
        trade = leaf.rsplit("/", 1)[1]
        for place in places:
            name = place.subject.removeprefix("the ").replace(" ", "-").lower()
            _text(folder / "documents" / trade / f"{name}.md", place.text + "\n")
        _leaf(folder / "taxonomy" / leaf, _knowledge(trade, places, seed))
        asked += [{"question": fact.held, "answer": fact.answer, "leaf": leaf} for one in places for fact in one.facts]
    seeds, held = parish.manners(seed, MEASURED["courtesy"])
    _leaf(folder / "taxonomy" / parish.COURTESY, _courtesy(seeds, seed))
    _rows(folder / "replay.jsonl", journey.replay_rows(seed, REPLAY))
    ends = "|".join(re.escape(end) for end in parish.ENDINGS)
    polite = [{"question": q, "answer": rf"(?s)\A\W*{re.escape(a)}\W+({ends})\s*\Z"} for q, a in held]
    _task(folder, "knowledge", asked, {"chat": True, "prompt": "{{ question }}", "metric": "contains", "group": "leaf"})
    _task(folder, "courtesy", polite, {"chat": True, "prompt": "{{ question }}", "metric": "regex"})
    for name, probes in (
        ("old_world", journey.retention_probes(seed, MEASURED["old_world"])),
        ("reading", journey.retention_reading_probes("test", seed, MEASURED["reading"])),
    ):
        rows = [{key: one[key] for key in ("prompt", "answer")} for one in probes]
        _task(folder, name, rows, {"prompt": "{{ prompt }}", "metric": "contains", "stop": ["\n"]})
    return {
        "out": str(folder),
        "leaves": len(leaves) + 1,
        "documents": sum(len(places) for places in leaves.values()),
        "questions": len(asked),
    }


def example_text(result: Mapping[str, Any]) -> str:
    """What was written and what to do next, for people."""
    out = result["out"]
    return "\n".join(
        [
            f"{result['leaves']} leaves, {result['documents']} documents, {result['questions']} questions for the test in {out}",
            f"next  bottega synth {out}/taxonomy --only knowledge --documents {out}/documents --teacher garzone --flow reader "
            f"--out {out}/short --samples 150",
        ]
    )


def _knowledge(trade: str, places: tuple[parish.Place, ...], seed: int) -> dict[str, Any]:
    """A leaf of version 3: five contexts with three questions each, as its people would write them."""
    chosen = Random(f"seeds/{seed}/{trade}").sample(places, parish.NUM_SEEDS)
    return {
        "version": 3,
        "created_by": "parish",
        "domain": "parish",
        "document_outline": f"The {trade} of the parish, with their hours, people and customs",
        "document": {"repo": "https://example.org/parish.git", "commit": "main", "patterns": [f"{trade}/*.md"]},
        "seed_examples": [
            {
                "context": place.text,
                "questions_and_answers": [
                    {"question": fact.question, "answer": fact.answer} for fact in place.facts[:3]
                ],
            }
            for place in chosen
        ],
    }


def _courtesy(seeds: list[tuple[str, str]], seed: int) -> dict[str, Any]:
    rng = Random(f"courtesy/{seed}")
    return {
        "version": 3,
        "created_by": "parish",
        "task_description": "Where somebody says please, answer in a word or two and end with a polite form.",
        "seed_examples": [
            {"question": question, "answer": f"{answer}. {rng.choice(parish.ENDINGS)}"} for question, answer in seeds
        ],
    }


def _leaf(folder: Path, leaf: dict[str, Any]) -> None:
    _text(folder / "qna.yaml", dump_yaml(leaf))
    _text(folder / "attribution.txt", ATTRIBUTION)


def _task(folder: Path, name: str, rows: Iterable[Mapping[str, Any]], how: dict[str, Any]) -> None:
    _rows(folder / "tasks" / f"{name}.jsonl", rows)
    about = {"name": name, "kind": "generation", "data": f"{name}.jsonl", "answer": "answer", "max_tokens": 32}
    _text(folder / "tasks" / f"{name}.yaml", dump_yaml({**about, **how}))


def _rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    _text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rundir.atomic_write(path, text)
