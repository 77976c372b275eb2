"""A LoRA adapter folded into a base that does not fit into memory: tensor by tensor, and proven on layers that are read one by one.

Left out: adapters of other kinds, and layers that the base's files hold under other names (models/converted.py); merge those in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from bottega.core.errors import CheckFailed, UserError
from bottega.models import safety
from bottega.models.blend_adapters import read_lora
from bottega.models.blend_files import Shapes, write_tensors
from bottega.models.merge import MAX_KL, MIN_EQUAL, TOLERANCE, logits
from bottega.models.tensorfiles import TensorFiles

PREFIX = "base_model.model."


def fold(base: Path, adapter: Path, out: Path, dtype: torch.dtype) -> dict[str, float]:
    """Write W + s B A of every layer, and everything else as it is, into `out`/model.safetensors; computed in float32.

    Args:
        dtype: of the numbers that are written; whole numbers stay what they are.

    Returns:
        {"tensors", "folded"}: how many there are, and how many of them the adapter changed.

    Raises:
        UserError: an adapter of another kind, or a layer whose matrix the base's files do not have. Unsafe: a damaged file.
    """
    lora = read_lora(adapter)
    turned = bool(lora.config.get("fan_in_fan_out"))
    files = TensorFiles(safety.weight_files(base))
    try:
        by_name = {_named(layer.removeprefix(PREFIX), files, base): layer for layer in lora.layers}
        shapes: Shapes = {name: (_kept(files.entry(name).dtype, dtype), files.entry(name).shape) for name in files}

        def made() -> Iterator[tuple[str, Tensor]]:
            for name, (kind, _) in shapes.items():
                tensor = files.read(name)
                if name in by_name:
                    low_RI, high_OR = lora.layers[by_name[name]]
                    update = high_OR @ low_RI
                    tensor = tensor.float() + (update.T if turned else update)
                yield name, tensor.to(kind)

        for name, layer in by_name.items():
            low_RI, high_OR = lora.layers[layer]
            wanted = (high_OR.shape[0], low_RI.shape[1])
            if files.entry(name).shape != (wanted[::-1] if turned else wanted):
                raise UserError(f"{adapter} changes {name} of {wanted}, and {base} has it as {files.entry(name).shape}")
        write_tensors(out / "model.safetensors", shapes, made())
    finally:
        files.close()
    return {"tensors": len(shapes), "folded": len(by_name)}


def _kept(own: torch.dtype, wanted: torch.dtype) -> torch.dtype:
    return wanted if own.is_floating_point else own


def _named(layer: str, files: TensorFiles, base: Path) -> str:
    """What the files call a layer's matrix; they may leave out or add the trunk's prefix."""
    ends = f".{layer}.weight"
    near = [f"{layer}.weight", f"{layer.partition('.')[2]}.weight", *(name for name in files if name.endswith(ends))]
    found = next((name for name in near if name in files), None)
    if found is None:
        raise UserError(
            f"{base} holds no tensor {layer}.weight by this name, so that it cannot be folded tensor by tensor; leave stream out"
        )
    return found


def proven(adapted: nn.Module, merged: nn.Module, *, exact: bool) -> dict[str, float]:
    """Compare the adapter on its base with the folded model, both with layers that are read one by one, in float32.

    Args:
        exact: the folded model was written in float32.

    Returns:
        {"merge_difference"} as models/merge.py's `merge`; else {"merge_kl", "merge_equal"} as its `cast`.

    Raises:
        CheckFailed: they differ by more than is allowed there.
    """
    wanted, got = logits(adapted), logits(merged)
    if exact:
        difference = float((wanted - got).abs().max() / wanted.abs().max().clamp_min(1.0))
        if not difference <= TOLERANCE:
            raise CheckFailed(
                f"the merged model's logits differ by {difference:.1e} (limit {TOLERANCE:.0e}); it was not kept"
            )
        return {"merge_difference": difference}
    before, after = torch.log_softmax(wanted, -1), torch.log_softmax(got, -1)
    kl = float((before.exp() * (before - after)).sum(-1).mean())
    equal = float((before.argmax(-1) == after.argmax(-1)).double().mean())
    if kl > MAX_KL or equal < MIN_EQUAL:
        raise CheckFailed(
            f"the merged model has KL {kl:.1e} and {equal:.0%} equal tokens (limits 1e-3, 95%); keep float32"
        )
    return {"merge_kl": kl, "merge_equal": equal}
