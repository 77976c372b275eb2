"""Where a micro-batch lies: every tensor of it goes to the model's device, and nothing is copied on a CPU."""

import dataclasses

import torch

from bottega.core.types import Row, Tokens
from bottega.models.layout import lay, placed


def test_every_tensor_of_a_micro_batch_moves_and_nothing_moves_to_where_it_lies():
    """Two packed rows of 3 and 2 tokens with a number a token; `meta` stands for a device that is not the CPU's."""
    rows = [
        Row(index=i, branches=(Tokens(list(range(5, 5 + n)), [1.0] * n),), tokens={"ref.logp": [-1.0] * (n - 1)})
        for i, n in enumerate((3, 2))
    ]
    for thing in lay(rows, packed=True):
        assert placed(thing, "cpu") is thing
        moved = placed(thing, "meta")
        for field in dataclasses.fields(thing):
            before, after = getattr(thing, field.name), getattr(moved, field.name)
            pairs = [(before, after)] if not isinstance(before, dict) else [(before[k], after[k]) for k in before]
            for old, new in pairs:
                if isinstance(old, torch.Tensor):
                    assert new.device.type == "meta" and new.shape == old.shape and new.dtype == old.dtype
                else:
                    assert new is old
