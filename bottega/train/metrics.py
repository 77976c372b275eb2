"""Sums of a step turned into the numbers people read, and the log they go to.

Left out: how a file of lines survives (core/rundir.py) and pictures (workshop/report.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from bottega.core.rundir import JsonLines, append_jsonl
from bottega.models.heads import causal_model
from bottega.models.layers import text_config
from bottega.models.score import Scorer


class NoLines:
    """In the place of a log that another process writes."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def __enter__(self) -> NoLines:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def log_to(path: Path, writes: bool) -> JsonLines | NoLines:
    """The log at `path`, or nothing where this process is not the one that writes."""
    return append_jsonl(path) if writes else NoLines()


def averages(sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
    """`loss/tokens` divided by the number of tokens is `loss`; a name without a unit stays a sum.

    >>> averages({"loss/tokens": 6.0, "skipped": 1.0}, {"tokens": 3.0})
    {'loss': 2.0, 'skipped': 1.0}
    """
    result = {}
    for name, value in sums.items():
        short, _, unit = name.partition("/")
        result[short] = value / max(counts[unit], 1e-12) if unit else value
    return result


class Flops(NamedTuple):
    """Floating-point operations of training: per_token in the trunk, per_label in the head (only tokens to learn have logits)."""

    per_token: float
    per_label: float


def flops(scorer: Scorer) -> Flops:
    """Operations that the matrix products of a step need, however it is computed.

    A weight that learns costs 2 forward, 2 for the gradient of what went in and 2 for its own; a frozen one 2 + 2. (Chowdhery et
    al. 2022, arXiv 2204.02311, appendix B; attention is `attention_flops`; looking up an embedding is no product, recomputing
    for checkpointing is not counted, and all experts of a mixture are.)
    """
    head = causal_model(scorer.model).get_output_embeddings()
    trunk = label = 0.0
    for module in scorer.modules():
        learns = any(p.requires_grad for p in module.parameters(recurse=False))
        cost = _weights(module) * (6.0 if learns else 4.0)
        if module is head:
            label += cost
        else:
            trunk += cost
    return Flops(trunk, label)


def attention_flops(scorer: Scorer) -> float:
    """The same for scores and their sums over values, per squared token of a row: 12 L D (4 forward, 8 backward, masks or not)."""
    config = text_config(causal_model(scorer.model))
    return 12.0 * config.num_hidden_layers * config.hidden_size


def _weights(module: nn.Module) -> int:
    """Entries of the matrices that `module` itself multiplies with."""
    if isinstance(module, nn.Embedding):
        return 0
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features  # also where the stored weight is packed (4-bit)
    return sum(p.numel() for p in module.parameters(recurse=False) if p.dim() >= 2)
