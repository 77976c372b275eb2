"""Where a loss or gradient stopped being finite: the layer and the rows, found by going through the batch row by row.

Left out: what is done about it (loop.py). This runs only when a step has failed already, so it may cost a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bottega.core import devices
from bottega.core.types import Row
from bottega.train import parallel
from bottega.train.parts import Parts
from bottega.train.step import lay_down, micro_loss

NOWHERE = "the loss itself"


def locate(parts: Parts, rows: Sequence[Row]) -> tuple[str, list[int]]:
    """The first layer that gives something not finite, and the indices of the rows for which it does.

    Each row is a micro-batch of its own. Forward: hooks look at every module's output in the order in which they finish.
    Backward (where weights are not sharded): the parameter nearest to the loss whose gradient is not finite. Ranks look at
    their own rows and put together what they found. Gradients are gone afterwards; the random state is put back.
    """
    if parts.spec.coupled:
        return NOWHERE, [row.index for row in rows]
    before = devices.random_state()
    names = [name for name, _ in parts.scorer.named_modules()] + [name for name, _ in parts.scorer.named_parameters()]
    world = parts.world
    bad, places = [0.0] * len(rows), []
    mine = list(range(world.rank, len(rows), world.size))
    for turn in range(
        -(-len(rows) // world.size)
    ):  # every rank goes through equally many, for sharded layers are gathered
        own = mine[turn] if turn < len(mine) else None
        place = _look(parts, rows[own if own is not None else 0])
        if place is not None and own is not None:
            bad[own] = 1.0
            places.append(names.index(place) if place in names else len(names))
    parts.optimizer.zero_grad(set_to_none=True)
    devices.set_random_state(before)
    found = parallel.total(world, {str(i): value for i, value in enumerate(bad)})
    first = -parallel.most(world, -min(places, default=len(names)))
    indices = [row.index for i, row in enumerate(rows) if found[str(i)]]
    return names[first] if first < len(names) else NOWHERE, indices or [row.index for row in rows]


def _look(parts: Parts, row: Row) -> str | None:
    """The first place where this row alone is not finite; None: it is finite all through."""
    seen: list[str] = []

    def hook(name: str) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if not seen and any(not bool(torch.isfinite(t).all()) for t in _tensors(output)):
                seen.append(name)

        return look

    hooks = [m.register_forward_hook(hook(name)) for name, m in parts.scorer.named_modules() if name]
    sharded = any(hasattr(p, "full_tensor") for p in parts.scorer.parameters())
    try:
        layout, targets = lay_down(parts, [row])
        with torch.set_grad_enabled(not sharded), parallel.synced(parts.wrapped, False):
            loss = micro_loss(parts, layout, targets, {unit: 1.0 for unit in parts.spec.units})
            if seen or not bool(torch.isfinite(loss)):
                return seen[0] if seen else NOWHERE
            if sharded:
                return None
            parts.optimizer.zero_grad(set_to_none=True)
            loss.backward()
    finally:
        for one in hooks:
            one.remove()
    broken = [
        n for n, p in parts.scorer.named_parameters() if p.grad is not None and not bool(torch.isfinite(p.grad).all())
    ]
    return broken[-1] if broken else None


def _tensors(output: Any) -> list[Tensor]:
    """The floating-point tensors in what a module gave."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, dict):
        return [t for value in output.values() for t in _tensors(value)]
    if isinstance(output, list | tuple):
        return [t for value in output for t in _tensors(value)]
    return []
