"""Attention of all sequences of a packed row in one call of a variable-length kernel, on GPUs in 16 bits.

Left out: CPUs, 32 bits, dropout, soft caps, sinks, ALiBi and learned prefixes; models/attention.py computes those block by
block.

Shapes: N heads, T positions, H head size.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from bottega.models.attention import Block

LARGEST_HEAD = 256
"""Of the kernel (FlashAttention 2)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Where sequences begin and end among the queries and among the keys; keys (S,) is None where they are the queries' places."""

    starts_q: Tensor
    starts_k: Tensor
    longest_q: int
    longest_k: int
    keys: Tensor | None


def lengths(blocks: Sequence[Block], device: torch.device) -> Lengths:
    """The kernel's view of a packed row: a sequence's keys are what it shares, then its own.

    >>> from bottega.models.attention import Block
    >>> found = lengths([Block(0, 2), Block(2, 3, 0, 2)], torch.device("cpu"))
    >>> found.starts_q.tolist(), found.starts_k.tolist(), found.keys.tolist()
    ([0, 2, 3], [0, 2, 5], [0, 1, 0, 1, 2])
    """
    own = [block.end - block.start for block in blocks]
    seen = [block.shared_end - block.shared_start + mine for block, mine in zip(blocks, own, strict=True)]
    keys = None
    if seen != own:
        places = [p for b in blocks for p in (*range(b.shared_start, b.shared_end), *range(b.start, b.end))]
        keys = torch.tensor(places, device=device)

    def starts(sizes: list[int]) -> Tensor:
        return torch.tensor([0, *sizes]).cumsum(0).to(device, torch.int32)

    return Lengths(starts_q=starts(own), starts_k=starts(seen), longest_q=max(own), longest_k=max(seen), keys=keys)


def fits(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> bool:
    """Whether the kernel computes this: on a CUDA device that has it, all in the same 16 bits, nothing dropped, heads of at most 256
    numbers and a multiple of 8."""
    if not query.is_cuda or query.dtype not in (torch.bfloat16, torch.float16) or dropout:
        return False
    size = query.shape[-1]
    alike = query.dtype == key.dtype == value.dtype and size == value.shape[-1]
    return alike and size <= LARGEST_HEAD and size % 8 == 0 and _serves(query.device.index) and _kernel() is not None


def attend(
    query: Tensor, key: Tensor, value: Tensor, where: Lengths, scaling: float | None, window: int | None
) -> Tensor:
    """Causal attention of every sequence to its own keys; a query at position p sees (p - window, p].

    Args:
        query, key, value: (1, N, T, H), (1, N_kv, T, H); N a multiple of N_kv.

    Returns:
        (1, T, N, H).
    """
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if where.keys is not None:
        k, v = k.index_select(0, where.keys), v.index_select(0, where.keys)
    found = _kernel()
    assert found is not None, "asked where `fits` says no"
    call, knows_groups = found
    options: dict[str, Any] = {"scale": scaling, "window_size": (-1 if window is None else window - 1, 0)}
    if q.shape[1] != k.shape[1]:
        if knows_groups:
            options["enable_gqa"] = True
        else:  # torch 2.10 and 2.11
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    out = call(q, k, v, where.starts_q, where.starts_k, where.longest_q, where.longest_k, **options)
    return out[None]


@functools.cache
def _serves(index: int) -> bool:
    """Whether the GPU is of a generation that the kernel was built for: NVIDIA's from Ampere on."""
    return torch.version.hip is None and torch.cuda.get_device_capability(index) >= (8, 0)


@functools.cache
def _kernel() -> tuple[Any, bool] | None:
    """torch's function, and whether it takes fewer heads of keys than of queries; None where this build has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn, "enable_gqa" in inspect.signature(varlen_attn).parameters
