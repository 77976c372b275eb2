"""Labelled texts that a tiny model can learn, for every objective of labels and vectors, and a recipe over them.

Left out: sense. The words decide: broken, wet, dull and lost things are bad, and late ones come at night.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

GOOD, BAD = ("sharp", "dry", "bright", "useful"), ("broken", "wet", "dull", "lost")
THINGS, TIMES = ("saw", "plane", "bench", "chisel", "lamp", "key"), ("today", "at night")


def rows(kind: str, count: int = 96, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of one objective; a quarter is bad, half is at night."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        bad, late = number % 4 == 0, number % 2 == 1
        thing, word = draw.choice(THINGS), draw.choice(BAD if bad else GOOD)
        text = f"The {thing} is {word} {TIMES[late]}."
        if kind == "classification":
            made.append({"text": text, "label": "bad" if bad else "good"})
        elif kind == "multilabel":
            made.append({"text": text, "labels": ["bad"] * bad + ["late"] * late})
        elif kind == "regression":
            made.append({"text": text, "label": 2.0 * bad + 0.5 * late})
        elif kind == "tagging":
            words = text.rstrip(".").split()
            tags = ["THING" if w == thing else "BAD" if w in BAD else "O" for w in words]
            made.append({"tokens": words, "tags": tags})
        else:
            made.append({"prompt": f"Which one is {word}?", "completion": f"{thing} number {number}, the {word} one"})
    return made


def recipe(
    folder: Path,
    *,
    kind: str,
    method: str = "full",
    objective: str = "",
    more: str = "",
    steps: int = 20,
    count: int = 96,
) -> Path:
    """Write data and a recipe for the model in `folder`/model; returns the recipe. more: further lines of the stage."""
    text = "".join(json.dumps(row) + "\n" for row in rows(kind, count))
    (folder / f"{kind}.jsonl").write_text(text, encoding="utf-8")
    path = folder / f"{kind}.yaml"
    path.write_text(
        f"name: {kind}\nmodel: {folder}/model\nstages:\n  - learn:\n      objective: {objective or kind}\n"
        f"      data: {folder}/{kind}.jsonl\n      method: {method}\n      lr: 1e-2\n      steps: {steps}\n"
        f"      batch: 16\n      validation: 0.25\n{more}"
    )
    return path
