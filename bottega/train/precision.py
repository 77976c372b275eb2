"""From a summed gradient to one that may be stepped: unscaled (fp16), its norm measured, clipped.

Left out: the precision of products (models/score.py) and the fp32 copies of 16-bit weights (optim.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from bottega.core.errors import Diverged

if TYPE_CHECKING:
    from bottega.train.optim import Optimizer

GROW_AFTER = 2000
"""Steps without overflow after which the scale is doubled (Micikevicius et al. 2018, arXiv
1710.03740, section 3.2, and PyTorch's default)."""
SMALLEST = 2.0**-10


@dataclass(kw_only=True, slots=True)
class LossScale:
    """Multiplies the loss so that small gradients survive fp16 (below 6e-8 they would be 0), and learns by how much.

    An overflow (a gradient that is not finite) skips the step and halves `value`; GROW_AFTER steps without one double
    it. Powers of 2 only: taking the factor off again is exact.
    """

    value: float = 65536.0
    good: int = 0
    skipped: int = 0

    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take the factor off the gradients."""
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(1.0 / self.value)

    def judge(self, norm: float, step: int) -> bool:
        """Whether a gradient of this norm may be stepped; the scale learns from it.

        Raises:
            Diverged: overflow at a scale at which only the model itself can be the reason.
        """
        if math.isfinite(norm):
            self.good += 1
            if self.good >= GROW_AFTER:
                self.value, self.good = self.value * 2, 0
            return True
        self.value, self.good, self.skipped = self.value / 2, 0, self.skipped + 1
        if self.value < SMALLEST:
            raise Diverged(
                f"step {step}: fp16 overflows even with the loss scaled by {self.value:g}: write precision: bf16 or fp32"
            )
        return False

    def to_json(self) -> dict[str, float]:
        """As a checkpoint holds it."""
        return {"value": self.value, "good": self.good, "skipped": self.skipped}


def finish_gradient(
    parameters: Iterable[nn.Parameter], optimizer: Optimizer, *, clip: float, scale: LossScale | None, step: int
) -> float:
    """The gradient's norm, once the gradient is unscaled and no longer than `clip` (0: as it is).

    Raises:
        Diverged: a parameter that steps in the backward pass met a gradient that is not finite.
    """
    if optimizer.in_backward:
        norm = optimizer.norm_in_backward()
        if not math.isfinite(norm):
            raise Diverged(
                f"step {step}: the gradient of {optimizer.bad} is not finite, and step_in_backward had moved the layers after it "
                "already: continue from the last checkpoint with a lower lr, or without step_in_backward"
            )
        return norm
    learned = [p for p in parameters if p.requires_grad]
    if scale is not None:
        scale.unscale(learned)
    found = torch.nn.utils.clip_grad_norm_(learned, clip if clip > 0 else float("inf"))
    return float(found.full_tensor() if hasattr(found, "full_tensor") else found)
