"""Whether to compile the trunk, by a rule that says why: the same recipe on the same machine is always decided alike.

Left out: compiling layer by layer, and CUDA graphs.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import Literal

LONG_CPU, LONG_CUDA = 2e13, 1e16
"""Floating-point operations of a run (6 per weight and token) from which compiling
is repaid. CPU: compiling took 13 s and bf16 grids gained a quarter (docs/LOG.md, 2026-11-22); 2e13 is about five
minutes of a core of 70 GFLOP/s. CUDA: not measured; a minute of an A100 at a third of its peak is 6e15."""


def decide(
    wanted: bool | Literal["auto"], *, device: str, precision: str, grid: bool, flops: float
) -> tuple[bool, str]:
    """Whether to compile, and why, in one line.

    Args:
        grid: all rows have one length, so that there is one shape. flops: of the whole run.
    """
    if wanted is False:
        return False, "compile: off, as the recipe says"
    if wanted is True:
        return True, "compile: on, as the recipe says" + (
            "" if grid else "; it serves only batches of one length, and these rows differ"
        )
    reason = _against(device, precision, grid, flops)
    return (False, f"compile: off, {reason}") if reason else (True, "compile: on, a long run over rows of one length")


def _against(device: str, precision: str, grid: bool, flops: float) -> str:
    if not grid:
        return "rows differ in length, and every new shape would be compiled anew"
    if device == "cpu" and precision == "fp32":
        return "compiled fp32 is not faster on a CPU"
    if flops < (LONG_CPU if device == "cpu" else LONG_CUDA):
        return "the run is too short to repay compiling"
    if device == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        return "there is no C++ compiler"
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return ""
