"""What is compared: the parts of the benchmark, each side's settings in them, and the goals.

Left out: how a side runs a part (its own script). The first setting of a side is the one that won the sweep
(`cpu.py --sweep`, results/2026-11-26-cpu-sweep.md); `--sweep` tries them all again.
"""

from __future__ import annotations

from dataclasses import dataclass

OURS = "bottega"
HUGGING_FACE = ("trl", "trl-flat", "trl-padded", "llamafactory", "hf")
"""Sides on which transformers' Trainer or model code runs."""
LEANEST, MEMORY = "litgpt", 1.05
"""Peak memory: below every Hugging Face based side's, and at most so many times this one's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """Ours over `over` (a side; `best`: the best of all; `trl-best`: the best of TRL's; `hugging face`: each of those)."""

    over: str
    floor: float
    aim: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One comparison. unit: what is counted per CPU second; loss: which loss is shown; sides: settings by side."""

    title: str
    unit: str
    loss: str
    sides: dict[str, tuple[str, ...]]
    goals: tuple[Goal, ...]
    memory_of_best: float = 0.0
    lr: float = 1e-3


TUNING = {
    OURS: ("packed",),
    "litgpt": ("one", "two"),
    "llamafactory": ("neat-half", "one", "neat"),
    "trl": ("one", "bfd", "bfd-half"),
    "trl-flat": ("flat",),
    "hf": ("one", "grouped"),
}
GENERATE = {OURS: ("defaults",), "hf": ("dynamic", "static")}
PARTS = {
    "full": Part(
        title="Supervised tuning, every weight",
        unit="tokens",
        loss="held-out loss",
        sides=TUNING | {"torchtune": ("packed",)},
        goals=(Goal(over="best", floor=1.4, aim=1.7), Goal(over="hugging face", floor=1.8, aim=2.2)),
    ),
    "lora": Part(
        title="Supervised tuning, LoRA of rank 16 on all linear layers",
        unit="tokens",
        loss="held-out loss",
        sides=TUNING,
        goals=(Goal(over="best", floor=1.2, aim=1.6), Goal(over="hugging face", floor=1.6, aim=2.2)),
    ),
    "pretrain": Part(
        title="Pretraining, full blocks",
        unit="tokens",
        loss="held-out loss",
        sides={
            OURS: ("blocks",),
            "litgpt": ("two", "one", "eight"),
            "llamafactory": ("two", "one", "eight"),
            "trl": ("two", "one", "eight"),
            "hf": ("two", "one", "eight"),
        },
        goals=(Goal(over="best", floor=0.95, aim=1.1),),
        memory_of_best=0.8,
    ),
    "dpo": Part(
        title="Direct preference optimisation, every weight",
        unit="pairs",
        loss="loss of the trained pairs",
        sides={
            OURS: ("shared",),
            "trl-padded": ("padded",),
            "trl": ("one", "one-before", "padded-before"),
            "llamafactory": ("one", "two"),
        },
        goals=(
            Goal(over="trl-padded", floor=3.5, aim=5.0),
            Goal(over="trl", floor=2.0, aim=3.0),
        ),
        lr=1e-4,
    ),
    "generate-16": Part(
        title="Generation, batch of 16, greedy",
        unit="new tokens",
        loss="mean -log p of the replies",
        sides=GENERATE,
        goals=(Goal(over="hf", floor=1.15, aim=1.6),),
    ),
    "generate-64": Part(
        title="Generation, batch of 64, greedy",
        unit="new tokens",
        loss="mean -log p of the replies",
        sides=GENERATE,
        goals=(Goal(over="hf", floor=1.15, aim=1.6),),
    ),
}


def chosen(named: str) -> list[str]:
    """The parts that `named` (comma-separated names, or what they begin with) means; all for "".

    Raises:
        SystemExit: one is unknown.

    >>> chosen("dpo,generate")
    ['dpo', 'generate-16', 'generate-64']
    """
    found: list[str] = []
    for word in [word.strip() for word in named.split(",") if word.strip()]:
        meant = [name for name in PARTS if name == word or name.startswith(word + "-")]
        if not meant:
            raise SystemExit(f"{word!r} is no part: choose from {', '.join(PARTS)}")
        found += [name for name in meant if name not in found]
    return found or list(PARTS)
