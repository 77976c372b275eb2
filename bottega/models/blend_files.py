"""Whole models merged from their safetensors files, one tensor in memory at a time, into one new file.

Left out: what is computed with the tensors (blend.py). Only a handful of tensors is held, however large the models are.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bottega.core.errors import Mismatch
from bottega.models import safety
from bottega.models.blend import blend, check, least_kept
from bottega.models.tensorfiles import DTYPES, TensorFiles

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
Shapes = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


def write_tensors(path: str | Path, shapes: Shapes, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write a safetensors file tensor by tensor; the header comes first, from `shapes`, whose order `tensors` keeps."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape) in shapes.items():
        size = dtype.itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    names = iter(shapes.items())
    with open(path, "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for name, tensor in tensors:
            wanted, (dtype, shape) = next(names)
            assert (name, tensor.dtype, tuple(tensor.shape)) == (wanted, dtype, shape)
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    assert next(names, None) is None


def merge_files(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    method: str = "linear",
    weights: Sequence[float],
    base: str | Path | None = None,
    density: float = 0.5,
    seed: int = 0,
) -> int:
    """Merge whole models of one architecture into `out`/model.safetensors, computed in float32, in the first one's dtypes.

    Args:
        folders: model folders. base: the common start, for methods that work on task vectors. density, seed: see blend.py.

    Returns:
        The number of tensors.

    Raises:
        Mismatch: names or shapes differ. Unsafe: a file is damaged. UserError: see `blend.check`.
    """
    check(method, weights, density)
    opened = [TensorFiles(safety.weight_files(folder)) for folder in [*folders, *([base] if base is not None else [])]]
    models, start = (opened[:-1], opened[-1]) if base is not None else (opened, None)
    try:
        shapes = _shared(opened, [*folders, *([base] if base is not None else [])])
        least = [least_kept(_task_vector(one, start), density) for one in models] if method == "ties" and start else ()
        write_tensors(
            Path(out) / "model.safetensors",
            shapes,
            (
                (
                    name,
                    _one(
                        name,
                        dtype,
                        models,
                        start,
                        method=method,
                        weights=weights,
                        density=density,
                        seed=seed,
                        least=least,
                    ),
                )
                for name, (dtype, _) in shapes.items()
            ),
        )
    finally:
        for files in opened:
            files.close()
    return len(shapes)


def _shared(opened: Sequence[TensorFiles], folders: Sequence[str | Path]) -> Shapes:
    first = {name: opened[0].entry(name) for name in opened[0]}
    for files, folder in zip(opened[1:], folders[1:]):
        if odd := sorted(set(first) ^ set(files)):
            raise Mismatch(
                f"{folders[0]} and {folder} do not have the same tensors ({odd[0]} is only in one): merge models of one "
                "architecture that share a start"
            )
        for name, entry in first.items():
            if files.entry(name).shape != entry.shape:
                raise Mismatch(
                    f"{name} is {entry.shape} in {folders[0]} and {files.entry(name).shape} in {folder}: merge models of "
                    "one architecture and vocabulary"
                )
    return {name: (entry.dtype, entry.shape) for name, entry in first.items()}


def _one(  # noqa: PLR0913
    name: str,
    dtype: torch.dtype,
    models: Sequence[TensorFiles],
    start: TensorFiles | None,
    *,
    method: str,
    weights: Sequence[float],
    density: float,
    seed: int,
    least: Sequence[float],
) -> Tensor:
    read = [files.read(name) for files in models]
    if not read[0].dtype.is_floating_point:
        if any(not torch.equal(read[0], other) for other in read[1:]):
            raise Mismatch(f"{name} holds whole numbers that differ between the models: it cannot be merged")
        return read[0]
    work = torch.float64 if dtype == torch.float64 else torch.float32
    own = None if start is None else start.read(name).to(work)
    place = seed ^ zlib.crc32(name.encode())  # every tensor its own mask, the same in every run
    return blend(method, own, [t.to(work) for t in read], weights, density=density, seed=place, least=least).to(dtype)


def _task_vector(model: TensorFiles, start: TensorFiles) -> Callable[[], Iterator[Tensor]]:
    """What tuning added, tensor by tensor."""

    def chunks() -> Iterator[Tensor]:
        for name in model:
            tensor = model.read(name)
            if tensor.dtype.is_floating_point:
                work = torch.float64 if tensor.dtype == torch.float64 else torch.float32
                yield tensor.to(work) - start.read(name).to(work)

    return chunks
