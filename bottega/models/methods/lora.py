"""LoRA and its kin (rsLoRA, DoRA, LoRA+, PiSSA and OLoRA starts) with plain PEFT layers, saved as plain PEFT adapters.

Left out: quantised bases (methods/qlora.py) and a rank budget (methods/adalora.py).

W x becomes W x + s B A x with A (rank x in), B (out x rank), s = alpha / rank (Hu et al. 2021, arXiv 2106.09685,
section 4.1).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from bottega.core.errors import UserError
from bottega.core.types import Attached
from bottega.models.methods.groups import make_groups

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bottega.models.layers import Model

ALL = "all-linear"
Init = Literal["zero", "gaussian", "orthogonal", "pissa", "olora"]
_PEFT_INIT: dict[str, bool | str] = {
    "zero": True,
    "gaussian": "gaussian",
    "orthogonal": "orthogonal",
    "pissa": "pissa",
    "olora": "olora",
}
_MUTATING = ("pissa", "olora")
"""Starts that move part of the base's weights into the adapter (PITFALLS: with it off, the base is not the base)."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Train low-rank updates of linear layers; the base stays as it is.

    Args:
        rank: r, 1 to 1024. alpha: scale; None is 2 * rank. dropout: on the adapter's input.
        targets: `all-linear` (every linear layer but the head), names (`q_proj`), or a regular expression that a
            layer's full name must match.
        rslora: scale alpha / sqrt(rank) (arXiv 2312.03732). dora: learn magnitudes too (arXiv 2402.09353).
        init: zero (B = 0), gaussian, orthogonal, pissa (arXiv 2404.02948), olora (arXiv 2406.01775).
        lr_ratio: learning rate of B over that of A, LoRA+ (arXiv 2402.12354; 16 is typical there).
        new_tokens: ids whose embeddings learn too (rows of the embedding and, if it is not tied, of the head).
    """

    name: ClassVar[str] = "lora"

    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    targets: str | Sequence[str] = ALL
    rslora: bool = False
    dora: bool = False
    init: Init = "zero"
    lr_ratio: float = 1.0
    new_tokens: Sequence[int] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= 1024:
            raise UserError(f"lora rank {self.rank} is outside 1 to 1024; 16 is usual")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"lora dropout {self.dropout} is outside 0 to 1; 0 is usual")
        if self.init not in _PEFT_INIT:
            raise UserError(f"lora init {self.init!r} is not one of {', '.join(_PEFT_INIT)}")
        if self.init == "orthogonal" and self.rank % 2:
            raise UserError(f"lora init orthogonal needs an even rank, not {self.rank}")
        if self.dora and self.init in _MUTATING:
            raise UserError(f"lora init {self.init} cannot be combined with dora; drop one of them")
        if self.lr_ratio <= 0:
            raise UserError(f"lora lr_ratio {self.lr_ratio} must be above 0; 1 trains A and B alike")

    def load_options(self) -> dict[str, Any]:
        """Nothing special."""
        return {}

    def attach(self, model: nn.Module) -> Attached:
        """Put the low-rank layers into `model`.

        Raises:
            UserError: a target matches nothing (the names that exist are listed), or a new token is out of range.
        """
        from peft import LoraConfig, get_peft_model

        from bottega.models import kinds, layers, quant

        refuse_adapted(model)
        quant.import_quietly()
        whole = kinds.head_modules(model)
        chosen = match_targets(model, self.targets, without=[*whole, *kinds.unread(model)])
        shapes = {name: layers.linear_shape(model.get_submodule(name)) for name in chosen}
        config = LoraConfig(
            r=self.rank,
            lora_alpha=2.0 * self.rank if self.alpha is None else self.alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=shortest(model, chosen),
            use_rslora=self.rslora,
            use_dora=self.dora,
            init_lora_weights=_PEFT_INIT[self.init],  # type: ignore[arg-type]
            fan_in_fan_out=not all_plain(model, chosen),
            trainable_token_indices=_token_rows(model, self.new_tokens),
            modules_to_save=whole or None,
            task_type=_task_type(model),  # type: ignore[arg-type]
        )
        expected = sum(self.rank * (inputs + outputs) + outputs * self.dora for inputs, outputs in shapes.values())
        expected += (
            len(set(self.new_tokens)) * layers.text_config(model).hidden_size * (1 if layers.is_tied(model) else 2)
        )
        expected += sum(p.numel() for name in whole for p in model.get_submodule(name).parameters())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT 0.21 asks transformers for a name of yesterday
            adapted = get_peft_model(model, config).train(model.training)
        attached = _attached(
            adapted, chosen, self.lr_ratio, starts=_starts(adapted) if self.init in _MUTATING else None
        )
        trainable = attached.facts["trainable"]
        assert trainable == expected, f"LoRA trains {trainable} numbers, the formula says {expected}"
        attached.reference_kind = "copy" if self.init in _MUTATING else "off"
        return attached


def refuse_adapted(model: nn.Module) -> None:
    """A second adapter on a first would leave it unclear what is saved and merged.

    Raises:
        UserError: the model carries adapter layers already.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise UserError(
            "the model already carries an adapter; merge it first (then: merge), or continue it (then: continue)"
        )


def _task_type(model: nn.Module) -> str | None:
    """What PEFT calls the model, so that its own loader finds the class."""
    from bottega.models import kinds

    if kinds.is_labeller(model):
        return "SEQ_CLS"
    if kinds.is_tagger(model):
        return "TOKEN_CLS"
    if kinds.kind_of(model.config) == "encoder":
        return "FEATURE_EXTRACTION" if cast(Any, model).get_output_embeddings() is None else None
    return "CAUSAL_LM" if kinds.kind_of(model.config) == "decoder" else "SEQ_2_SEQ_LM"


def match_targets(
    model: nn.Module, targets: str | Sequence[str], method: str = "lora", *, without: Sequence[str] = ()
) -> list[str]:
    """Full names of the linear layers that `targets` names; those of the modules `without` learn whole and are left out.

    `method` is who asks.

    Raises:
        UserError: one of them matches nothing; the names that exist are listed.
    """
    from bottega.models import layers

    linears = {
        name: layer
        for name, layer in layers.linear_layers(model).items()
        if not any(name == part or name.startswith(f"{part}.") for part in without)
    }
    if targets == ALL:
        return list(linears)
    chosen: dict[str, None] = {}
    for target in [targets] if isinstance(targets, str) else targets:
        by_name = [name for name in linears if name == target or name.endswith(f".{target}")]
        try:
            found = by_name or [name for name in linears if re.fullmatch(target, name)]
        except re.error as error:
            raise UserError(
                f"{method} target {target!r} is neither a layer nor a regular expression ({error})"
            ) from None
        if not found:
            raise UserError(
                f"{method} target {target!r} matches no linear layer; there are: {', '.join(layers.short_names(linears))} "
                f"(or {ALL}, or a regular expression over names such as {next(iter(linears), 'none')})"
            )
        chosen |= dict.fromkeys(found)
    if not chosen:
        raise UserError(f"{method} has no targets; name some, or use {ALL}")
    return [name for name in linears if name in chosen]


def shortest(model: nn.Module, chosen: list[str]) -> list[str]:
    """Short names where they say exactly the chosen layers (PEFT matches by ending), else the full ones."""
    from bottega.models import layers

    short = layers.short_names(chosen)
    said = [name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] in short]
    return sorted(short) if sorted(said) == sorted(chosen) else sorted(chosen)


def all_plain(model: nn.Module, chosen: list[str]) -> bool:
    """Whether all are nn.Linear, and none a transposed layer."""
    from torch import nn

    return all(isinstance(model.get_submodule(name), nn.Linear) for name in chosen)


def _token_rows(model: Model, tokens: Sequence[int]) -> dict[str, list[int]] | None:
    """PEFT's trainable_token_indices: the embedding's rows, and the head's where it has a matrix of its own."""
    from bottega.models import layers

    if not tokens:
        return None
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    rows = table.weight.shape[0]
    if not all(0 <= token < rows for token in tokens):
        raise UserError(
            f"lora new_tokens {sorted(tokens)[-1]} is outside the model's {rows} embeddings; extend the vocabulary "
            f"first"
        )
    wanted = [table] if layers.is_tied(model) else [table, head]
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(module)]: sorted(set(tokens)) for module in wanted}


def _attached(adapted: Any, chosen: list[str], lr_ratio: float, starts: dict[str, Tensor] | None) -> Attached:
    from bottega.models import layers, lowrank
    from bottega.models.methods.adapter import merge_adapter, save_adapter

    lowrank.quicken(adapted)
    named = list(adapted.named_parameters())
    fast = [(name, p) for name, p in named if ".lora_B." in name]
    slow = [(name, p) for name, p in named if ".lora_B." not in name]
    groups = make_groups(named) if lr_ratio == 1.0 else make_groups(slow) + make_groups(fast, lr_scale=lr_ratio)
    trainable, total = layers.count_parameters(adapted)
    return Attached(
        name="lora",
        model=adapted,
        groups=groups,
        save=lambda folder: save_adapter(adapted, folder, starts),
        merge=lambda: merge_adapter(adapted),
        facts={
            "trainable": trainable,
            "total": total,
            "share": trainable / total,
            "targets": layers.short_names(chosen),
        },
    )


def _starts(adapted: nn.Module) -> dict[str, Tensor]:
    """Copies of A and B at the start, by name."""
    return {
        name: p.detach().clone() for name, p in adapted.named_parameters() if ".lora_A." in name or ".lora_B." in name
    }


def attach_saved(model: nn.Module, folder: Path, *, trainable: bool) -> Attached:
    """Attach a LoRA adapter saved in PEFT's format; its weights come in float32 whatever the file holds.

    Raises:
        UserError: it does not fit the base.
    """
    from peft import PeftModel

    from bottega.models import quant
    from bottega.models.methods.adapter import check_fits

    refuse_adapted(model)
    quant.import_quietly()
    config = check_fits(model, folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # as in attach
            warnings.filterwarnings("ignore", message="fan_in_fan_out")  # of a GPT-2 on its quantised layers: set right
            adapted = PeftModel.from_pretrained(
                model, str(folder), config=config, is_trainable=trainable, torch_device="cpu", local_files_only=True
            )
    except (ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"the adapter {folder} does not fit its base: {' '.join(str(error).split())[:200]}") from error
    adapted.train(model.training)
    chosen = [name for name, module in adapted.get_base_model().named_modules() if hasattr(module, "lora_A")]
    if not chosen:
        raise UserError(f"the adapter {folder} matches no layer of its base; check base_model_name_or_path")
    return _attached(adapted, chosen, 1.0, None)
