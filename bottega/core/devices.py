"""What the device at hand can do, and what this process holds of it: for the live view, never for a decision.

Left out: a calibrated prediction of memory and time.
"""

from __future__ import annotations

import functools
import time

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


def memory_gb() -> float:
    """Memory held now, in GB: of the GPU where there is one, else resident memory of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    import psutil

    return psutil.Process().memory_info().rss / 1e9
