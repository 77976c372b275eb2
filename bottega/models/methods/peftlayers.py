"""Methods whose layers are PEFT's (IA3, OFT, VeRA, AdaLoRA): put in, counted, saved, merged, and attached again.

Left out: LoRA, whose starts and new tokens have code of their own (methods/lora.py).
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from peft import AdaLoraConfig, IA3Config, OFTConfig, PeftModel, VeraConfig, get_peft_model
from torch import nn

from bottega.core.errors import UserError
from bottega.core.types import Attached
from bottega.models import layers, quant, safety
from bottega.models.methods.adapter import merge_adapter, save_adapter
from bottega.models.methods.groups import make_groups
from bottega.models.methods.lora import all_plain, refuse_adapted, shortest

__all__ = ["attach", "attach_saved", "shortest", "transposed"]

CONFIGS: dict[str, tuple[str, type[Any]]] = {
    "IA3": ("ia3", IA3Config),
    "OFT": ("oft", OFTConfig),
    "VERA": ("vera", VeraConfig),
    "ADALORA": ("adalora", AdaLoraConfig),
}
"""`peft_type` of a saved adapter -> its method's name and PEFT's class of its config."""
_PARAMETER = re.compile(r"\.(ia3_l|oft_R|vera_lambda_[bd]|lora_[ABE])(\..*)?$")


def transposed(model: nn.Module, chosen: list[str]) -> bool:
    """Whether the chosen layers keep their matrices transposed (GPT-2's Conv1D).

    Raises:
        UserError: some do and some do not, which PEFT cannot say.
    """
    plain = [name for name in chosen if all_plain(model, [name])]
    if plain and len(plain) < len(chosen):
        other = next(name for name in chosen if name not in plain)
        raise UserError(f"{other} keeps its matrix transposed and {plain[0]} does not; name targets of one kind")
    return not plain


def attach(
    model: nn.Module, config: Any, chosen: list[str], name: str, *, expected: int, decays: bool = True
) -> Attached:
    """Put PEFT's layers on the `chosen` ones; they train `expected` numbers.

    Args:
        decays: False where 0 is no start to go back to (factors), so that weight decay stays off.

    Raises:
        UserError: the model carries an adapter, or its base is quantised.
    """
    refuse_adapted(model)
    if quant.quantised_layers(model):
        raise UserError(f"method {name} works on a full base; use qlora on a quantised one")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT 0.21 asks transformers for a name of yesterday
        adapted = get_peft_model(model, config).train(model.training)  # type: ignore[arg-type]
    attached = _attached(adapted, chosen, name, decays=decays)
    trainable = attached.facts["trainable"]
    assert trainable == expected, f"{name} trains {trainable} numbers, the formula says {expected}"
    attached.reference_kind = "off"
    return attached


def _attached(adapted: PeftModel, chosen: list[str], name: str, *, decays: bool = True) -> Attached:
    for parameter_name, parameter in adapted.named_parameters():
        if (
            ".ranknum." in parameter_name
        ):  # AdaLoRA's count of ranks; a change of dtype makes PEFT forget that it does not learn
            parameter.requires_grad_(False)
    groups = make_groups(adapted.named_parameters())
    if not decays:
        groups = [{**group, "weight_decay": 0.0} for group in groups]
    trainable, total = layers.count_parameters(adapted)
    return Attached(
        name=name,
        model=adapted,
        groups=groups,
        save=lambda folder: save_adapter(adapted, folder),
        merge=lambda: merge_adapter(adapted),
        facts={
            "trainable": trainable,
            "total": total,
            "share": trainable / total,
            "targets": layers.short_names(chosen),
        },
    )


def attach_saved(model: nn.Module, folder: Path, *, trainable: bool) -> Attached:
    """Attach an adapter saved in PEFT's format; its weights come in float32 whatever the file holds.

    Raises:
        UserError: it does not fit the base, or its config is not one.
    """
    refuse_adapted(model)
    raw = safety.check_adapter(folder)
    name, kind = CONFIGS[str(raw["peft_type"])]
    found = _layers_in(folder, model)
    known = set(kind.__dataclass_fields__) - {"auto_mapping", "peft_type"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings(
                "ignore", message=".*rank_pattern keys"
            )  # AdaLoRA's are of another kind than LoRA's
            config = kind(**{key: value for key, value in raw.items() if key in known})
            adapted = PeftModel.from_pretrained(
                model,  # type: ignore[arg-type]
                str(folder),
                config=config,
                is_trainable=trainable,
                torch_device="cpu",
                local_files_only=True,
            )
    except (ValueError, KeyError, RuntimeError, TypeError, AttributeError, ZeroDivisionError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"the adapter {folder} does not fit its base: {said}") from error
    adapted.train(model.training)
    return _attached(adapted, found, name, decays=name != "ia3")


def _layers_in(folder: Path, model: nn.Module) -> list[str]:
    """Names of the layers that the file adapts, each of which the base has."""
    names: dict[str, Any] = {}
    for file in safety.weight_files(folder):
        names |= safety.check_safetensors(file)
    modules = dict(model.named_modules())
    found: dict[str, None] = {}
    for name in names:
        layer = name.removeprefix("base_model.model.")
        if _PARAMETER.search(layer):
            layer = _PARAMETER.sub("", layer)
            if layer not in modules:
                raise UserError(
                    f"the adapter {folder} has a layer {layer!r} that its base lacks; check base_model_name_or_path"
                )
            found[layer] = None
    if not found:
        raise UserError(f"the adapter {folder} holds no layer; save it again")
    return list(found)
