"""Weights and optimizer states that lie in shards (FSDP2): put together to be saved, cut up again when they are loaded.

Left out: sharding itself (parallel.py) and files (checkpoint.py). Gathering is collective: every rank calls it in the same order.
Memory: rank 0 holds one whole copy of the weights in host memory while a model folder is written, and never more than one
whole tensor at a time besides; the other ranks hold one whole tensor at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from bottega.core.errors import UserError

if TYPE_CHECKING:
    from bottega.train.optim import Optimizer


def is_sharded(value: Any) -> bool:
    """Whether a tensor lies in shards, or a module has a parameter that does."""
    if isinstance(value, nn.Module):
        return any(is_sharded(parameter) for parameter in value.parameters())
    return hasattr(value, "full_tensor")


def full(tensor: Tensor) -> Tensor:
    """The whole tensor, on every rank; itself where it is not sharded."""
    return cast(Any, tensor).full_tensor() if is_sharded(tensor) else tensor


def cut_like(parameter: Tensor, value: Tensor) -> Tensor:
    """`value`, whole on every rank, cut up as `parameter` is; itself where it is not sharded. Nothing is sent."""
    if not is_sharded(parameter):
        return value
    from torch.distributed.tensor import distribute_tensor

    like = cast(Any, parameter)
    return distribute_tensor(value.to(parameter.device), like.device_mesh, like.placements, src_data_rank=None)


@contextlib.contextmanager
def whole(module: nn.Module, *, here: bool) -> Iterator[None]:
    """Inside, `module` has whole plain parameters in host memory in the places of its shards, where `here`; elsewhere it stays.

    Collective. The module can be saved inside by anything that reads parameters or a state dict; it cannot be run. Tied
    parameters stay tied.
    """
    places = [
        (owner, name, parameter)
        for owner in module.modules()
        for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False)
        if is_sharded(parameter)
    ]
    made: dict[int, nn.Parameter] = {}
    for _, _, parameter in places:
        if id(parameter) not in made:
            value = full(parameter.detach())
            kept = value.cpu() if here else value.new_empty(0)
            made[id(parameter)] = nn.Parameter(kept, requires_grad=parameter.requires_grad)
    try:
        if here:
            for owner, name, parameter in places:
                setattr(owner, name, made[id(parameter)])
        yield
    finally:
        if here:
            for owner, name, parameter in places:
                setattr(owner, name, parameter)


def states(optimizer: Optimizer, names: Mapping[str, nn.Parameter]) -> Iterator[tuple[str, Tensor]]:
    """("parameter|kind", whole tensor) of an optimizer's state, one after the other. Collective where it is sharded.

    Raises:
        UserError: the optimizer keeps, for a sharded weight, a state of its own form, which belongs to no place of the whole.
    """
    by_parameter = {id(p): name for name, p in names.items()}
    for parameter, state in optimizer.state.items():
        if id(parameter) not in by_parameter:
            continue
        for kind, value in state.items():
            if not isinstance(value, Tensor):
                continue
            if is_sharded(parameter) and not is_sharded(value) and value.numel() > 1:
                raise UserError(
                    f"the optimizer's {kind} cannot be put together from shards: use optimizer: adamw, or parallel: ddp"
                )
            yield f"{by_parameter[id(parameter)]}|{kind}", full(value.detach()).contiguous()
