"""The step of a loss that joins all rows of the global batch (in-batch contrastive), without keeping all their graphs.

Embed everything without gradient, gather over ranks, differentiate the loss with respect to the embeddings, then embed
each micro-batch again and send its share of that gradient back (Gao et al. 2021, arXiv 2101.06983, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bottega.core.types import Spec, Targets
from bottega.models.layout import Layout
from bottega.train import parallel


def coupled_backward(
    wrapped: nn.Module, spec: Spec, laid: Sequence[tuple[Layout, Targets]], world: parallel.World
) -> tuple[dict[str, float], dict[str, float]]:
    """Gradient of the whole batch's loss into .grad.

    Args:
        laid: this rank's micro-batches, none empty. The number of micro-batches is the same on every rank.

    Returns:
        Sums of the metrics and counts of the units over the global batch.
    """
    before = torch.get_rng_state()
    with torch.no_grad():
        own = torch.cat([wrapped(layout, targets, spec.needs)["embedding"] for layout, targets in laid])
    everybody, start = parallel.gather(world, own)
    everybody = everybody.detach().requires_grad_()
    num_rows = len(everybody) // 2
    whole = _whole(laid[0][1], num_rows)
    terms, metrics = spec.objective({"embedding": everybody}, whole)
    seen = parallel.total(world, {"seen": float(sum(layout.ids_BT.numel() for layout, _ in laid))})
    counts = {"rows": float(num_rows), "one": 1.0, "tokens": 1.0, "pairs": float(num_rows), **seen}
    loss: Tensor = sum(term.weight * term.total / counts[term.unit] for term in terms.values())  # type: ignore[assignment]
    (slope,) = torch.autograd.grad(loss, everybody)
    torch.set_rng_state(before)
    for number, (layout, targets) in enumerate(laid):
        with parallel.synced(wrapped, number == len(laid) - 1):
            again = wrapped(layout, targets, spec.needs)["embedding"]
            share = slope[start : start + len(again)]
            ((again * share).sum() * world.size).backward()
            start += len(again)
    return {name: float(value) for name, value in metrics.items()}, counts


def _whole(sample: Targets, num_rows: int) -> Targets:
    """Targets of the global batch as far as a coupled objective reads them: two sequences a row."""
    rows = torch.arange(num_rows).repeat_interleave(2)
    return Targets(labels_S=sample.labels_S, weights_S=sample.weights_S, sequence_S=sample.sequence_S, row_Q=rows)
