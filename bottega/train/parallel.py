"""Processes: who am I, sums over all, and a Scorer wrapped for data parallel or sharded training.

Left out: launching (torchrun does it), sequence and pipeline parallelism.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bottega.core.errors import UserError
from bottega.models.heads import trunk

STRATEGIES = ("ddp", "fsdp")
COLLECTIVE_S = 24 * 3600.0
"""How long a collective may wait for the slowest rank: a day, since what a step may take is watched elsewhere."""
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This process's rank among `size`."""

    rank: int = 0
    size: int = 1


def size_here() -> int:
    """How many processes torchrun's environment speaks of; 1 where there is none."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(store: dist.Store | None = None, *, device: str = "cpu") -> World:
    """Join the process group that torchrun's environment describes; alone where there is none.

    Args:
        store: where the processes find one another; by default the environment says it. A store (or a prefix in it) can be
            used for one group only. device: where this process's model lies.
    """
    size = size_here()
    if size == 1:
        return World()
    if not dist.is_initialized():
        cuda = device.startswith("cuda")
        if cuda:
            torch.cuda.set_device(device)
        given: dict[str, Any] = {"store": store, "rank": int(os.environ["RANK"]), "world_size": size} if store else {}
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"  # counts and sums are CPU tensors
        dist.init_process_group(backend, timeout=timedelta(seconds=COLLECTIVE_S), **given)
    return World(rank=dist.get_rank(), size=size)


def leave(world: World) -> None:
    """Leave the process group; what still holds it and is let go of (DistributedDataParallel) is collected first, for gloo's
    threads that outlive the interpreter end the process with an abort."""
    if world.size > 1 and dist.is_initialized():
        dist.barrier()
        gc.collect()
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


def mine(world: World, items: Sequence[Item]) -> Sequence[Item]:
    """This rank's items: every `size`-th, so that the ranks together have each one once, whatever their number."""
    return items[world.rank :: world.size]


def together(world: World, own: Tensor) -> Tensor:
    """The sum of everybody's tensors, which have one shape: parts that each rank filled in, zero elsewhere."""
    if world.size > 1:
        dist.all_reduce(own)
    return own


def distinct_noise(world: World, step: int) -> None:
    """Random numbers of this rank from here on: rank 0 goes on as it was, each other rank has its own (dropout)."""
    if world.rank > 0:
        torch.manual_seed(torch.initial_seed() + 1_000_003 * world.rank + 7919 * step)


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


def wrap(scorer: nn.Module, world: World, strategy: str, *, precision: str = "fp32") -> nn.Module:
    """The Scorer as it is (one process), under DDP, or sharded layer by layer by FSDP2.

    Args:
        precision: bf16 lets FSDP2 gather weights and compute in bfloat16 and sum gradients in float32; the shards stay float32.

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
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(next(scorer.parameters()).device.type, (world.size,))
    half = torch.bfloat16 if precision == "bf16" else None
    sums = torch.float32 if half else None
    for layer in layers(scorer.model):  # type: ignore[arg-type]
        fully_shard(layer, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=half, reduce_dtype=sums))
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=sums, cast_forward_inputs=False)
    fully_shard(scorer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)  # so that it always ends in shards
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
