"""Places other than the device's memory: optimizer states and saved activations in host memory or in a mapped file.

Left out: weights (a frozen base that visits layer by layer is another story). A mapped file is scratch: it has no
name, so that its space comes back however the process ends; its pages are the system's to write out, so they are not
memory that the process holds.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from bottega.core.rundir import disk_errors

PLACES = ("device", "host", "file")
ALIGN = 64
SEGMENT = 16 * 2**20
"""Bytes of a piece of scratch file."""
SMALL = 4096
"""Bytes of a saved tensor that is not worth moving."""


class Store(Protocol):
    """Where an optimizer's states live between steps."""

    resident: bool

    def keep(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """`state`, moved to where it lives."""

    def fetch(self, kept: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """`kept` on `device`, to be stepped."""

    def put(self, kept: dict[str, Tensor], state: dict[str, Tensor]) -> None:
        """Write what was fetched and stepped back to where it lives."""


class Resident:
    """States beside the weights."""

    resident = True

    def keep(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return state

    def fetch(self, kept: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        return kept

    def put(self, kept: dict[str, Tensor], state: dict[str, Tensor]) -> None:
        return None


class Elsewhere:
    """States in tensors that `take(shape, dtype)` gives: host memory, or a file. One parameter's at a time visit its device."""

    resident = False

    def __init__(self, take: Callable[[torch.Size, torch.dtype], Tensor]) -> None:
        self.take = take

    def keep(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Counters stay where they are."""
        return {
            name: self.take(value.shape, value.dtype).copy_(value) if value.ndim else value
            for name, value in state.items()
        }

    def fetch(self, kept: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """The very tensors where they can be stepped in place (a file beside a CPU), else copies."""
        return {name: value.to(device, non_blocking=True) if value.ndim else value for name, value in kept.items()}

    def put(self, kept: dict[str, Tensor], state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            if value is not kept[name]:
                kept[name].copy_(value)


def host(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Host memory, pinned where there is a GPU to copy from."""
    return torch.empty(shape, dtype=dtype, pin_memory=torch.cuda.is_available())


def make_store(place: str, folder: Path | None) -> Store:
    """The store `place` names; files lie in `folder` (default: the system's folder for temporary files)."""
    if place == "device":
        return Resident()
    return Elsewhere(host if place == "host" else Scratch(folder).take)


class _Segment:
    """A piece of scratch file, mapped; `live` tensors lie in it."""

    def __init__(self, folder: Path | None, size: int) -> None:
        with disk_errors(folder or Path(tempfile.gettempdir())), tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, not a signal later
            else:
                file.truncate(size)
            self.bytes = np.asarray(np.memmap(file, dtype=np.uint8, mode="r+", shape=(size,)))
        self.size, self.used, self.live = size, 0, 0

    def release(self) -> None:
        self.live -= 1
        if not self.live:
            self.used = 0


class Scratch:
    """Tensors in a file without a name, in pieces that are used again once all tensors in them are gone."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.segments: list[_Segment] = []

    def take(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor in the file.

        Raises:
            DiskFull: there is no space for it.
        """
        size = torch.Size(shape).numel() * dtype.itemsize
        padded = -(-max(size, 1) // ALIGN) * ALIGN
        segment = next((s for s in self.segments if s.size - s.used >= padded), None)
        if segment is None:
            segment = _Segment(self.folder, max(SEGMENT, padded))
            self.segments.append(segment)
        place = segment.bytes[segment.used : segment.used + size]
        segment.used, segment.live = segment.used + padded, segment.live + 1
        weakref.finalize(place, segment.release).atexit = False  # the tensor holds `place` as long as it lives
        return torch.from_numpy(place).view(dtype).view(shape)


class _Parked:
    """A saved activation that lies elsewhere, and how it comes back."""

    __slots__ = ("device", "value")

    def __init__(self, value: Tensor, device: torch.device) -> None:
        self.value, self.device = value, device

    def back(self) -> Tensor:
        return self.value.to(self.device, non_blocking=True)


def activations(
    place: str, folder: Path | None, weights: Iterable[nn.Parameter]
) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """What to compute a forward pass in, so that what it saves for the backward pass lies at `place`.

    Weights and tensors under 4 KiB stay. Under checkpointing the layers' inputs are what moves.
    """
    if place == "device":
        return contextlib.nullcontext
    take = host if place == "host" else Scratch(folder).take
    own, held = list(weights), set[int]()

    def pack(value: Tensor) -> Tensor | _Parked:
        if value.nbytes < SMALL or value.layout != torch.strided or value.untyped_storage().data_ptr() in held:
            return value
        return _Parked(take(value.shape, value.dtype).copy_(value), value.device)

    def unpack(value: Tensor | _Parked) -> Tensor:
        return value.back() if isinstance(value, _Parked) else value

    @contextlib.contextmanager
    def keeping() -> Iterator[None]:
        held.clear()
        held.update(weight.untyped_storage().data_ptr() for weight in own)
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield

    return keeping
