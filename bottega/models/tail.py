"""The last layer at the supervised positions alone: what a prompt's tokens become there, nobody reads.

Left out: layers below the last, whose keys and values every later position sees; rows that are not packed; families whose blocks
are not found by numbers. Queries, attention's output and the feed-forward block are computed for the positions that are asked
for; keys, values and norms for all. What the other positions become is not meant to be read.

Shapes: T positions of a packed row, U of them asked for, D width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bottega.core.errors import UserError
from bottega.models import attention, layers, layout, probe, sites
from bottega.models.heads import causal_model, trunk, undisturbed
from bottega.models.layers import Model

MOST = 0.8
"""The largest share of positions for which a part pays: picking and putting back cost something too."""
_CANNOT = (UserError, ValueError, KeyError, AttributeError, TypeError, RuntimeError, IndexError, NotImplementedError)
"""What families raise whose layers are of another make."""


class Tail:
    """What the hooks of a last layer share: which positions (U,) of its row its present call is asked for, None for all."""

    def __init__(self) -> None:
        self.wanted: Tensor | None = None
        self.length = 0

    def look(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Before the mixer, the first of the layer's blocks: a recompute comes by here as the forward pass did."""
        geometry = kwargs.get("layout")
        self.wanted = geometry.tail if geometry is not None else None
        self.length = (args[0] if args else kwargs["hidden_states"]).shape[1]

    def pick(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        """(1, T, D) -> (1, U, D) of a block's input."""
        return None if self.wanted is None else (args[0].index_select(1, self.wanted), *args[1:])

    def put(self, module: nn.Module, args: Any, out: Tensor) -> Tensor | None:
        """(1, U, D) -> (1, T, D) of a block's output, zeros elsewhere."""
        if self.wanted is None:
            return None
        return out.new_zeros(out.shape[0], self.length, out.shape[-1]).index_copy(1, self.wanted, out)


def part_of(at_S: Tensor, length: int) -> Tensor | None:
    """The positions (U,) of a row of `length` that are asked for, each once; None where nearly all are."""
    wanted = torch.unique(at_S)
    return wanted if len(wanted) <= MOST * length else None


def install(model: nn.Module) -> bool:
    """Give the last layer of a packed model its hooks, if a small twin shows that it is computed rightly with them.

    Once is enough: a layer that has them is left as it is. Nothing changes until a row's geometry names a part.
    """
    inner = causal_model(model)
    if getattr(inner.config, "_attn_implementation", "") != attention.NAME:
        return False
    try:
        last = layers.decoder_layers(inner)[-1]
        if "_tail" in last.__dict__:
            return True
        if any(one._forward_hooks or one._forward_pre_hooks for one in last.modules()):
            return False  # a method works there, and sees the whole row
        with undisturbed(inner), torch.device("cpu"):
            twin = probe.short_twin(inner)
            attention.install(twin)
            names = _names(twin)
            if not names or not _right(twin, names):
                return False
        return _hook(last, names)
    except _CANNOT:
        return False


def _names(twin: Model) -> dict[str, list[str]]:
    """Names within a layer: `mixer`, its `query` projections, its `mix`, and the `block` or its first and last part."""
    layer = layers.decoder_layers(twin)[-1]
    site = sites.look(twin, layer)
    mixer = site[0].split(".")[0]
    linears = [
        name for name, one in layer.named_modules() if name.startswith(f"{mixer}.") and isinstance(one, nn.Linear)
    ]
    query = [name for name in linears if name != site[0] and sites.serves_its_own_place(twin, layer, name, site[0])]
    found = {"mixer": [mixer], "query": query, "mix": [site[0]], "block": []}
    if site[1] and not sites.holds_experts(layer.get_submodule(site[1].split(".")[0])):
        found["block"] = [site[1].split(".")[0], site[2].split(".")[0]]
    return found


def _right(twin: Model, names: dict[str, list[str]]) -> bool:
    """Whether the hidden states that are asked for are those of a pass without hooks, of a packed row with a shared prefix."""
    rows = probe.rows_of(128)
    laid, _ = layout.lay(rows, packed=True)
    assert laid.geometry is not None, "laid out packed"
    wanted = torch.tensor([1, 4, 6, 7, 13, 18, 22, 26])
    call = {"input_ids": laid.ids_BT, "position_ids": laid.positions_BT, "use_cache": False}
    whole = trunk(twin)(**call, layout=laid.geometry)[0][0]
    if not _hook(layers.decoder_layers(twin)[-1], names):
        return False
    part = trunk(twin)(**call, layout=replace(laid.geometry, tail=wanted))[0][0]
    again = trunk(twin)(**call, layout=laid.geometry)[0][0]
    near = float((part[wanted] - whole[wanted]).abs().max()) <= probe.TOLERANCE * float(whole.abs().max())
    return near and torch.equal(again, whole)


def _hook(layer: nn.Module, names: dict[str, list[str]]) -> bool:
    modules = dict(layer.named_modules())
    if not all(name in modules for found in names.values() for name in found):
        return False
    block = names["block"]
    if block and sites.holds_experts(modules[block[0]]):
        block = []
    tail = Tail()
    modules[names["mixer"][0]].register_forward_pre_hook(tail.look, with_kwargs=True)
    pairs = [(name, name) for name in (*names["query"], *names["mix"])] + ([(block[0], block[1])] if block else [])
    for first, last in pairs:
        modules[first].register_forward_pre_hook(tail.pick)
        modules[last].register_forward_hook(tail.put)
    for one in modules[names["mixer"][0]].modules():
        one.__dict__[attention.PART] = True
    layer.__dict__["_tail"] = tail
    return True
