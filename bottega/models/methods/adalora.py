"""AdaLoRA: low-rank updates in the form of a singular value decomposition, whose ranks go to the layers that need them.

Left out: quantised bases. PEFT's layers and its allocator of ranks, saved as a plain PEFT adapter without the directions that were
cut. (Zhang et al. 2023, arXiv 2303.10512.)

W x becomes W x + s B diag(E) A x with A (rank x in), E (rank), B (out x rank), s = alpha / rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bottega.core.errors import UserError
from bottega.core.types import Attached
from bottega.models.methods.lora import match_targets

if TYPE_CHECKING:
    from torch import Tensor, nn

KINDS = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""What PEFT's allocator keeps for every number: its importance now, the average of that, and of how much it varies."""


@dataclass(frozen=True, kw_only=True)
class AdaLora:
    """Start with `rank` directions a layer; while it trains, cut the least important of all layers until `target` remain on average.

    Importance of a direction (paper, equations 8 to 12): |weight x gradient| of its numbers, smoothed, times how much that varies.
    The budget falls by a cubic from the end of `warmup` to the beginning of `settle` (equation 13).

    Args:
        rank: at the start, 2 to 1024. target: left on average, below rank. alpha: scale; None is 2 * rank.
        dropout: on the adapter's input. targets: as for lora.
        warmup, settle: shares of the steps, before the first cut and after the last. every: steps between cuts.
        beta1, beta2: of the two averages. orthogonality: weight of the mean of |A A^T - I| and |B^T B - I| (Frobenius norms, as PEFT
            has them; the paper's equation 4 squares them).
    """

    name: ClassVar[str] = "adalora"

    rank: int = 12
    target: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    targets: str | Sequence[str] = "all-linear"
    warmup: float = 0.1
    settle: float = 0.3
    every: int = 10
    beta1: float = 0.85
    beta2: float = 0.85
    orthogonality: float = 0.5

    def __post_init__(self) -> None:
        if not 1 <= self.target < self.rank <= 1024:
            raise UserError(
                f"adalora cuts rank {self.rank} to target {self.target}: 1 <= target < rank <= 1024; 12 and 8 are usual"
            )
        for name in ("beta1", "beta2"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise UserError(f"adalora {name} {getattr(self, name)} is not between 0 and 1; 0.85 is usual")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"adalora dropout {self.dropout} is outside 0 to 1; 0 is usual")
        if self.warmup < 0 or self.settle < 0 or self.warmup + self.settle >= 1:
            raise UserError(
                f"adalora warmup {self.warmup} and settle {self.settle} leave no steps to cut in; 0.1 and 0.3 are usual"
            )
        if self.every < 1 or self.orthogonality < 0:
            raise UserError(
                f"adalora every {self.every} is at least 1, and orthogonality {self.orthogonality} at least 0"
            )

    def load_options(self) -> dict[str, Any]:
        """Nothing special."""
        return {}

    def attach(self, model: nn.Module) -> Attached:
        """Put the layers into `model`.

        Raises:
            UserError: a target matches nothing, or the base is quantised.
        """
        from peft import AdaLoraConfig

        from bottega.models import kinds, layers
        from bottega.models.methods import peftlayers

        whole = kinds.head_modules(model)
        if whole:
            raise UserError(f"adalora leaves {', '.join(whole)} untrained, which this stage must train; use lora")
        chosen = match_targets(model, self.targets, self.name, without=kinds.unread(model))
        shapes = [layers.linear_shape(model.get_submodule(name)) for name in chosen]
        config = AdaLoraConfig(
            init_r=self.rank,
            target_r=self.target,
            lora_alpha=2.0 * self.rank if self.alpha is None else self.alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            beta1=self.beta1,
            beta2=self.beta2,
            deltaT=self.every,
            orth_reg_weight=self.orthogonality,
            total_step=1,  # `begin` says how many there are
            target_modules=peftlayers.shortest(model, chosen),
            fan_in_fan_out=peftlayers.transposed(model, chosen),
            task_type="CAUSAL_LM" if kinds.kind_of(model.config) == "decoder" else None,  # type: ignore[arg-type]
        )
        expected = sum(self.rank * (inputs + outputs + 1) for inputs, outputs in shapes)
        attached = peftlayers.attach(model, config, chosen, self.name, expected=expected)
        attached.penalty = lambda: orthogonality(attached.model, self.orthogonality)
        attached.adapting = Ranks(attached, self)
        attached.shards = False
        return attached


def orthogonality(adapted: nn.Module, weight: float) -> Tensor:
    """weight x the mean over all A (rank x in) and B (out x rank) of the Frobenius norm of A A^T - I, and of B^T B - I."""
    import torch

    norms = []
    for name, p in adapted.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            gram = p @ p.T if ".lora_A." in name else p.T @ p
            norms.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), dtype=p.dtype, device=p.device)))
    return weight * torch.stack(norms).mean()


class Ranks:
    """The allocation of ranks while it trains (core.types.Adapting), by PEFT's allocator."""

    def __init__(self, attached: Attached, plan: AdaLora) -> None:
        self.attached, self.plan = attached, plan
        adapted: Any = attached.model
        self.tuner = adapted.base_model
        self.config = self.tuner.peft_config["default"]
        self.last, self.settled = 0, False

    def begin(self, steps: int) -> None:
        """Put the shares of the plan into steps.

        Raises:
            UserError: there are too few steps to cut in.
        """
        first, settle = int(self.plan.warmup * steps), int(self.plan.settle * steps)
        self.last = steps - settle
        if self.last - first < 2:
            raise UserError(
                f"adalora has {self.last - first} of {steps} steps to cut in; give more steps, or lower warmup and settle"
            )
        self.config.total_step, self.config.tinit, self.config.tfinal = steps, first, settle

    def after_update(self, step: int) -> None:
        """Hear the gradients, cut when it is time, and keep what was cut at 0."""
        if step < self.last:
            self.tuner.update_and_allocate(step)
            self.config.rank_pattern = None  # what was cut may come back until the last cut
        elif not self.settled:
            self.tuner.update_and_allocate(self.last)
            self._settle({key.replace(".default", ""): kept for key, kept in self.config.rank_pattern.items()})
        else:
            self.tuner.update_and_allocate(step)

    def _settle(self, pattern: dict[str, list[bool]]) -> None:
        self.settled, self.config.rank_pattern = True, pattern
        ranks = sorted(sum(kept) for kept in pattern.values())
        self.attached.facts |= {"rank_least": ranks[0], "rank_most": ranks[-1], "rank_mean": sum(ranks) / len(ranks)}

    def remember(self) -> dict[str, Tensor]:
        """The averages, and once the last cut was made which directions are left."""
        import torch

        if self.settled:
            return {f"kept|{name}": torch.tensor(kept) for name, kept in self.config.rank_pattern.items()}
        allocator = self.tuner.rankallocator
        return {
            f"{kind}|{name}": value.detach().cpu().contiguous()
            for kind in KINDS
            for name, value in getattr(allocator, kind).items()
        }

    def recall(self, state: Mapping[str, Tensor]) -> None:
        """As `remember` left them."""
        allocator = self.tuner.rankallocator
        allocator.reset_ipt()
        self.settled, self.config.rank_pattern = False, None
        devices = {name: p.device for name, p in self.tuner.model.named_parameters()}
        pattern = {}
        for key, value in state.items():
            kind, _, name = key.partition("|")
            if kind == "kept":
                pattern[name] = [bool(one) for one in value.tolist()]
            else:
                getattr(allocator, kind)[name] = value.to(devices[name])
        if pattern:
            self._settle(pattern)
