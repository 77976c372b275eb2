"""Plain transformers models on disk and in memory: saved so that any tool loads them, copied without a trace of us.

Left out: adapters (models/methods) and merging (models/merge.py).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from bottega.models.layers import Model


def save_plain(model: Model, folder: str | Path) -> None:
    """Save config and weights (safetensors) of a transformers model; nothing in the folder names this project."""
    with quiet_bars():
        model.save_pretrained(str(folder), max_shard_size="4GB")


def copy_plain(model: nn.Module) -> nn.Module:
    """A copy of a model that shares no tensor and no config with it, in evaluation mode, without gradients."""
    fresh = copy.deepcopy(model)
    for parameter in fresh.parameters():
        parameter.grad = None
    return fresh.eval().requires_grad_(False)


@contextmanager
def no_report() -> Iterator[None]:
    """No table of missing tensors by transformers inside: a head that is made anew is said in one line of ours."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


@contextmanager
def quiet_bars() -> Iterator[None]:
    """No progress bars of other libraries inside; their setting is put back."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
