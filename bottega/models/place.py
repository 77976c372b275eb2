"""Where a model lies: a device that its weights fit on, and the model moved there whole.

Left out: what devices there are (core/devices.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from bottega.core import devices
from bottega.models import locate, safety
from bottega.models.layers import Model

SHARE = {"full": 1.0, "int8": 0.3, "nf4": 0.2}
"""Of float32's bytes, what the weights take by how linear layers are held: a quarter or an eighth, embeddings apart."""


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
        weights, stream: as in models/load.py's `load`; streamed layers lie in host memory, so that auto is the CPU.
        num_bytes: of a number of the weights.
        note: told which device it is, unless it is a CPU because there is nothing else.

    Raises:
        UserError: there is no such device.
    """
    if stream and device == "auto":
        return "cpu"
    here = device == "auto" and devices.num_devices(devices.ACCELERATOR) > 0
    chosen = devices.choose(device, need_bytes=int(count(model) * num_bytes * SHARE[weights]) if here else 0)
    if chosen.kind != "cpu" or here:
        note(f"device {chosen.why}")
    return chosen.name


def count(model: str) -> int:
    """How many numbers the weight files of a local model hold; 0 where that cannot be known without fetching or reading it."""
    folder = Path(model).expanduser()
    if not (model in locate.BUNDLED or folder.is_dir()):
        return 0
    headers = [safety.check_safetensors(file) for file in safety.weight_files(locate.locate(model).base)]
    return sum(math.prod(entry["shape"]) for header in headers for entry in header.values())


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
