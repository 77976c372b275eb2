"""The loop's settings: a plain dataclass, so that a recipe can be checked before torch is imported."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from bottega.core.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopSettings:
    """What the loop itself reads, frozen for the run.

    steps: optimizer steps. micro_tokens: most tokens of a micro-batch, padding counted. lr: peak learning rate. schedule,
    warmup (steps), decay (share, for wsd), floor: see schedule.py. clip: largest gradient norm (0: none). eval_every,
    save_every: in steps (0: only at the end). keep: newest checkpoints kept besides the best. early_stop: a metric of the
    evaluation ("" for none), which gets better by falling (early_stop_mode min) or rising (max); the run ends after `patience`
    evaluations without a new best. self_check: steps watched by guards.SelfCheck (0: none). on_nonfinite: what a loss or gradient
    that is not finite does: stop the run, skip the batch, or rollback (weights and optimizer go back to the last good checkpoint, the
    data goes on behind the batch). spikes: a loss above mean + 6 sigma of the last 128 steps is left out (skip), noted (warn) or not
    looked for (off). max_skips: batches that may be left out among 128 before the run ends. precision: fp32, or bf16 (matrix
    products in bfloat16, weights and optimizer in float32). compile: compile the trunk; pays in long runs over blocks of one length.
    """

    steps: int
    micro_tokens: int = 8192
    lr: float = 1e-3
    schedule: str = "cosine"
    warmup: int = 0
    decay: float = 0.2
    floor: float = 0.0
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip: float = 1.0
    eval_every: int = 0
    save_every: int = 0
    keep: int = 2
    early_stop: str = ""
    early_stop_mode: str = "min"
    patience: int = 3
    self_check: int = 5
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    spikes: Literal["skip", "warn", "off"] = "skip"
    max_skips: int = 10
    checkpointing: bool = False
    precision: str = "fp32"
    compile: bool = False

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{spec.name} is {value}, but needs a finite number")
