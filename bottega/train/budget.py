"""What a micro-batch costs in memory, counted before it is needed, and how many tokens fit.

Left out: what is done when one does not fit all the same (fit.py), and predictions from a recipe alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bottega.core import devices
from bottega.core.types import Row
from bottega.train import parallel
from bottega.train.parts import Parts
from bottega.train.step import lay_down, micro_loss, size_of

MARGIN = 1.15
"""On the counted bytes of a token: what kernels allocate inside themselves is not seen."""
STATE_BYTES = 8
"""Bytes a trained weight that an optimizer has not stepped yet may still need: two float32 numbers (Adam)."""


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors made inside it that live, and the most that ever lived at once.

    The storages are watched, not the allocator, so that the count is the same on every run; the backward pass and what
    checkpointing computes again are seen too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and note new storages in what it gives."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def gone(_: Any) -> None:
            self.bytes -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)


def tokens_that_fit(parts: Parts, rows: Sequence[Row], budget_bytes: float) -> int:
    """The largest micro-batch, in tokens with padding, whose forward and backward pass fit in `budget_bytes`.

    Counted on one and on two of the heaviest of `rows`, and from there a straight line: bytes(t) = a + b t. The optimizer's states that
    are not there yet are taken off first, and one more gradient, which lies there from the second micro-batch on.
    """
    learn = [p for p in parts.scorer.parameters() if p.requires_grad]
    states = 0 if parts.optimizer.state else STATE_BYTES * sum(_local(p).numel() for p in learn)
    held = sum(_local(p).numel() * p.element_size() for p in learn)
    heavy = sorted(rows, key=lambda row: -size_of(parts, [row]))[:2]
    first, second = (_counted(parts, members) for members in (heavy[:1], heavy))
    one, two = size_of(parts, heavy[:1]), size_of(parts, heavy)
    slope = (second - first) / (two - one) if two > one else first / one
    left = budget_bytes - states - held - max(0.0, first - slope * one)
    return max(0, int(left / (slope * MARGIN)))


def _local(tensor: Any) -> torch.Tensor:
    """This rank's part of a sharded tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _counted(parts: Parts, rows: Sequence[Row]) -> int:
    """The most bytes that live at once in the forward and backward pass of `rows`; everything is put back."""
    before = devices.random_state()
    layout, targets = lay_down(parts, rows)
    with Live() as live, parallel.synced(parts.wrapped, False):
        micro_loss(parts, layout, targets, {unit: 1.0 for unit in parts.spec.units}).backward()
    parts.optimizer.zero_grad(set_to_none=True)
    devices.set_random_state(before)
    return live.peak
