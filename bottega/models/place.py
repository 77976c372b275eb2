"""Where a model lies: a device that its weights fit on, and the model moved there whole.

Left out: what devices there are (core/devices.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bottega.core import devices
from bottega.models import locate, safety
from bottega.models.layers import Model

SHARE = {"full": 1.0, "int8": 0.3, "nf4": 0.2}
"""Of float32's bytes, what the weights take by how linear layers are held: a quarter or an eighth, embeddings apart."""
STREAMED = 0.25
"""Of a streamed model's weights, what lies on the device at most: two layers and the embeddings, of 16 layers or more."""


def choose_for(
    model: str,
    device: str,
    *,
    weights: str = "full",
    stream: bool = False,
    num_bytes: int = 4,
    note: Callable[[str], None] = print,
) -> str:
    """The device that `device` stands for (devices.choose): auto takes a GPU only if the weights of `model` fit on it.

    Args:
        weights, stream: as in models/load.py's `load`; of streamed layers two at a time lie on the device.
        num_bytes: of a number of the weights.
        note: told which device it is, unless it is a CPU because there is nothing else.

    Raises:
        UserError: there is no such device.
    """
    here = device == "auto" and devices.num_devices(devices.ACCELERATOR) > 0
    share = SHARE[weights] * (STREAMED if stream else 1.0)
    chosen = devices.choose(device, need_bytes=int(count(model) * num_bytes * share) if here else 0)
    if chosen.kind != "cpu" or here:
        note(f"device {chosen.why}")
    return chosen.name


def spot_for(
    model: str,
    device: str,
    *,
    weights: str = "full",
    stream: bool = False,
    note: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Where a model that is only used lies, and in which dtype: what `load` takes, for the arguments of `choose_for`.

    On a CPU that is float32, whatever the file holds; elsewhere weights that lie in a file in 16 bits stay so, in what the device
    computes in.
    """
    devices.check(device)
    if device == "cpu" or (device == "auto" and not devices.num_devices(devices.ACCELERATOR)):
        return {"device": "cpu", "dtype": "float32"}
    narrow = kept_in(model)
    num_bytes = 4 if narrow == "float32" else 2
    where = choose_for(model, device, weights=weights, stream=stream, num_bytes=num_bytes, note=note)
    if where == "cpu" or narrow == "float32":
        return {"device": where, "dtype": "float32"}
    return {"device": where, "dtype": "bfloat16" if devices.has_bf16(where) else "float16"}


def kept_in(model: str) -> str:
    """float32, or 16bit where most numbers of a local model's files are in 16 bits."""
    sizes = {"16bit": 0, "float32": 0}
    for header in _headers(model):
        for entry in header.values():
            sizes["16bit" if entry["dtype"] in ("BF16", "F16") else "float32"] += math.prod(entry["shape"])
    return "16bit" if sizes["16bit"] > sizes["float32"] else "float32"


def count(model: str) -> int:
    """How many numbers the weight files of a local model hold; 0 where that cannot be known without fetching or reading it."""
    return sum(math.prod(entry["shape"]) for header in _headers(model) for entry in header.values())


def _headers(model: str) -> list[dict[str, Any]]:
    if not (model in locate.BUNDLED or Path(model).expanduser().is_dir()):
        return []
    return [safety.check_safetensors(file) for file in safety.weight_files(locate.locate(model).base)]


def put(model: Model, device: str) -> Model:
    """The model on `device`, what it ties still tied."""
    where = torch.device(device)
    if where.type != "cpu":
        model.to(where)
        model.tie_weights()  # a device whose tensors are of another class than the CPU's gets new parameters, one by one
    return model


def place_of(module: nn.Module) -> torch.device:
    """Where the model's inputs go: where its first parameter lies."""
    return next(module.parameters()).device
