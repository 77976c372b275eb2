"""A learned gate over frozen adapters: what several LoRA adapters of one base know, mixed anew for every token.

Left out: the layers themselves (methods/gates.py), adapters of other kinds, and merging: a gate that looks at the token is no matrix.
PEFT has no such method; ours is saved as adapter_config.json and safetensors, the adapters' own numbers with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bottega.core.errors import UserError
from bottega.core.types import Attached

if TYPE_CHECKING:
    from torch import nn

MAX_ADAPTERS = 64


@dataclass(frozen=True, kw_only=True)
class Gate:
    """W x + sum over i of g_i(x) s_i B_i A_i x in each layer that an adapter has, with g_i(x) = sigmoid(w_i x + c_i).

    w and c start at 0, so that every adapter counts one half: what bottega merge a:0.5 b:0.5 writes. Nothing else learns.

    Args:
        adapters: folders of LoRA adapters (or runs that made them) on the base that is tuned.
    """

    name: ClassVar[str] = "gate"

    adapters: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.adapters, str) or len(self.adapters) > MAX_ADAPTERS:
            raise UserError(f"gate adapters is a list of 1 to {MAX_ADAPTERS} folders: [runs/a, runs/b]")

    def load_options(self) -> dict[str, Any]:
        """Nothing special."""
        return {}

    def attach(self, model: nn.Module) -> Attached:
        """Hang the adapters and their gates into `model`.

        Raises:
            UserError: no adapter is named, or one cannot be combined. Mismatch: one was trained on another base.
        """
        from bottega.models.methods import gates

        return gates.attach_named(model, self.adapters)
