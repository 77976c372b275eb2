"""What the device at hand can do, and what this process holds of it: for the live view, never for a decision.

Left out: a calibrated prediction of memory and time.
"""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import Literal

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


def kind() -> Literal["cpu", "cuda"]:
    """Where models run here."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@functools.cache
def peak_flops() -> float:
    """Floating-point operations per second that matrix products can reach here.

    A known GPU: its data sheet. Anything else: measured once, the best of a few 512 x 512 float32 products (some 30 ms).
    """
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        known = [value for part, value in PEAK_TFLOPS.items() if part in name]
        if known:
            return known[0] * 1e12
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.ones(512, 512, device=device)
    best = float("inf")
    for _ in range(8):
        began = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
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


def memory_gb() -> float:
    """Memory held now, in GB: of the GPU where there is one, else resident memory of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resident_bytes() / 1e9
