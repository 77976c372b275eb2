"""What the loop is made of and what it leaves: the built parts, what fits in memory, and how a run ended.

Left out: building them (assemble.py) and using them (loop.py, step.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from bottega.core.types import Attached, Row, Source, Spec, Targets
from bottega.models.layout import Layout, lay, placed
from bottega.models.score import Scorer
from bottega.train import parallel
from bottega.train.optim import Optimizer
from bottega.train.precision import LossScale


@dataclass(kw_only=True, slots=True, eq=False)
class Parts:
    """What `assemble` built: the loop's hands. notes: lines about what was decided, for the run to say. stopping: whether
    somebody asked to stop; heard between micro-batches where there is one process. taught: the scorer's names of frozen
    parameters that something else trains between steps (a reward model that people's ratings refresh)."""

    attached: Attached
    spec: Spec
    source: Source
    scorer: Scorer
    wrapped: nn.Module
    optimizer: Optimizer
    rebuild: Callable[[], None]
    world: parallel.World
    packed: bool
    pad_id: int
    save_model: Callable[[str], None]
    validate: Callable[[int], Mapping[str, float]] | None = None
    loss_scale: LossScale | None = None
    notes: list[str] = field(default_factory=list)
    stopping: Callable[[], bool] = lambda: False
    taught: frozenset[str] = frozenset()

    @property
    def device(self) -> str:
        """The kind of device the model lies on: cpu or cuda."""
        return self.place.type

    @property
    def place(self) -> torch.device:
        """The device itself."""
        return next(self.scorer.parameters()).device

    def lay(self, rows: Sequence[Row]) -> tuple[Layout, Targets]:
        """The layout of one micro-batch and its targets, as this model has them and where it lies."""
        sides = self.scorer.kind == "encoder-decoder"
        layout, targets = lay(rows, packed=self.packed, pad_id=self.pad_id, num_prefix=self.num_prefix, sides=sides)
        return placed(layout, self.place), placed(targets, self.place)

    @property
    def num_prefix(self) -> int:
        """Virtual positions before every sequence."""
        return self.attached.inputs.num_prefix if self.attached.inputs else 0


@dataclass(kw_only=True, slots=True)
class Fit:
    """Part of every checkpoint. tokens: the limit of a micro-batch now; most: what the memory budget allows a single row (0:
    nobody counted). proven: the largest micro-batch that has gone through in this process."""

    tokens: int = 0
    most: int = 0
    proven: int = 0

    def to_json(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        return {"tokens": self.tokens, "most": self.most}


@dataclass(kw_only=True, slots=True)
class Outcome:
    """How a run ended: steps done, the best evaluation and its step, the last metrics, why it stopped."""

    step: int = 0
    best: float | None = None
    best_step: int = -1
    reason: str = "steps"
    last: dict[str, float] = field(default_factory=dict)
