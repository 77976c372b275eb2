"""The seeds that `synth` held out, and their other wordings, as a task: what a LAB recipe measures by default, leaf by leaf.

Left out: scoring (the evals room).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bottega.core import rundir
from bottega.core.config import load_yaml

NAME = "held_out"


def rows(places: Sequence[str]) -> list[dict[str, Any]]:
    """{"prompt", "answer", "leaf", "paraphrase"} for each question with its answer in the folders' test.jsonl."""
    found = []
    for place in places:
        file = Path(place) / "test.jsonl"
        for row in rundir.read_jsonl(file) if file.is_file() else ():
            turns = [(turn.get("role"), turn.get("content")) for turn in row.get("messages", ())]
            if [role for role, _ in turns] == ["user", "assistant"] and all(text for _, text in turns):
                about = row.get("metadata", {})
                more = {"leaf": str(about.get("leaf", "")), "paraphrase": bool(about.get("paraphrase"))}
                found.append({"prompt": turns[0][1], "answer": turns[1][1], **more})
    return found


def task(*, judged: bool) -> dict[str, Any]:
    """The task over data beside it: rated by a judge against the seeds' answers, or by the words that both have in common (F1)."""
    if judged:
        from bottega.evals.tasks import builtin

        path = builtin()["seed_answers"]
        like, _ = load_yaml(path.read_bytes(), file=str(path))
        return {**like, "name": NAME, "data": f"{NAME}.jsonl"}
    return {
        "name": NAME,
        "kind": "generation",
        "description": "Held-out seed questions and their other wordings, by leaf: words in common with the seed's answer.",
        "data": f"{NAME}.jsonl",
        "chat": True,
        "prompt": "{{ prompt }}",
        "answer": "answer",
        "group": "leaf",
        "metric": "f1",
        "max_tokens": 128,
    }
