"""What PEFT-format adapters share: saving without asking a network, checking that a file fits, merging in float32.

Left out: the layers themselves, which are PEFT's.
"""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from bottega.core.errors import UserError
from bottega.models import quant, safety

WEIGHTS = "adapter_model.safetensors"


def save_adapter(
    adapted: PeftModel, folder: str | Path, starts: Mapping[str, Tensor] | None = None, *, name: str = "default"
) -> None:
    """Save config and weights as plain PEFT loads them; no connection is opened for a base from a Hub.

    Args:
        starts: A and B at the start, where the start moved part of the base into them (PiSSA, OLoRA). Saved is then the
            update of the untouched base, s (B A - B0 A0), as one plain LoRA of twice the rank: A' = [A; A0], B' = [B,
            -B0].
        name: of the adapter, where the model carries several.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(adapted.peft_config[name])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*invalid shape")  # AdaLoRA may leave a layer no rank at all
        tensors = get_peft_model_state_dict(adapted, adapter_name=name, save_embedding_layers=False)
    if starts is not None:
        assert isinstance(config, LoraConfig)
        tensors = {key: _doubled(key, tensor, starts) for key, tensor in tensors.items()}
        config.lora_alpha = config.lora_alpha * (math.sqrt(2) if config.use_rslora else 2)  # type: ignore[assignment]
        config.r, config.init_lora_weights = 2 * config.r, True
    config.inference_mode = True
    if isinstance(config, LoraConfig) and any(layer.transposed for _, layer in quant.quantised_layers(adapted)):
        config.fan_in_fan_out = True  # what the plain base's own layers are
    config.base_model_name_or_path = base_name(adapted.get_base_model()) or config.base_model_name_or_path
    save_file(
        {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )
    config.save_pretrained(str(folder))


def _doubled(name: str, tensor: Tensor, starts: Mapping[str, Tensor]) -> Tensor:
    if ".lora_A." in name:
        return torch.cat([tensor, starts[_default(name)]], 0)
    if ".lora_B." in name:
        return torch.cat([tensor, -starts[_default(name)]], 1)
    return tensor


def _default(name: str) -> str:
    """PEFT leaves the adapter's name out of a file's tensor names: put it back."""
    return re.sub(r"\.(lora_[AB])\.weight$", r".\1.default.weight", name)


def base_name(model: nn.Module) -> str:
    """Where the base was loaded from."""
    return str(getattr(model.config, "_name_or_path", "") or "")


def check_fits(model: nn.Module, folder: Path) -> LoraConfig:
    """The adapter's config, after its tensors were checked; every tensor of the file has a layer to go to.

    Raises:
        UserError: the file names layers that the base does not have. Unsafe: the file is damaged.
    """
    raw = safety.check_adapter(folder)
    names: dict[str, Any] = {}
    for file in safety.weight_files(folder):
        names |= safety.check_safetensors(file)
    modules = dict(model.named_modules())
    for name in names:
        layer = re.sub(
            r"\.(lora_|trainable_tokens_|base_layer|token_adapter).*$", "", name.removeprefix("base_model.model.")
        )
        if layer not in modules and re.search(r"\.lora_[AB]\.", name):
            raise UserError(
                f"the adapter {folder} has a layer {layer!r} that its base lacks; check base_model_name_or_path"
            )
    known = set(LoraConfig.__dataclass_fields__) - {"auto_mapping", "peft_type"}
    try:
        return LoraConfig(**{key: value for key, value in raw.items() if key in known})
    except (TypeError, ValueError, AttributeError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{folder / 'adapter_config.json'} is no LoRA config: {said}") from error


def merge_adapter(adapted: PeftModel) -> nn.Module:
    """A plain model with the adapter folded into its weights, in float32 (float64 stays); `adapted` is left as it
    is. A quantised base is dequantised for it, and stays so.
    """
    fresh = copy.deepcopy(adapted)
    quant.make_plain(fresh)
    if fresh.get_base_model().dtype != torch.float64:
        fresh = fresh.float()
    merged = fresh.merge_and_unload(safe_merge=True)
    quant.turn_back(merged)
    for parameter in merged.parameters():
        parameter.grad = None
    return merged.eval().requires_grad_(False)
