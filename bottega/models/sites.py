"""Where a layer's blocks end: the projection that leaves attention, and the feed-forward block's way in and out, found by numbers.

Left out: what is put there (methods). Names of families and of modules prove nothing: the first linear layer whose input at one
position depends on another position is attention's output projection, and what else a layer multiplies is its feed-forward block.

Shapes: T positions, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bottega.core.errors import UserError
from bottega.models import layers, probe
from bottega.models.heads import undisturbed
from bottega.models.layers import Model

TOKENS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Full names of modules of one layer. mix: attention's output projection (or another mixer's); enter, leave: the feed-forward
    block's first and last linear layer, or twice the block itself where it is a mixture of experts; empty where there is none.
    """

    mix: str
    enter: str
    leave: str


@dataclass(slots=True)
class _Seen:
    """What a pass showed of one module: its place in the order of calls, and what went in at the last position."""

    order: int
    entered: Tensor


def find_sites(model: Model) -> list[Site]:
    """The sites of every decoder layer, in order.

    Two forward passes over 5 tokens for each kind of layer; on the meta device, over a small twin of the same class.

    Raises:
        UserError: the layers cannot be told apart, or a layer mixes positions in none of its linear layers.
    """
    found: dict[tuple[str, ...], tuple[str, str, str]] = {}
    stack = layers.decoder_layers(model)
    real = next(model.parameters()).device.type != "meta"
    if not real:
        with torch.device("cpu"):
            twin = probe.short_twin(model)
        for layer in layers.decoder_layers(twin):
            found.setdefault(_signature(layer), look(twin, layer))
    sites = []
    prefixes = {id(module): name for name, module in model.named_modules()}
    for layer in stack:
        signature = _signature(layer)
        if signature not in found:
            if not real:
                raise UserError(
                    f"{type(model).__name__} has layers of a kind that its small twin lacks; its blocks are found on real weights only"
                )
            found[signature] = look(model, layer)
        prefix = prefixes[id(layer)]
        mix, enter, leave = (f"{prefix}.{name}" if name else "" for name in found[signature])
        sites.append(Site(mix=mix, enter=enter, leave=leave))
    return sites


def _signature(layer: nn.Module) -> tuple[str, ...]:
    """Layers of one signature are built alike."""
    return tuple(f"{name} {type(module).__name__}" for name, module in layer.named_modules())


def look(model: Model, layer: nn.Module) -> tuple[str, str, str]:
    """(mix, enter, leave) of one layer, as names within it.

    Raises:
        UserError: nothing in it mixes positions.
    """
    plain, stirred = _trace(model, layer, stir=False), _trace(model, layer, stir=True)
    in_order = sorted(plain, key=lambda name: plain[name].order)
    moved = [n for n in in_order if n in stirred and not torch.equal(plain[n].entered, stirred[n].entered)]
    if not moved:
        raise UserError(
            f"{type(model).__name__} mixes positions in no linear layer of {type(layer).__name__}; use lora with names as targets"
        )
    mix = moved[0]
    mixer = mix.split(".")[0]
    experts = [name for name, child in layer.named_children() if name != mixer and holds_experts(child)]
    if experts:
        return mix, experts[0], experts[0]
    others = [name for name in in_order if name.split(".")[0] != mixer]
    return (mix, others[0], others[-1]) if others else (mix, "", "")


def holds_experts(block: nn.Module) -> bool:
    """Whether a block is a mixture of experts."""
    return any(p.ndim >= 3 for p in block.parameters()) or any(isinstance(m, nn.ModuleList) for m in block.modules())


def serves_its_own_place(model: Model, layer: nn.Module, name: str, mix: str) -> bool:
    """Whether what linear layer `name` says of one position reaches `mix` at no other: so does a query, no key and no value."""
    module, other = layer.get_submodule(name), layer.get_submodule(mix)
    seen: list[Tensor] = []

    def stir(module: nn.Module, given: Any, out: Tensor) -> Tensor:
        return _changed(out)

    for hooks in ((), (stir,)):
        with undisturbed(model), _hooked() as handles:
            handles += [module.register_forward_hook(hook) for hook in hooks]
            handles.append(other.register_forward_pre_hook(lambda _, given: seen.append(given[0][0, -1].clone())))
            _pass(model)
    return torch.equal(*seen)


def _pass(model: Model) -> None:
    vocabulary = layers.text_config(model).vocab_size
    ids = torch.arange(3, 3 + TOKENS, device=next(model.parameters()).device)[None] % vocabulary
    model(input_ids=ids, use_cache=False)


def _trace(model: Model, layer: nn.Module, *, stir: bool) -> dict[str, _Seen]:
    """What every linear layer of `layer` was given, in a pass over a few tokens; `stir` changes the layer's input just before
    the last position."""
    from transformers.pytorch_utils import Conv1D

    seen: dict[str, _Seen] = {}
    linears = {name: m for name, m in layer.named_modules() if isinstance(m, nn.Linear | Conv1D)}

    def record(name: str) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
            entered = given[0].reshape(-1, given[0].shape[-1])
            if name not in seen and len(entered) == TOKENS:  # a part of the tokens goes to an expert
                seen[name] = _Seen(len(seen), entered[-1].clone())

        return hook

    def change(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if given:
            return (_changed(given[0]), *given[1:]), named
        return given, {**named, "hidden_states": _changed(named["hidden_states"])}

    with undisturbed(model), _hooked() as handles:
        if stir:
            handles.append(layer.register_forward_pre_hook(change, with_kwargs=True))
        handles += [module.register_forward_pre_hook(record(name)) for name, module in linears.items()]
        _pass(model)
    return seen


def _changed(hidden_1TD: Tensor) -> Tensor:
    """The position before the last (the nearest: a sliding window may be short), reversed and moved."""
    *before, other, last = hidden_1TD.split(1, 1)
    return torch.cat([*before, other.flip(-1) + 1, last], 1)


@contextmanager
def _hooked() -> Iterator[list[Any]]:
    """A list of hooks' handles, all of which are taken off again."""
    handles: list[Any] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()
