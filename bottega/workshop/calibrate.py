"""How fast this device is, measured in seconds, and kept in the user's cache folder for `bottega plan` to read.

Left out: predicting with it (plan_time.py). Rates are CPU seconds on a CPU (other programs slow the clock, but hardly
these) and device seconds on a GPU.
"""

from __future__ import annotations

import functools
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.workshop.plan_time import Rates

FILE = "calibration.json"
ROWS, SIDE = 1024, 512
SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)
"""Smallest dimensions of the matrix products that are timed."""
LEAST_S, REPEATS = 0.03, 3


def folder() -> Path:
    """Where the calibration lies: $XDG_CACHE_HOME/bottega, or ~/.cache/bottega."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "bottega"


def calibrate() -> dict[str, Any]:
    """Measure the device at hand (the first GPU, else the CPU with this process's threads) and write what was found.

    Returns: the file's content with the other devices it holds, and its path.

    Raises:
        UserError: the folder cannot be written.
    """
    entry = calibrate_here()
    path = folder() / FILE
    known = [one for one in stored() if _key(one) != _key(entry)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        rundir.write_json(path, {"devices": [*known, entry]})
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); set XDG_CACHE_HOME to a folder of yours"
        ) from None
    return {**entry, "file": str(path)}


def calibrate_here() -> dict[str, Any]:
    """The device at hand and its rates, measured now and written nowhere."""
    import torch

    memory = interpreter_bytes()
    name, rates = measure("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "device": name,
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "interpreter": memory,
        "rates": rates.to_json(),
    }


def stored() -> list[dict[str, Any]]:
    """Every device that was calibrated on this machine."""
    path = folder() / FILE
    if not path.is_file():
        return []
    try:
        found = rundir.read_json(path)["devices"]
        return [one for one in found if Rates.from_json(one["rates"]).bytes > 0]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged; measure again with: bottega doctor --calibrate") from None


def find(device: str, threads: int) -> dict[str, Any] | None:
    """The calibration of a device (`cpu` for this machine's), with as many threads if there is one."""
    known = [one for one in stored() if one["device"] == device]
    return next((one for one in known if one["threads"] == threads), known[-1] if known else None)


def cpu_name() -> str:
    """The name of this machine's processor, as its calibration is filed under."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"cpu ({models[0] if models else platform.processor() or platform.machine()})"


def _key(entry: dict[str, Any]) -> tuple[Any, Any]:
    return entry["device"], entry["threads"]


def interpreter_bytes() -> int:
    """Memory of this process now: Python with everything imported, before a model is there."""
    import psutil

    import bottega.workshop.build  # noqa: F401  what a run imports

    return int(psutil.Process().memory_info().rss)


def measure(kind: str) -> tuple[str, Rates]:
    """The name and the rates of a device."""
    import torch
    import torch.nn.functional as F

    name = torch.cuda.get_device_name() if kind == "cuda" else cpu_name()
    dtype = torch.bfloat16 if kind == "cuda" else torch.float32

    def made(*shape: int) -> Any:
        return torch.randn(*shape, device=kind, dtype=dtype)

    best = _timer(kind)
    products = {}
    for size in SIZES:
        rows, side = max(ROWS, size), max(SIDE, size)
        a, b = made(rows, side), made(side, size)
        products[size] = 2.0 * rows * side * size / best(functools.partial(torch.matmul, a, b))
    q, k = made(1, 4, SIDE, 64), made(1, 4, SIDE, 64)
    attention = 2.0 * 4 * SIDE * SIDE * 64 / best(lambda: F.scaled_dot_product_attention(q, k, k, is_causal=True))
    x, y = made(ROWS, 16 * SIDE), made(ROWS, 16 * SIDE)  # larger than any cache, as a step's activations are
    moved = 3.0 * x.numel() * x.element_size() / best(lambda: x * y)
    small = made(8)
    call_s = best(lambda: small + small)
    return name, Rates(products=products, attention=attention, bytes=moved, call_s=call_s)


def _timer(kind: str) -> Callable[[Callable[[], Any]], float]:
    """Least seconds a call over a few repeats of at least 30 ms each, without gradients."""
    import torch

    clock = time.perf_counter if kind == "cuda" else time.process_time

    def spent(call: Callable[[], Any], times: int) -> float:
        if kind == "cuda":
            torch.cuda.synchronize()
        began = clock()
        for _ in range(times):
            call()
        if kind == "cuda":
            torch.cuda.synchronize()
        return clock() - began

    def best(call: Callable[[], Any]) -> float:
        with torch.no_grad():
            times = 1
            while (took := spent(call, times)) < LEAST_S:
                times *= 2 if took <= 0 else max(2, min(100, int(LEAST_S / took) + 1))
            return min(took, *(spent(call, times) for _ in range(REPEATS - 1))) / times

    return best


def calibrate_text(found: dict[str, Any]) -> str:
    """What was measured, for people."""
    rates = found["rates"]
    products = ", ".join(f"{size}: {rate / 1e9:.0f}" for size, rate in rates["products"].items())
    return "\n".join(
        [
            f"{found['device']}, {found['threads']} threads, torch {found['torch']}, {found['date']}",
            f"matrix products, GFLOP/s by their smallest dimension: {products}",
            f"attention {rates['attention'] / 1e9:.0f} GFLOP/s, element-wise {rates['bytes'] / 1e9:.1f} GB/s, "
            f"{rates['call_s'] * 1e6:.1f} us a call; interpreter {found['interpreter'] / 1e6:.0f} MB",
            f"written to {found['file']}; `bottega plan` reads it",
        ]
    )
