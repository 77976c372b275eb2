"""Freezing: chosen layers of the model learn, all else stays as it is.

Left out: layers that take turns (methods/lisa.py) and biases alone (methods/bitfit.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bottega.core.errors import UserError
from bottega.core.types import Attached

if TYPE_CHECKING:
    from torch import nn


class Freeze:
    """Train some layers of the decoder, the last ones by default (Howard and Ruder 2018, arXiv 1801.06146, section 3.3).

    Args:
        last: so many of the last layers learn, 0 or more.
        layers: these layers learn instead, counted from 0 (from the end where negative).
        also: further parameters: names of modules or parameters (`norm`, `lm_head`), or regular expressions over full
            names of parameters.
    """

    name = "freeze"

    def __init__(self, *, last: int = 2, layers: Sequence[int] = (), also: Sequence[str] = ()) -> None:
        if last < 0:
            raise UserError(f"freeze last {last} is below 0; 2 trains the last two layers")
        if not last and not layers and not also:
            raise UserError("freeze leaves nothing to train; set last, layers or also")
        self.last, self.layers = last, tuple(layers)
        self.also = (also,) if isinstance(also, str) else tuple(also)

    def load_options(self) -> dict[str, Any]:
        """Nothing special."""
        return {}

    def attach(self, model: nn.Module) -> Attached:
        """Make the chosen parameters learn.

        Raises:
            UserError: a layer that the model does not have, or a name that matches nothing (those that exist are listed).
        """
        from bottega.models import layers
        from bottega.models.methods.groups import attach_subset

        stack = layers.decoder_layers(model)
        chosen = self._numbers(len(stack))
        wanted = {id(p) for number in chosen for p in stack[number].parameters()}
        for pattern in self.also:
            wanted |= _named(model, pattern)
        attached = attach_subset(model, self.name, lambda name, parameter: id(parameter) in wanted)
        attached.facts["layers"] = chosen
        return attached

    def _numbers(self, num_layers: int) -> list[int]:
        """The layers that learn, from 0, in order."""
        if not self.layers:
            if self.last > num_layers:
                raise UserError(
                    f"freeze last {self.last} is more than the model's {num_layers} layers; use method full"
                )
            return list(range(num_layers - self.last, num_layers))
        for number in self.layers:
            if not -num_layers <= number < num_layers:
                raise UserError(
                    f"freeze layer {number} does not exist: the model has {num_layers} layers, 0 to {num_layers - 1}"
                )
        return sorted({number % num_layers for number in self.layers})


def _named(model: nn.Module, pattern: str) -> set[int]:
    """ids of the parameters that a module's or parameter's name, or a regular expression, says."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    whole = f".{pattern}."
    found = {id(p) for name, p in parameters.items() if whole in f".{name}."}
    try:
        found = found or {id(p) for name, p in parameters.items() if re.fullmatch(pattern, name)}
    except re.error as error:
        raise UserError(f"freeze also {pattern!r} is neither a name nor a regular expression ({error})") from None
    if not found:
        known = list(dict.fromkeys(part for name in parameters for part in name.split(".") if not part.isdigit()))
        raise UserError(
            f"freeze also {pattern!r} matches no parameter; names are made of: {', '.join(known)} (or a regular "
            f"expression over names such as {next(iter(parameters))})"
        )
    return found
