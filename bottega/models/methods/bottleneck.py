"""Bottleneck adapters: two small matrices with a nonlinearity between them learn behind (or beside) a layer's blocks.

Left out: the layers themselves (methods/bottlenecks.py), and merging: a nonlinearity is no matrix. PEFT has no such method; ours is
saved as adapter_config.json and safetensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bottega.core.errors import UserError
from bottega.core.types import Attached

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["houlsby", "pfeiffer", "parallel"]
Activation = Literal["gelu", "relu", "silu"]


@dataclass(frozen=True, kw_only=True)
class Bottleneck:
    """A(x) = scale * U f(D x + d) + u, with D (width x D), U (D x width); U and u start at 0, so that A is 0 at the start.

    Args:
        kind: houlsby: h + A(h) where attention and where the feed-forward block ends (Houlsby et al. 2019, arXiv 1902.00751, figure
            2); pfeiffer: where the feed-forward block ends (Pfeiffer et al. 2021, arXiv 2005.00247, section 3.3); parallel: A of
            the feed-forward block's input is added to its output (He et al. 2022, arXiv 2110.04366, table 1).
        width: rows of D, 1 to 4096. activation: f. scale: a fixed factor (He et al. take 4 for parallel).
    """

    name: ClassVar[str] = "adapter"

    kind: Kind = "pfeiffer"
    width: int = 16
    activation: Activation = "gelu"
    scale: float = 1.0

    def __post_init__(self) -> None:
        for key, known in (("kind", ("houlsby", "pfeiffer", "parallel")), ("activation", ("gelu", "relu", "silu"))):
            if getattr(self, key) not in known:
                raise UserError(f"adapter {key} {getattr(self, key)!r} is not one of {', '.join(known)}")
        if not 1 <= self.width <= 4096:
            raise UserError(f"adapter width {self.width} is outside 1 to 4096; 16 is usual")
        if self.scale == 0:
            raise UserError("adapter scale 0 trains nothing; 1 is usual")

    def load_options(self) -> dict[str, Any]:
        """Nothing special."""
        return {}

    def attach(self, model: nn.Module) -> Attached:
        """Put the adapters into `model`.

        Raises:
            UserError: its blocks cannot be told apart, or it carries an adapter already.
        """
        from bottega.models.methods import bottlenecks

        return bottlenecks.attach(model, self)
