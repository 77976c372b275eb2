"""What the fault tests share: two short stages, what equal runs leave, and what may lie about afterwards.

Left out: the faults (shim.py) and the processes (forked.py).
"""

from __future__ import annotations

from pathlib import Path

from bottega.core import rundir
from tests.workshop.made import jsonl, workshop

RECIPE = """
name: f
model: model
seed: 1
stages:
  - instruct: {objective: sft, data: chats.jsonl, method: full, steps: 4, batch: 2, lr: 1e-3, save_every: 2, keep: 1}
  - align: {objective: {name: dpo, beta: 0.1}, data: prefs.jsonl, method: {name: lora, rank: 2}, steps: 2, batch: 2,
            save_every: 1, keep: 1, lr: 1e-3, validation: 0.1}
"""
APART = ("host.json", "timing.jsonl", ".lock", "report.html", "curve.png", "environment.json")
"""Clock, host, code and pictures: what two equal runs may differ in."""


ONLINE = """
name: f
model: model
seed: 1
stages:
  - learn: {objective: OBJECTIVE, data: ask.jsonl, method: {name: lora, rank: 2}, rewards: [{name: python, path: even.py}],
            rollout: {prompts: 4, group: 4, max_tokens: 4, max_kl: 1e9, cut_steps: 99, flat_steps: 99}, steps: 4, batch: 2,
            lr: 1e-3, save_every: 1, keep: 2}
"""
EVEN = "def reward(prompt, reply):\n    return float(sum(map(ord, reply)) % 5)\n"


def inputs(folder: Path, recipe: str = RECIPE) -> Path:
    """Fill `folder` with a model, data and f.yaml; returns the recipe."""
    (workshop(folder) / "f.yaml").write_text(recipe)
    (folder / "even.py").write_text(EVEN)
    jsonl(folder / "ask.jsonl", [{"prompt": f"What is {i} plus 1?"} for i in range(12)])
    return folder / "f.yaml"


def contents(folder: Path) -> dict[str, str]:
    """Every file of a run but those APART, by its sha256; drafts and temporary files included, so that none may be left."""
    return {
        p.relative_to(folder).as_posix(): rundir.sha256(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in APART
    }
