"""Dropout switched off in a model that stays in training mode.

Left out: evaluation mode, which switches off checkpointing and more. A stage that learns from answers of its own compares
log-probabilities of one policy at two times; masks drawn anew each time would be noise in every ratio (TRL switches it off too).
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from transformers import PreTrainedModel

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)


def still(model: nn.Module) -> int:
    """Set every dropout in `model` to 0: layers of their own, and rates that a module hands to a function; returns how many there were.

    A block that reads its rate from the config at every call (Falcon's) gets a copy of its own; the model's config keeps what it
    says, so that a saved model is as it was.
    """
    count, quiet = 0, dict[int, Any]()
    for module in list(model.modules()):
        if isinstance(module, DROPOUTS):
            count += module.p > 0
            module.p = 0.0
            continue
        own = _rates(module)
        for name in own:
            setattr(module, name, 0.0)
        count += len(own)
        config = vars(module).get("config")
        if config is None or isinstance(module, PreTrainedModel) or not _rates(config):
            continue
        if id(config) not in quiet:
            quiet[id(config)] = copy.copy(config)
            for name in _rates(config):
                setattr(quiet[id(config)], name, 0.0)
        module.config = quiet[id(config)]
    return count


def _rates(holder: Any) -> list[str]:
    """Names of the dropout rates above 0 among the attributes of `holder`."""
    return [
        name for name, value in vars(holder).items() if "drop" in name and isinstance(value, float) and 0 < value <= 1
    ]
