"""Several LoRA adapters on one base at once: each row of a batch takes the adapters that it asks for, or none.

Left out: adapters of other kinds, DoRA, and adapters with whole modules or tokens of their own (`read_lora` refuses them: merge those
into their base); training.

A row with the route {a: 1, b: 0.6} computes W x + 1 s_a B_a A_a x + 0.6 s_b B_b A_b x: what bottega merge writes for `a+b:0.6`.

Shapes: B rows, T positions, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bottega.core.errors import Mismatch, UserError
from bottega.models.blend_adapters import read_lora
from bottega.models.layers import linear_shape

Route = tuple[tuple[str, float], ...]
"""Names of adapters with their weights; () is the base."""
PREFIX = "base_model.model."


@dataclass(slots=True)
class Plan:
    """Which adapters act on the batch in progress: on which rows (None: all), and with which weight, one for all or one a row."""

    num_rows: int = 0
    shares: dict[str, tuple[Tensor | None, float | Tensor]] = field(default_factory=dict)


class Routed(nn.Module):
    """A linear layer and what the adapters of a row's route add to it."""

    def __init__(self, base: nn.Module, plan: Plan) -> None:
        super().__init__()
        self.training = base.training
        self.base, self.plan = base, plan
        self.factors: dict[str, tuple[Tensor, Tensor]] = {}

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., I) -> (..., O); where routes differ the first dimension is the rows, or rows and positions in one."""
        out: Tensor = self.base(x, *args, **kwargs)
        for name, (rows, weight) in self.plan.shares.items():
            if name in self.factors:
                low_RI, high_OR = self.factors[name]
                if rows is None and isinstance(weight, float):
                    out = out + (weight * (x.to(low_RI.dtype) @ low_RI.T @ high_OR.T)).to(out.dtype)
                else:
                    out = self._add(out, x, self.factors[name], rows, weight)
        return out

    def _add(
        self, out: Tensor, x: Tensor, factors: tuple[Tensor, Tensor], rows: Tensor | None, weight: float | Tensor
    ) -> Tensor:
        low_RI, high_OR = factors
        x_BTI, out_BTO = (t.reshape(self.plan.num_rows, -1, t.shape[-1]) for t in (x, out))
        mine_RTI = x_BTI if rows is None else x_BTI.index_select(0, rows)
        by_row = weight if isinstance(weight, float) else weight[:, None, None].to(low_RI.dtype)
        update_RTO = (by_row * (mine_RTI.to(low_RI.dtype) @ low_RI.T @ high_OR.T)).to(out.dtype)
        added_BTO = out_BTO + update_RTO if rows is None else out_BTO.index_add(0, rows, update_RTO)
        return added_BTO.reshape(out.shape)


class Adapters:
    """The adapters that lie on one base, by name; they come and go while the base is used, between two forward passes.

    mixes: whether rows of different routes may share a batch, as a numeric comparison on the model found.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.plan = Plan()
        self.mixes = True
        self._names: dict[str, list[str]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def add(self, name: str, folder: str | Path) -> None:
        """Read a LoRA adapter in PEFT's format.

        Raises:
            UserError: the name is taken, or the adapter is of another kind. Mismatch: it does not fit the base.
        """
        if name in self._names:
            raise UserError(f"there is an adapter {name!r} already: take another name, or unload that one first")
        read = read_lora(folder)
        places = {layer: self._layer(layer.removeprefix(PREFIX), folder) for layer in read.layers}
        for layer, (low_RI, high_OR) in read.layers.items():
            module = places[layer]
            inputs, outputs = _shape(module)
            if (low_RI.shape[1], high_OR.shape[0]) != (inputs, outputs):
                raise Mismatch(
                    f"{folder}: {layer} is for {low_RI.shape[1]} inputs and {high_OR.shape[0]} outputs, the base has {inputs} and "
                    f"{outputs} there: give the base that it was trained on"
                )
        for layer, (low_RI, high_OR) in read.layers.items():
            routed = self._routed(layer.removeprefix(PREFIX))
            where = next(routed.base.parameters(), low_RI)
            dtype = where.dtype if where.dtype.is_floating_point else torch.float32
            routed.factors[name] = (low_RI.to(where.device, dtype), high_OR.to(where.device, dtype))
        self._names[name] = [layer.removeprefix(PREFIX) for layer in read.layers]
        self.mixes = self.mixes and self._agrees(name)

    def remove(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            UserError: there is none of that name.
        """
        for layer in self._names.pop(self.known(name)):
            del self._routed(layer).factors[name]

    def known(self, name: str) -> str:
        """Raises UserError where no adapter has this name."""
        if name not in self._names:
            raise UserError(f"there is no adapter {name!r}; there are {', '.join(self._names) or 'none'}")
        return name

    @contextmanager
    def routing(self, routes: Sequence[Route]) -> Iterator[None]:
        """While inside, row i of a batch takes routes[i]."""
        self.plan.num_rows, self.plan.shares = len(routes), self._shares(routes)
        try:
            yield
        finally:
            self.plan.num_rows, self.plan.shares = 0, {}

    def _shares(self, routes: Sequence[Route]) -> dict[str, tuple[Tensor | None, float | Tensor]]:
        weights: dict[str, dict[int, float]] = {}
        for row, route in enumerate(routes):
            for name, weight in route:
                weights.setdefault(name, {})[row] = weight
        device = next(self.model.parameters()).device
        shares: dict[str, tuple[Tensor | None, float | Tensor]] = {}
        for name, by_row in weights.items():
            rows = None if len(by_row) == len(routes) else torch.tensor(list(by_row), device=device)
            values = list(by_row.values())
            shares[name] = (rows, values[0] if len(set(values)) == 1 else torch.tensor(values, device=device))
        return shares

    def _layer(self, name: str, folder: str | Path) -> nn.Module:
        try:
            return self.model.get_submodule(name)
        except AttributeError:
            raise Mismatch(f"{folder} has weights for {name}, which the base lacks: give its own base") from None

    def _routed(self, name: str) -> Routed:
        module = self.model.get_submodule(name)
        if isinstance(module, Routed):
            return module
        parent, _, own = name.rpartition(".")
        made = Routed(module, self.plan)
        setattr(self.model.get_submodule(parent), own, made)
        return made

    @torch.no_grad()
    def _agrees(self, name: str) -> bool:
        """Whether two rows of different routes in one batch get what each gets alone."""
        table: Any = self.model
        num_tokens = table.get_input_embeddings().num_embeddings
        device = next(self.model.parameters()).device
        ids_BT = torch.tensor([[(7 * at + 3) % num_tokens for at in range(6)]] * 3, device=device)
        routes: list[Route] = [((name, 1.0),), (), ((name, 0.5),)]
        try:
            with self.routing(routes):
                together = table(input_ids=ids_BT, use_cache=False).logits
        except RuntimeError:  # rows cannot be told apart somewhere (experts take tokens one by one)
            return False
        for row, route in enumerate(routes):
            with self.routing([route]):
                alone = table(input_ids=ids_BT[row : row + 1], use_cache=False).logits[0].float()
            coarse = 0.05 if next(self.model.parameters()).dtype != torch.float32 else 1e-4
            if not (together[row].float() - alone).abs().max() <= coarse * (1 + alone.abs().max()):
                return False
        return True


def _shape(layer: Any) -> tuple[int, int]:
    """(inputs, outputs) of a layer, laid out anew (prepack.py) or not."""
    base: Any = layer.base if isinstance(layer, Routed) else layer
    if hasattr(base, "in_features"):
        return int(base.in_features), int(base.out_features)
    return linear_shape(base)


def route_of(parts: Mapping[str, float]) -> Route:
    """A route in one order, so that the same mixture is the same route."""
    return tuple(sorted((name, weight) for name, weight in parts.items() if weight != 0.0))
