"""Processes: who am I, sums over all, and a Scorer wrapped for data parallel or sharded training.

Left out: launching (torchrun does it), sequence and pipeline parallelism.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bottega.core.errors import UserError
from bottega.models.heads import trunk


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This process's rank among `size`."""

    rank: int = 0
    size: int = 1


def join() -> World:
    """Join the process group that torchrun's environment describes; alone where there is none."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return World(rank=dist.get_rank(), size=size)


def leave(world: World) -> None:
    """Leave the process group."""
    if world.size > 1 and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def total(world: World, values: Mapping[str, float]) -> dict[str, float]:
    """Sum each value over all ranks, in float64; every rank must bring the same names."""
    if world.size == 1:
        return dict(values)
    names = sorted(values)
    sums = torch.tensor([float(values[name]) for name in names], dtype=torch.float64)
    dist.all_reduce(sums)
    return dict(zip(names, sums.tolist(), strict=True))


def most(world: World, value: int) -> int:
    """The largest value on any rank."""
    if world.size == 1:
        return value
    largest = torch.tensor([value])
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


def gather(world: World, own: Tensor) -> tuple[Tensor, int]:
    """Everybody's (n_r, D) tensors one after the other, and where this rank's begin. n_r may differ."""
    if world.size == 1:
        return own, 0
    counts = [torch.zeros(1, dtype=torch.long) for _ in range(world.size)]
    dist.all_gather(counts, torch.tensor([len(own)]))
    sizes = [int(c) for c in counts]
    padded = own.new_zeros(max(sizes), *own.shape[1:])
    padded[: len(own)] = own
    parts = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]), sum(sizes[: world.rank])


def wrap(scorer: nn.Module, world: World, strategy: str) -> nn.Module:
    """The Scorer as it is (one process), under DDP, or sharded layer by layer by FSDP2.

    Raises:
        UserError: the strategy is not known.
    """
    if world.size == 1:
        return scorer
    if strategy == "ddp":
        return nn.parallel.DistributedDataParallel(scorer)
    if strategy != "fsdp":
        raise UserError(f"parallel strategy {strategy!r} is not known: use ddp or fsdp")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (world.size,))
    for layer in layers(scorer.model):  # type: ignore[arg-type]
        fully_shard(layer, mesh=mesh)
    fully_shard(scorer, mesh=mesh)
    return scorer


def layers(model: nn.Module) -> nn.ModuleList:
    """The list of the model's layers: the longest ModuleList of its trunk."""
    lists = [module for module in trunk(model).modules() if isinstance(module, nn.ModuleList)]
    assert lists, "the trunk holds no list of layers"
    return max(lists, key=len)


def is_replica(module: nn.Module) -> bool:
    """Whether gradients are summed over ranks at the end of a backward pass, and nowhere else."""
    return isinstance(module, nn.parallel.DistributedDataParallel)


def average_gradients(world: World, parameters: Iterable[nn.Parameter]) -> None:
    """What a replica's last backward pass does to gradients, done on its own: their mean over ranks."""
    for parameter in parameters:
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= world.size


@contextlib.contextmanager
def synced(module: Any, when: bool) -> Iterator[None]:
    """Gradients are reduced over ranks in this backward only if `when` (the last micro-batch)."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        with contextlib.nullcontext() if when else module.no_sync():
            yield
    elif hasattr(module, "set_requires_gradient_sync"):
        module.set_requires_gradient_sync(when)
        yield
    else:
        yield
