"""QLoRA: LoRA on a base whose linear layers are kept in 4 or 8 bits (Dettmers et al. 2023, arXiv 2305.14314).

Left out: paged optimizer states, and starts that change the base (PiSSA, OLoRA) or read its matrices (DoRA), which a
packed matrix does not allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bottega.core.errors import UserError
from bottega.core.types import Attached
from bottega.models.methods.lora import Lora

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class QLora:
    """Train low-rank updates of linear layers over a quantised base: y = deq(W_q) x + s B A x.

    Args:
        base: nf4 (4.13 bits a weight) or int8 (8 bits and a scale a row).
        rank: r, 1 to 1024. alpha: scale; None is 2 * rank. dropout: on the adapter's input.
        targets: `all-linear` (every linear layer but the head), names, or a regular expression.
        rslora: scale alpha / sqrt(rank). init: zero (B = 0), gaussian or orthogonal.
        lr_ratio: learning rate of B over that of A, LoRA+.
        merge_kl: largest KL in nats a token between the model as trained and merged; above it a merge is refused.
    """

    name: ClassVar[str] = "qlora"

    base: Literal["nf4", "int8"] = "nf4"
    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    targets: str | Sequence[str] = "all-linear"
    rslora: bool = False
    init: Literal["zero", "gaussian", "orthogonal"] = "zero"
    lr_ratio: float = 1.0
    merge_kl: float = 1e-3

    def __post_init__(self) -> None:
        if self.base not in ("nf4", "int8"):
            raise UserError(f"qlora base {self.base!r} is not one of nf4, int8")
        if self.init not in ("zero", "gaussian", "orthogonal"):
            raise UserError(f"qlora init {self.init!r} is not one of zero, gaussian, orthogonal")
        if self.merge_kl < 0:
            raise UserError(f"qlora merge_kl {self.merge_kl} is below 0; 1e-3 is usual")
        self._lora()

    def _lora(self) -> Lora:
        return Lora(
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            targets=self.targets,
            rslora=self.rslora,
            init=self.init,
            lr_ratio=self.lr_ratio,
        )

    def load_options(self) -> dict[str, Any]:
        """The base is loaded quantised."""
        return {"weights": self.base}

    def attach(self, model: nn.Module) -> Attached:
        """Put the low-rank layers over the quantised ones.

        Raises:
            UserError: as Lora; or the base is quantised otherwise.
        """
        from bottega.models import quant
        from bottega.models.lean import quantise_resident

        kinds = {layer.kind for _, layer in quant.quantised_layers(model)}
        if not kinds:  # a stage before left it in full precision
            quantise_resident(model, self.base)
        elif kinds != {self.base}:
            held = ", ".join(sorted(kinds))
            raise UserError(
                f"qlora wants a base in {self.base}, and this one is in {held}; load it with weights {self.base}"
            )
        attached = self._lora().attach(model)
        attached.name = self.name
        attached.facts |= {"base": self.base, "merge_kl": self.merge_kl}
        return attached
