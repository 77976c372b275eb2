"""Several LoRA adapters into one: what they add to each layer is combined and written as one LoRA again.

Left out: adapters of other kinds, DoRA, and adapters with whole modules or tokens of their own; merge those into their base first.

An adapter adds Delta = s B A to a layer, s = alpha / r (alpha / sqrt(r) for rsLoRA). The weighted sum of several is itself a
LoRA of the summed rank, exactly: A' = [A_1; A_2], B' = [w_1 s_1 B_1, w_2 s_2 B_2]. (PEFT calls that `cat`; its `linear` adds
A's and B's, whose product has cross terms B_1 A_2 that no adapter learned.) The other methods work on the Deltas and are cut
to a rank by SVD.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bottega.core.errors import Mismatch, UserError
from bottega.models import safety
from bottega.models.blend import blend, check, least_kept
from bottega.models.tensorfiles import TensorFiles

WEIGHTS = "adapter_model.safetensors"
_PLAIN = (
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "trainable_token_indices",
    "layer_replication",
    "use_dora",
)
MAX_RANK = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Factors:
    """A LoRA file: its config, and A (r, in) and B (out, r) of each layer in float32, the scale already in B."""

    config: dict[str, Any]
    layers: dict[str, tuple[Tensor, Tensor]]


def read_lora(folder: str | Path) -> Factors:
    """Read a saved LoRA adapter.

    Raises:
        UserError: it is of a kind that cannot be combined. Unsafe: it is damaged.
    """
    folder = Path(folder)
    config = safety.check_adapter(folder)
    if config.get("peft_type") != "LORA":
        raise UserError(f"{folder} holds a {config.get('peft_type')} adapter; only LoRA adapters can be combined")
    odd = [key for key in _PLAIN if config.get(key)] + (["bias"] if config.get("bias", "none") != "none" else [])
    if odd:
        raise UserError(
            f"{folder} has {odd[0]}, which cannot be combined; fold it first: bottega merge {folder} --out DIR"
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise UserError(f"{folder / 'adapter_config.json'} has r {rank!r} and lora_alpha {alpha!r}; both are numbers")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    files = TensorFiles(safety.weight_files(folder))
    try:
        read = {name: files.read(name).float() for name in files}
    finally:
        files.close()
    layers = {}
    for name, down in read.items():
        if name.endswith(".lora_A.weight"):
            layer = name.removesuffix(".lora_A.weight")
            up = read.get(f"{layer}.lora_B.weight")
            if up is None or down.dim() != 2 or up.shape[1:] != down.shape[:1]:
                raise UserError(f"{folder} has {name} without a matching lora_B; save the adapter again")
            layers[layer] = (down, scale * up)
    if 2 * len(layers) != len(read):
        raise UserError(
            f"{folder} holds tensors other than LoRA's A and B of linear layers; fold it into its base first"
        )
    return Factors(config=config, layers=layers)


def combine(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    weights: Sequence[float],
    method: str = "linear",
    rank: int | None = None,
    density: float = 0.5,
    seed: int = 0,
    base: str | None = None,
) -> dict[str, float]:
    """Write one LoRA adapter that adds the combination of what `folders` add.

    Args:
        rank: of the result; None is the sum of the ranks (exact for linear; at most 1024). base: what the new file names as its
            base. method, density, seed: see blend.py; the task vectors are the Deltas.

    Returns:
        {"rank", "layers", "lost"}: lost is the share of the squared Frobenius norm that cutting to the rank lost.

    Raises:
        Mismatch: the adapters are for different bases or layers of different shapes. UserError: see `read_lora`.
    """
    check(method, weights, density)
    adapters = [read_lora(folder) for folder in folders]
    _same_base(adapters, folders, named=base is None)
    rank = rank or min(MAX_RANK, sum(one.config["r"] for one in adapters))
    if not 1 <= rank <= MAX_RANK:
        raise UserError(f"rank {rank} is outside 1 to {MAX_RANK}; leave it out for the sum of the ranks")
    tensors: dict[str, Tensor] = {}
    lost = whole = 0.0
    least = [least_kept(_deltas(one), density) for one in adapters] if method == "ties" else ()
    names = sorted({name for one in adapters for name in one.layers})
    for number, name in enumerate(names):
        mine = [(one.layers[name], weight) for one, weight in zip(adapters, weights) if name in one.layers]
        if len({(down.shape[1], up.shape[0]) for (down, up), _ in mine}) > 1:
            raise Mismatch(f"{name} has different shapes in the adapters: combine adapters of one base")
        have = sum(down.shape[0] for (down, _), _ in mine)
        if method == "linear" and have <= rank:
            down = torch.cat([down for (down, _), _ in mine])
            up = torch.cat([weight * up for (_, up), weight in mine], 1)
            down, up = _padded(down, up, rank)
        else:
            delta = _delta(adapters, name, method, weights, density=density, seed=seed + number, least=least)
            down, up, kept, total = cut(delta, rank)
            lost, whole = lost + total - kept, whole + total
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = down.contiguous(), up.contiguous()
    _save(adapters, out, tensors, rank, base)
    return {"rank": rank, "layers": len(names), "lost": max(0.0, lost / whole) if whole else 0.0}


def _save(
    adapters: Sequence[Factors], out: str | Path, tensors: Mapping[str, Tensor], rank: int, base: str | None
) -> None:
    config = dict(adapters[0].config) | {"r": rank, "lora_alpha": rank, "use_rslora": False, "init_lora_weights": True}
    targets = [one.config.get("target_modules") for one in adapters]
    if any(one != targets[0] for one in targets):
        config["target_modules"] = sorted(
            {name.split(".lora_")[0].removeprefix("base_model.model.") for name in tensors}
        )
    if base is not None:
        config["base_model_name_or_path"] = base
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), out / WEIGHTS, metadata={"format": "pt"})
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _same_base(adapters: Sequence[Factors], folders: Sequence[str | Path], *, named: bool) -> None:
    """A caller that has looked where the bases lie gives the name itself: the same base can be written in two ways."""
    for key in (*(["base_model_name_or_path"] if named else []), "fan_in_fan_out"):
        first = adapters[0].config.get(key)
        for one, folder in zip(adapters[1:], folders[1:]):
            if one.config.get(key) != first:
                raise Mismatch(
                    f"{folders[0]} has {key} {first!r} and {folder} {one.config.get(key)!r}: combine adapters of one base"
                )


def _padded(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Zeros up to the rank: a layer that only some of the adapters have."""
    more = rank - down.shape[0]
    return (
        torch.cat([down, down.new_zeros(more, down.shape[1])]),
        torch.cat([up, up.new_zeros(up.shape[0], more)], 1),
    )


def _delta(
    adapters: Sequence[Factors],
    name: str,
    method: str,
    weights: Sequence[float],
    *,
    density: float,
    seed: int,
    least: Sequence[float],
) -> Tensor:
    down, up = next(one.layers[name] for one in adapters if name in one.layers)
    nothing = torch.zeros(up.shape[0], down.shape[1])
    deltas = []
    for one in adapters:
        factors = one.layers.get(name)
        deltas.append(nothing if factors is None else factors[1] @ factors[0])
    return blend(method, nothing, deltas, weights, density=density, seed=seed, least=least)


def _deltas(adapter: Factors) -> Callable[[], Iterator[Tensor]]:
    """What an adapter adds, layer by layer."""
    return lambda: (up @ down for down, up in adapter.layers.values())


def cut(delta: Tensor, rank: int) -> tuple[Tensor, Tensor, float, float]:
    """The best factors of a rank (Eckart-Young): B = U_r sqrt(S_r), A = sqrt(S_r) V_r^T.

    Returns:
        A (rank, in), B (out, rank), the squared singular values kept, and all of them.
    """
    u, s, vh = torch.linalg.svd(delta.double(), full_matrices=False)
    have = min(rank, len(s))
    root = s[:have].sqrt()
    up, down = (u[:, :have] * root).float(), (root[:, None] * vh[:have]).float()
    down, up = _padded(down, up, rank)
    return down, up, float((s[:have] ** 2).sum()), float((s**2).sum())
