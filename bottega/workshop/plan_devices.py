"""Devices a plan can be made for: a dated table of common GPUs, a memory given by hand, or the machine at hand.

Left out: measuring (calibrate.py). Memory and peak rates are those of the makers' data sheets, which no real step reaches: a
device that was not calibrated gets a range.
"""

from __future__ import annotations

import difflib
import re
from typing import Literal, NamedTuple

from bottega.core.errors import UserError

DATE = "2026-11-25"
SOURCE = "the makers' data sheets: dense bf16 (fp16 before Ampere) tensor throughput with fp32 accumulation, memory size and bandwidth"


class Device(NamedTuple):
    """memory: bytes; tflops: dense 16-bit peak, 1e12 a second; fp32_tflops: without tensor cores; gb_s: memory bandwidth,
    1e9 B/s."""

    name: str
    kind: Literal["cuda", "mps", "cpu"]
    memory: float
    tflops: float
    fp32_tflops: float
    gb_s: float


GIB = 1024**3
DEVICES: dict[str, Device] = {
    "t4": Device("NVIDIA T4", "cuda", 16 * GIB, 65, 8.1, 320),
    "v100-32gb": Device("NVIDIA V100 32 GB", "cuda", 32 * GIB, 125, 15.7, 900),
    "rtx-3060": Device("NVIDIA RTX 3060 12 GB", "cuda", 12 * GIB, 26, 12.7, 360),
    "rtx-3080": Device("NVIDIA RTX 3080 10 GB", "cuda", 10 * GIB, 60, 29.8, 760),
    "rtx-3090": Device("NVIDIA RTX 3090", "cuda", 24 * GIB, 71, 35.6, 936),
    "rtx-4060-ti-16gb": Device("NVIDIA RTX 4060 Ti 16 GB", "cuda", 16 * GIB, 44, 22.1, 288),
    "rtx-4080": Device("NVIDIA RTX 4080", "cuda", 16 * GIB, 97, 48.7, 717),
    "rtx-4090": Device("NVIDIA RTX 4090", "cuda", 24 * GIB, 165, 82.6, 1008),
    "rtx-5090": Device("NVIDIA RTX 5090", "cuda", 32 * GIB, 209, 104.8, 1792),
    "a10": Device("NVIDIA A10", "cuda", 24 * GIB, 125, 31.2, 600),
    "l4": Device("NVIDIA L4", "cuda", 24 * GIB, 121, 30.3, 300),
    "l40s": Device("NVIDIA L40S", "cuda", 48 * GIB, 362, 91.6, 864),
    "a6000": Device("NVIDIA RTX A6000", "cuda", 48 * GIB, 155, 38.7, 768),
    "a100-40gb": Device("NVIDIA A100 40 GB", "cuda", 40 * GIB, 312, 19.5, 1555),
    "a100-80gb": Device("NVIDIA A100 80 GB", "cuda", 80 * GIB, 312, 19.5, 2039),
    "h100": Device("NVIDIA H100 SXM", "cuda", 80 * GIB, 989, 66.9, 3350),
    "h200": Device("NVIDIA H200", "cuda", 141e9, 989, 66.9, 4800),
}
UNITS = {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40}


def device(name: str) -> Device:
    """The table's device called `name` ("RTX 3090", "rtx3090", "a100-80gb").

    Raises:
        UserError: it is not in the table; the nearest names are said.
    """
    wanted = re.sub(r"[^a-z0-9]", "", name.lower().removeprefix("nvidia"))
    by_plain = {re.sub(r"[^a-z0-9]", "", key): value for key, value in DEVICES.items()}
    if wanted in by_plain:
        return by_plain[wanted]
    close = difflib.get_close_matches(wanted, by_plain, n=1, cutoff=0.5)
    meant = next((f" (did you mean {key}?)" for key in DEVICES if close and re.sub(r"\W", "", key) == close[0]), "")
    raise UserError(
        f"there is no device {name!r} in the table{meant}; there are {', '.join(DEVICES)}; or give --device-memory 24GB"
    )


def memory_bytes(text: str) -> float:
    """ "24GB" -> 24e9; "24GiB" -> 24 * 2**30.

    Raises:
        UserError: it is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if not match or match[2].lower() not in UNITS or float(match[1]) == 0:
        raise UserError(f"{text!r} is no size of memory; write a number and a unit, such as 24GB or 16GiB")
    return float(match[1]) * UNITS[match[2].lower()]
