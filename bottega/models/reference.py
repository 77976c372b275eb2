"""The reference of a stage: the model as it was when the stage began, which "adapter off" is only sometimes.

Left out: cached log-probabilities (the training loop keeps them, where it has what this gives).
"""

from __future__ import annotations

import copy

from torch import nn

from bottega.core.types import Attached


def frozen_copy(attached: Attached) -> nn.Module | None:
    """A frozen copy of the model as it is now, or None where switching the method off gives exactly that.

    Call it when a stage begins, right after `attach`. Tensors that the method never trains are shared with the model,
    not copied: a copy for LoRA costs the adapter alone. Full tuning and LISA copy everything, since any tensor may
    move.
    """
    if attached.reference_kind == "off":
        return None
    memo: dict[int, object] = {}
    if attached.before_step is None and attached.after_step is None:
        still = [tensor for tensor in attached.model.parameters() if not tensor.requires_grad]
        memo = {id(tensor): tensor for tensor in [*still, *attached.model.buffers()]}
    fresh = copy.deepcopy(attached.model, memo)
    for parameter in fresh.parameters():
        if id(parameter) not in memo:
            parameter.requires_grad_(False)
            parameter.grad = None
    return fresh.eval()
