"""The device that a plan is for, with all that is known of its memory and speed, and how sure that is.

Left out: the table of devices (plan_devices.py) and measuring (calibrate.py).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bottega.core import rundir
from bottega.core.devices import host_memory
from bottega.workshop import calibrate, plan_devices
from bottega.workshop.plan_memory import Fit
from bottega.workshop.plan_time import TERMS, Rates

TABLE = Path(__file__).with_name("calibration.json")
CONTEXT_BYTES = (0.4e9, 0.9e9)
"""What a CUDA context and its libraries take, from experience; not measured here."""
GPU_SLACK = (1.02, 1.15)
GPU_SHARE = (0.2, 0.55)
"""Of a GPU's peak rate, what real steps reach: published runs lie in this range."""
CPU_RANGE = (0.5, 2.5)
"""Of the seconds predicted with another machine's rates."""
LAUNCH_S = 8e-6
BEFORE_AMPERE = ("T4", "V100", "P100", "RTX 20", "Quadro RTX")
"""Parts of the names of GPUs without bfloat16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A device. memory: bytes to fit in (None: unknown); calibrated: its rates were measured; spread, slack: factors on predicted
    seconds and bytes that bound the truth."""

    name: str
    kind: str
    memory: float | None
    rates: Rates
    factors: dict[str, float]
    fit: Fit
    interpreter: float
    threads: int
    calibrated: bool
    spread: tuple[float, float]
    slack: tuple[float, float]
    note: str

    @property
    def half(self) -> bool:
        """Whether it computes in bfloat16; GPUs before Ampere do not."""
        return not any(old in self.name for old in BEFORE_AMPERE)


@cache
def table() -> dict[str, Any]:
    """The runs that were measured, the factors fitted to them, and the held-out errors."""
    return dict(rundir.read_json(TABLE))


def target(device: str | None, memory: float | None, *, threads: int | None = None) -> Target:
    """The device that was named, or this machine; with `memory` instead of its own where that is given."""
    if device is None:
        import torch

        if memory is None and torch.cuda.is_available():
            return _here(memory)
        return _cpu(memory, threads)
    if device.lower() in ("cpu", "this", "here"):
        return _cpu(memory, threads)
    return _gpu(plan_devices.device(device), memory)


def _cpu(memory: float | None, threads: int | None) -> Target:
    known = table()
    threads = threads or _threads()
    own = calibrate.find(calibrate.cpu_name(), threads)
    errors = known["held_out"]
    wide = errors["memory"]["p90"], errors["time"]["p90"]
    note = (
        f"calibrated on {own['date']} with {own['threads']} threads"
        if own
        else "not calibrated: the rates are another machine's, so seconds are a range; `bottega doctor --calibrate` takes seconds"
    )
    return Target(
        name=calibrate.cpu_name(),
        kind="cpu",
        memory=memory if memory is not None else host_memory()["available_bytes"],
        rates=Rates.from_json((own or known["machine"])["rates"]),
        factors=known["factors"]["time"],
        fit=Fit(**known["factors"]["memory"]),
        interpreter=float((own or known["machine"])["interpreter"]),
        threads=threads,
        calibrated=own is not None,
        spread=(1 - wide[1], 1 + wide[1]) if own else CPU_RANGE,
        slack=(1 - wide[0], 1 + wide[0]),
        note=note,
    )


def _threads() -> int:
    import torch

    return int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads())


def _here(memory: float | None) -> Target:
    """The GPU at hand, with its measured rates if it was calibrated."""
    import torch

    facts = torch.cuda.get_device_properties(0)
    own = calibrate.find(facts.name, torch.get_num_threads())
    sheet = next((d for d in plan_devices.DEVICES.values() if d.name.removeprefix("NVIDIA ") in facts.name), None)
    if own is None and sheet is not None:
        return _gpu(sheet, memory or facts.total_memory)
    rates = own["rates"] if own else table()["machine"]["rates"]
    return _on_gpu(facts.name, memory or facts.total_memory, Rates.from_json(rates), calibrated=own is not None)


def _gpu(entry: plan_devices.Device, memory: float | None) -> Target:
    """A device of the table: rates from its data sheet, halved, for no step reaches them."""
    middle = (GPU_SHARE[0] * GPU_SHARE[1]) ** 0.5
    peak = entry.tflops * 1e12 * middle
    rates = Rates(
        products={16: peak / 16, 64: peak / 4, 256: peak / 1.5, 1024: peak},
        attention=peak / 2,
        bytes=entry.gb_s * 1e9 * 0.7,
        call_s=LAUNCH_S,
    )
    return _on_gpu(entry.name, memory or entry.memory, rates, calibrated=False)


def _on_gpu(name: str, memory: float, rates: Rates, *, calibrated: bool) -> Target:
    middle = (GPU_SHARE[0] * GPU_SHARE[1]) ** 0.5
    context = (CONTEXT_BYTES[0] * CONTEXT_BYTES[1]) ** 0.5
    slack = (GPU_SLACK[0] * GPU_SLACK[1]) ** 0.5
    return Target(
        name=name,
        kind="cuda",
        memory=memory,
        rates=rates,
        factors=dict.fromkeys(TERMS, 1.0) | {"step": 0.0},
        fit=Fit(constant=0.0, factor=slack),
        interpreter=context,
        threads=1,
        calibrated=calibrated,
        spread=(0.7, 1.6) if calibrated else (middle / GPU_SHARE[1], middle / GPU_SHARE[0]),
        slack=(GPU_SLACK[0] / slack, GPU_SLACK[1] / slack),
        note="calibrated here; how steps compare with it was measured on CPUs only, so seconds are a range"
        if calibrated
        else f"not calibrated: from {plan_devices.SOURCE} ({plan_devices.DATE}), so everything is a range",
    )


def error_bar() -> dict[str, Any]:
    """How far held-out runs of the calibration table were from what was predicted."""
    known = table()
    memory, process, time = (known["held_out"][kind] for kind in ("memory", "process", "time"))
    count = len(known["runs"])
    said = (
        f"error bar: over {count} measured runs ({known['machine']['device']}, {known['date']}), each predicted from the others, "
        f"the process's peak was off by {process['median']:.0%} in the middle and {process['p90']:.0%} at the 90th percentile "
        f"(what it took above a bare interpreter by {memory['median']:.0%} and {memory['p90']:.0%}), time by "
        f"{time['median']:.0%} and {time['p90']:.0%}"
    )
    return {"runs": count, "memory": memory, "process": process, "time": time, "sentence": said}
