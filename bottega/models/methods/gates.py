"""The modules of a gate over adapters, hung on the layers that the adapters change; saved, and attached again.

Left out: reading adapters (models/blend_adapters.py). Hooks and not wrappers, as for bottlenecks: the base keeps the names and types of
its modules.

Shapes: I inputs, O outputs, R rank, K adapters of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bottega.core import rundir
from bottega.core.errors import Mismatch, UserError
from bottega.core.types import Attached
from bottega.models import blend_adapters, layers, locate, safety
from bottega.models.layers import Model
from bottega.models.methods.adapter import WEIGHTS, base_name
from bottega.models.methods.groups import make_groups
from bottega.models.methods.lora import refuse_adapted

TYPE = "BOTTEGA_GATE"
"""`peft_type` of our format: no method of PEFT."""
PREFIX = "base_model.model."
Factors = tuple[Tensor, Tensor]


class GateLayer(nn.Module):
    """What the adapters add to one layer, each by its gate; A (R, I) and B (O, R, its scale inside) are frozen."""

    def __init__(self, factors: Mapping[int, Factors], inputs: int) -> None:
        super().__init__()
        self.numbers = tuple(sorted(factors))
        self.gate = nn.Linear(inputs, len(self.numbers))
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        for number in self.numbers:
            low_RI, high_OR = factors[number]
            self.register_parameter(f"low_{number}", nn.Parameter(low_RI, requires_grad=False))
            self.register_parameter(f"high_{number}", nn.Parameter(high_OR, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O): sum of g_i(x) B_i A_i x, in the type of x."""
        wide = x.to(self.gate.weight.dtype)
        share_K = torch.sigmoid(self.gate(wide))
        total: Tensor | float = 0.0
        for at, number in enumerate(self.numbers):
            low_RI, high_OR = self.get_parameter(f"low_{number}"), self.get_parameter(f"high_{number}")
            total = total + (share_K[..., at : at + 1] * (wide @ low_RI.T)) @ high_OR.T
        assert isinstance(total, Tensor)
        return total.to(x.dtype)

    def leave(self, module: nn.Module, given: tuple[Any, ...], out: Tensor) -> Tensor:
        """Hook after a linear layer."""
        return out + self(given[0])


def attach_named(model: Model, names: Sequence[str]) -> Attached:
    """Read the adapters that `names` name, and attach them behind new gates.

    Raises:
        UserError: none is named, or one is no plain LoRA adapter. Mismatch: one lies on another base, or does not fit.
    """
    if not names:
        raise UserError("gate needs adapters to choose among: method: {name: gate, adapters: [runs/a, runs/b]}")
    here = Path(base_name(model))
    found: list[blend_adapters.Factors] = []
    for name in names:
        place = locate.locate(str(name))
        if len(place.adapters) != 1:
            what = "a whole model" if not place.adapters else "an adapter on an adapter"
            raise UserError(f"{name} is {what}; a gate mixes adapters that lie right on one base")
        if here.is_dir() and place.base.resolve() != here.resolve():
            raise Mismatch(f"{name} was trained on {place.base_id}, and {here} is tuned: give adapters of one base")
        with torch.device("cpu"):  # a plan attaches to a model without content
            found.append(blend_adapters.read_lora(place.folder))
    by_layer: dict[str, dict[int, Factors]] = {}
    for number, one in enumerate(found):
        for layer, factors in one.layers.items():
            by_layer.setdefault(layer.removeprefix(PREFIX), {})[number] = factors
    return attach(model, by_layer, [str(name) for name in names])


def attach(
    model: Model, by_layer: Mapping[str, Mapping[int, Factors]], names: Sequence[str], *, trainable: bool = True
) -> Attached:
    """Freeze `model` and hang a GateLayer on each layer of `by_layer`.

    Raises:
        UserError: it carries an adapter. Mismatch: a layer is not there or has other sizes.
    """
    refuse_adapted(model)
    if any(isinstance(module, GateLayer) for module in model.modules()):
        raise UserError("the model carries a gate already; continue it (then: continue), or name its base")
    model.requires_grad_(False)
    added: dict[str, GateLayer] = {}
    expected = 0
    for name, factors in sorted(by_layer.items()):
        module = _layer(model, name)
        inputs, outputs = layers.linear_shape(module)
        for low_RI, high_OR in factors.values():
            if (low_RI.shape[1], high_OR.shape[0]) != (inputs, outputs):
                sizes = f"{low_RI.shape[1]} inputs and {high_OR.shape[0]} outputs, the base {inputs} and {outputs}"
                raise Mismatch(f"an adapter has {sizes} in {name}: give adapters of this base")
        layer = GateLayer(factors, inputs).to(next(model.parameters()).device)
        layer.gate.requires_grad_(trainable)
        module.add_module("gate", layer)
        module.register_forward_hook(layer.leave)
        added[f"{name}.gate"] = layer
        expected += len(factors) * (inputs + 1)
    num, total = layers.count_parameters(model)
    assert not trainable or num == expected, f"the gate trains {num} numbers, the formula says {expected}"
    return Attached(
        name="gate",
        model=model,
        groups=make_groups(model.named_parameters()),
        save=lambda folder: _save(model, added, names, folder),
        merge=None,
        reference_kind="copy",
        shards=False,
        facts={"trainable": num, "total": total, "share": num / total, "targets": layers.short_names(by_layer)},
    )


def _layer(model: Model, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise Mismatch(f"an adapter has weights for {name}, which the base lacks: give adapters of this base") from None


def _save(model: nn.Module, added: Mapping[str, GateLayer], names: Sequence[str], folder: str | Path) -> None:
    """adapter_config.json and the tensors, named as in the model."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{name}.{key}": t for name, layer in added.items() for key, t in layer.state_dict().items()}
    save_file(
        {k: t.detach().cpu().contiguous() for k, t in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"}
    )
    config = {"peft_type": TYPE, "task_type": "CAUSAL_LM", "base_model_name_or_path": base_name(model)}
    rundir.write_json(folder / "adapter_config.json", config | {"adapters": [Path(name).name for name in names]})


def attach_saved(model: nn.Module, folder: Path, *, trainable: bool) -> Attached:
    """Attach a saved gate with its adapters.

    Raises:
        UserError: the file is not one of ours. Mismatch: it does not fit the model.
    """
    raw = safety.check_adapter(folder)
    (file,) = safety.weight_files(folder)
    safety.check_safetensors(file)
    stored = load_file(file)
    by_layer: dict[str, dict[int, Factors]] = {}
    for key, tensor in stored.items():
        layer, _, part = key.rpartition(".gate.")
        kind, _, number = part.partition("_")
        high = stored.get(f"{layer}.gate.high_{number}")
        if kind == "low" and number.isdecimal() and high is not None and tensor.dim() == high.dim() == 2:
            by_layer.setdefault(layer, {})[int(number)] = (tensor, high)
    names = raw.get("adapters")
    if not by_layer or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{folder} holds no gate over adapters; save it again")
    attached = attach(model, by_layer, names, trainable=trainable)
    own = {name: p for name, p in model.named_parameters() if ".gate.gate." in name}
    wrong = sorted(name for name, p in own.items() if name not in stored or stored[name].shape != p.shape)
    if wrong or len(own) + 2 * sum(map(len, by_layer.values())) != len(stored):
        raise UserError(f"the gate {folder} does not fit its base at {(wrong or ['its layers'])[0]!r}; save it again")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(stored[name])
    return attached
