"""Which device a model lies on, by name or by what is there, what it can do, and what this process holds of it.

Left out: a calibrated prediction of memory and time; kinds of device other than CPU and CUDA are passed to torch, untested.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bottega.core.errors import UserError

ACCELERATOR = "cuda"
"""The kind of device that `auto` looks for."""

PEAK_TFLOPS = {
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
    "T4": 65.0,
}
"""Dense bf16 (T4: fp16) matrix throughput by part of the device's name, from the makers' data sheets."""


def rank() -> int:
    """This process's number among those that torchrun started; 0 where it is alone."""
    return int(os.environ.get("RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0


class Chosen(NamedTuple):
    """A device by the name torch gives it (cpu, cuda:0), and why it is this one, for people."""

    name: str
    why: str

    @property
    def kind(self) -> str:
        """cpu, cuda, ..."""
        return self.name.partition(":")[0]


def check(name: str) -> None:
    """Refuse what can be no device, before torch is imported.

    Raises:
        UserError: it is not written as `auto`, `cpu`, `cuda` or `cuda:N`.
    """
    if re.fullmatch(r"[a-z]+(:[0-9]+)?", name) is None or name.startswith(("auto:", "cpu:")) or name in ("gpu", "none"):
        raise UserError(f"device {name!r} is not known; write auto, cpu, cuda, or one of several as cuda:1")


def choose(name: str = "auto", *, need_bytes: int = 0) -> Chosen:
    """The device that `name` stands for on this machine.

    Args:
        name: auto (a GPU with `need_bytes` free, else the CPU), cpu, cuda (the GPU with the most free memory; of several
            processes each has its own) or cuda:N. Other kinds that torch knows go by their names, untested.
        need_bytes: what has to fit at least, such as the weights.

    Raises:
        UserError: there is no such device.
    """
    check(name)
    if name == "cpu":
        return Chosen("cpu", "cpu")
    kind, _, number = (ACCELERATOR if name == "auto" else name).partition(":")
    count = num_devices(kind)
    if count == 0 and name == "auto":
        return Chosen("cpu", "cpu: there is no GPU")
    if count == 0:
        raise UserError(f"device {name} is not here: torch sees no {kind} device; write cpu, or auto")
    if number and int(number) >= count:
        known = ", ".join(f"{kind}:{i}" for i in range(count))
        raise UserError(f"device {name} is not here: there {'is' if count == 1 else 'are'} {known}")
    several = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    if several > 1:
        return _of_several(name, kind, number, count, several)
    free = [free_of(f"{kind}:{i}") for i in range(count)]
    index = int(number) if number else max(range(count), key=lambda i: free[i])
    if name == "auto" and free[index] < need_bytes:
        told = f"{free[index] / 1e9:.1f} GB free, and the weights take {need_bytes / 1e9:.1f}"
        return Chosen(
            "cpu", f"cpu: {kind}:{index} has {told} (device: {kind} tries it, weights nf4 or int8 are smaller)"
        )
    return Chosen(f"{kind}:{index}", f"{kind}:{index}, {free[index] / 1e9:.1f} GB free")


def _of_several(name: str, kind: str, number: str, count: int, several: int) -> Chosen:
    """The device of this process among those that torchrun started on the machine."""
    if number:
        raise UserError(f"device {name} would be shared by {several} processes; write {kind}, and each has its own")
    if several > count:
        told = f"{several} processes on this machine share {count} {kind} device{'s' * (count > 1)}"
        raise UserError(f"{told}; start {count}, or write device: cpu")
    return Chosen(f"{kind}:{os.environ.get('LOCAL_RANK', '0')}", f"{kind}, one for each of {several} processes")


def module_of(kind: str) -> Any:
    """torch's module for a kind of device (torch.cuda for cuda); None for the CPU and for what torch does not know."""
    import torch

    return None if kind == "cpu" else getattr(torch, kind, None)


def num_devices(kind: str) -> int:
    """How many devices of this kind torch sees."""
    found = module_of(kind)
    if not (hasattr(found, "is_available") and hasattr(found, "device_count")):
        return 0
    return int(found.device_count()) if found.is_available() else 0


def free_of(name: str) -> int:
    """Free memory of a device in bytes; 0 where torch cannot say."""
    import torch

    kind, _, number = name.partition(":")
    ask = getattr(module_of(kind), "mem_get_info", None)
    return int(ask(torch.device(kind, int(number or 0)))[0]) if ask is not None else 0


@functools.cache
def peak_flops(device: str) -> float:
    """Floating-point operations per second that matrix products can reach on a device.

    A known GPU: its data sheet. Anything else: measured once, the best of a few 512 x 512 float32 products (some 30 ms).
    """
    import torch

    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
        known = [value for part, value in PEAK_TFLOPS.items() if part in name]
        if known:
            return known[0] * 1e12
    a = torch.ones(512, 512, device=device)
    best = float("inf")
    for _ in range(8):
        began = time.perf_counter()
        a @ a
        synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * 512**3 / best


def host_memory() -> dict[str, int]:
    """Total and available memory of the machine in bytes, under the container's limit if there is one."""
    import psutil

    facts = psutil.virtual_memory()
    total, available = facts.total, facts.available
    limit_file, used_file = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit_file.is_file() and used_file.is_file():
        limit = limit_file.read_text().strip()
        if limit.isdigit() and int(limit) < total:
            total = int(limit)
            available = min(available, max(0, total - int(used_file.read_text())))
    return {"total_bytes": total, "available_bytes": available}


def free_memory_bytes() -> int:
    """What this process may still take: what is available, and no more than its own limits (ulimit -v, -d) leave."""
    free = host_memory()["available_bytes"]
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return free
    import psutil

    held = psutil.Process().memory_info()
    for limit, used in ((resource.RLIMIT_AS, held.vms), (resource.RLIMIT_DATA, getattr(held, "data", 0))):
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY:
            free = min(free, max(0, soft - used))
    return free


def resident_bytes() -> int:
    """Memory of the machine that this process holds now."""
    import psutil

    return psutil.Process().memory_info().rss


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of mallopt(3)."""
HEAP_BLOCK, HEAP_TOP = 32 * 2**20, 2**30
"""Blocks up to HEAP_BLOCK bytes come from the heap, which keeps up to HEAP_TOP free bytes at its end. (glibc by itself begins with
128 KiB for both and lets them grow to 32 and 64 MiB, so that every step of a training gives memory back and asks for it anew.)"""


def keep_heap() -> bool:
    """Let the C library keep the memory that a step frees for the next step, for the rest of this process; whether it does.

    Pages that were given back come again zeroed, one fault at a time: measured, 3 percent of the CPU seconds of a tuning run on one
    core of an AMD EPYC, at the same peak (docs/LOG.md, 2026-11-26). Nothing is changed where the C library is not glibc, or where
    the environment says itself what it wants (MALLOC_..., GLIBC_TUNABLES, a preloaded allocator).
    """
    chosen = any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in os.environ)
    if chosen or not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version") or not hasattr(library, "mallopt"):
        return False
    return bool(library.mallopt(_M_MMAP_THRESHOLD, HEAP_BLOCK) and library.mallopt(_M_TRIM_THRESHOLD, HEAP_TOP))


def random_state() -> dict[str, Any]:
    """torch's random state, of the CPU and of each device that torch sees: cpu, cuda0, cuda1 ..."""
    import torch

    state = {"cpu": torch.get_rng_state()}
    for kind in _kinds():
        found, count = module_of(kind), num_devices(kind)
        for index in range(count):
            state[f"{kind}{index}"] = found.get_rng_state(index) if count > 1 else found.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put a state of `random_state` back; devices that are not here are left out."""
    import torch

    torch.set_rng_state(state["cpu"])
    for kind in _kinds():
        found, count = module_of(kind), num_devices(kind)
        for index in range(count):
            value = state.get(f"{kind}{index}")
            if value is not None:
                found.set_rng_state(value, index) if count > 1 else found.set_rng_state(value)


def _kinds() -> list[str]:
    """The kinds of device that are here besides the CPU: torch has one a process."""
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    return [] if found is None else [found.type]


def repeatable(kind: str) -> None:
    """From here on a device's results repeat bit by bit: of several ways to compute, torch takes one whose order of sums is fixed.

    A CPU's repeat as they are. cuBLAS reads its setting when it is first used; what a user has set stays.
    """
    import torch

    if kind != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
        settings: Any = torch.utils.deterministic
        settings.fill_uninitialized_memory = False  # what is never read need not be the same


def has_bf16(name: str) -> bool:
    """Whether a device computes in bfloat16 itself (T4 and V100 do not; CPUs all do, some slowly)."""
    kind, _, number = name.partition(":")
    if kind == "cuda":
        import torch

        return torch.cuda.get_device_capability(int(number or 0)) >= (8, 0) or torch.version.hip is not None
    ask = getattr(module_of(kind), "is_bf16_supported", None)
    return bool(ask()) if ask is not None else True


def empty_cache(kind: str) -> None:
    """Give memory that torch keeps of devices of this kind back to them."""
    found = module_of(kind)
    if found is not None:
        found.empty_cache()


def memory_gb(device: str = "cpu") -> float:
    """Memory held, in GB: the most that was held of a device so far, or what this process holds of the machine now."""
    ask = getattr(module_of(device.partition(":")[0]), "max_memory_allocated", None)
    return (ask(device) if ask is not None else resident_bytes()) / 1e9


def synchronize(device: str) -> None:
    """Wait until a device has done what it was given; a CPU has."""
    found = module_of(device.partition(":")[0])
    if found is not None:
        found.synchronize()
