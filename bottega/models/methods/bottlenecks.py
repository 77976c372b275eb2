"""The modules of bottleneck adapters, hung on the projections that end a layer's blocks; saved, and attached again.

Left out: where these are (models/sites.py). Hooks and not wrappers: the base keeps the names and types of its modules, and hooks
inside a layer run again when checkpointing recomputes it.

Shapes: D width of the model, M width of the bottleneck.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.core.types import Attached
from bottega.models import layers, quant, safety, sites
from bottega.models.layers import Model
from bottega.models.methods.adapter import WEIGHTS, base_name
from bottega.models.methods.bottleneck import Bottleneck
from bottega.models.methods.groups import make_groups
from bottega.models.methods.lora import refuse_adapted

TYPE = "BOTTEGA_BOTTLENECK"
"""`peft_type` of our format: no method of PEFT."""
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}


class BottleneckLayer(nn.Module):
    """Adds A(x) to what a module returns; x is what it returns, or for a parallel one what went into its block."""

    def __init__(self, model_width: int, options: Bottleneck) -> None:
        super().__init__()
        self.down = nn.Linear(model_width, options.width)
        self.up = nn.Linear(options.width, model_width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.options = options
        self.entered: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """A(x), in the type of x."""
        wide = x.to(self.down.weight.dtype)
        return (self.options.scale * self.up(_FUNCTIONS[self.options.activation](self.down(wide)))).to(x.dtype)

    def enter(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        """Hook before a block: keep what goes in."""
        self.entered = given[0]

    def leave(self, module: nn.Module, given: tuple[Any, ...], out: Any) -> Any:
        """Hook after a module: what it returns and A, or the first of several things with A."""
        first = out[0] if isinstance(out, tuple) else out
        x, self.entered = first if self.entered is None else self.entered, None
        changed = first + self(x).view_as(first)
        return (changed, *out[1:]) if isinstance(out, tuple) else changed


def attach(model: Model, options: Bottleneck, *, trainable: bool = True) -> Attached:
    """Freeze `model` and hang the adapters into it; U is 0, so that it computes what it did.

    Raises:
        UserError: it carries an adapter, is quantised, or has no feed-forward blocks.
    """
    refuse_adapted(model)
    if any(isinstance(module, BottleneckLayer) for module in model.modules()):
        raise UserError(
            "the model carries bottleneck adapters already; continue them (then: continue), or name their base"
        )
    if quant.quantised_layers(model):
        raise UserError("method adapter works on a full base; use qlora on a quantised one")
    found = sites.find_sites(model)
    ends = [(site.enter, site.leave) for site in found if site.leave]
    if not ends:
        raise UserError(f"{type(model).__name__} has no feed-forward blocks to put bottlenecks behind; use lora")
    if options.kind == "houlsby":
        ends += [(site.mix, site.mix) for site in found]
    model.requires_grad_(False)
    width = layers.text_config(model).hidden_size
    device = next(model.parameters()).device
    added: dict[str, BottleneckLayer] = {}
    for enter, leave in ends:
        with torch.device(device):
            layer = BottleneckLayer(width, options)
        module = model.get_submodule(leave)
        module.add_module("bottleneck", layer)
        module.register_forward_hook(layer.leave)
        if options.kind == "parallel":
            model.get_submodule(enter).register_forward_pre_hook(layer.enter)
        added[f"{leave}.bottleneck"] = layer.requires_grad_(trainable)
    num, total = layers.count_parameters(model)
    expected = len(added) * (2 * width * options.width + options.width + width)
    assert not trainable or num == expected, f"bottlenecks train {num} numbers, the formula says {expected}"
    return Attached(
        name="adapter",
        model=model,
        groups=make_groups(model.named_parameters()),
        save=lambda folder: save_bottlenecks(model, added, options, folder),
        merge=None,
        reference_kind="copy",
        facts={
            "trainable": num,
            "total": total,
            "share": num / total,
            "targets": layers.short_names(leave for _, leave in ends),
        },
    )


def save_bottlenecks(
    model: nn.Module, added: dict[str, BottleneckLayer], options: Bottleneck, folder: str | Path
) -> None:
    """Write adapter_config.json and the tensors, named as in the model."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{name}.{key}": t for name, layer in added.items() for key, t in layer.state_dict().items()}
    save_file(
        {k: t.detach().cpu().contiguous() for k, t in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"}
    )
    config = {
        "peft_type": TYPE,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name(model),
        **asdict(options),
    }
    rundir.write_json(folder / "adapter_config.json", config)


def attach_saved(model: nn.Module, folder: Path, *, trainable: bool) -> Attached:
    """Attach saved bottleneck adapters.

    Raises:
        UserError: they do not fit the model, or the config is not theirs.
    """
    raw = safety.check_adapter(folder)
    (file,) = safety.weight_files(folder)
    safety.check_safetensors(file)
    known = {"kind": str, "width": int, "activation": str, "scale": (int, float)}
    for key, kind in known.items():
        if not isinstance(raw.get(key), kind) or isinstance(raw[key], bool):  # type: ignore[arg-type]
            raise UserError(f"{folder / 'adapter_config.json'}: {key} is {raw.get(key)!r}; save the adapter again")
    attached = attach(model, Bottleneck(**{key: raw[key] for key in known}), trainable=trainable)
    own = {name: p for name, p in model.named_parameters() if ".bottleneck." in name}
    stored = load_file(file)
    wrong = sorted(set(own) ^ set(stored)) or [n for n in own if own[n].shape != stored[n].shape]
    if wrong:
        raise UserError(f"the adapter {folder} does not fit its base at {wrong[0]!r}; check base_model_name_or_path")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(stored[name])
    return attached
