"""Small real inputs for the tests of this room: a tiny saved model, chats, pairs, documents, and a recipe over them.

Left out: sense.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.models.tiny import tiny_model

RECIPE = """
name: tiny
model: model
seed: 1
stages:
  - adapt: {objective: pretrain, data: docs, method: {name: lora, rank: 4}, steps: 6, batch: 4, max_tokens: 64}
  - instruct: {objective: sft, data: chats.jsonl, method: full, steps: 8, batch: 4, validation: 0.1, lr: 1e-3,
               samples: {prompts: ["Who are you?"], max_tokens: 8}}
  - align: {objective: {name: dpo, beta: 0.1}, data: prefs.jsonl, method: {name: lora, rank: 4}, epochs: 1,
            validation: 0.2, eval_every: 1}
"""


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows, a line each."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chat(asked: str, said: str) -> dict[str, Any]:
    """One exchange as messages."""
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}


def workshop(folder: Path) -> Path:
    """Fill `folder` with a model, data and r.yaml; returns it."""
    tiny_model("llama", folder / "model")
    jsonl(folder / "chats.jsonl", [chat(f"What is {i} plus {i % 7}?", f"It is {i + i % 7}.") for i in range(40)])
    pairs = [{"prompt": f"Number {i}", "chosen": f"Gladly: {i}", "rejected": f"No, not {i}"} for i in range(30)]
    jsonl(folder / "prefs.jsonl", pairs)
    (folder / "docs").mkdir()
    (folder / "docs" / "a.md").write_text(
        "# Workshop\n\n" + "Anna keeps the keys and 12 chisels. It opens at eight.\n" * 30
    )
    (folder / "r.yaml").write_text(RECIPE)
    return folder
