"""What this machine has, what works on it, what is missing and the command that mends it.

Left out: measuring speed (calibrate.py), network checks (no verb opens a connection unasked).
"""

from __future__ import annotations

import os
import platform
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bottega import __version__
from bottega.core.devices import host_memory
from bottega.core.rundir import free_bytes
from bottega.core.textio import table

State = Literal["works", "untested", "no"]
NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "peft", "numpy", "click", "rich", "pyyaml", "jinja2")
LEAST_MEMORY_BYTES = 2_000_000_000
LEAST_DISK_BYTES = 2_000_000_000


class Extra(NamedTuple):
    """An optional extra: what it is for and the modules that must be there."""

    purpose: str
    modules: tuple[str, ...]


EXTRAS = {
    "data": Extra("parquet and arrow files", ("pyarrow",)),
    "docs": Extra("pdf and html documents", ("pypdf", "trafilatura")),
    "office": Extra("docx documents, xlsx tables", ("docx", "openpyxl")),
    "hub": Extra("data sets of the Hub (hub://)", ("datasets",)),
    "lang": Extra("telling languages apart (data clean)", ("py3langid",)),
    "pii": Extra("phone numbers and national ids (data clean)", ("phonenumbers", "stdnum")),
    "s3": Extra("data in s3://", ("s3fs",)),
    "gcs": Extra("data in gs://", ("gcsfs",)),
    "sql": Extra("data of databases by URL (sqlite:/// needs nothing)", ("sqlalchemy",)),
    "report": Extra("pictures of the curves", ("matplotlib",)),
    "export": Extra("GGUF and ONNX (export, and GGUF files as models)", ("gguf", "onnx", "onnxruntime", "onnxscript")),
    "studio": Extra("the pages for people's feedback", ("starlette", "uvicorn")),
    "serve": Extra("the OpenAI-compatible server", ("starlette", "uvicorn", "prometheus_client")),
    "quant": Extra("8-bit optimizer states", ("bitsandbytes",)),
    "dev": Extra("the project's own tests", ("pytest", "hypothesis", "ruff", "mypy")),
}


def doctor(*, calibrate: bool = False) -> dict[str, Any]:
    """Look at Python, packages, devices, cores, memory, disk and capabilities.

    Args:
        calibrate: measure the device's speed too (seconds), and keep it for `bottega plan`.

    Returns: JSON-able facts; `ok` and `exit_code` (1 when something that every run needs is missing).
    """
    packages = [_package(name) for name in NEEDED]
    extras = [_extra(name, extra) for name, extra in EXTRAS.items()]
    torch_facts = _torch() if find_spec("torch") else {"version": None, "devices": []}
    memory, disk = host_memory(), free_bytes(Path.cwd())
    capabilities = _capabilities(torch_facts, {e["extra"]: e["state"] == "works" for e in extras})
    problems = [f"{p['name']} is missing: {p['mend']}" for p in packages if p["version"] is None]
    warnings = []
    if memory["available_bytes"] < LEAST_MEMORY_BYTES:
        warnings.append(
            f"only {memory['available_bytes'] / 1e9:.1f} GB of memory are free: close something or train small"
        )
    if disk < LEAST_DISK_BYTES:
        warnings.append(f"only {disk / 1e9:.1f} GB are free on this disk: free some, or choose another with --out")
    measured = {}
    if calibrate:
        from bottega.workshop.calibrate import calibrate as measure

        measured = {"calibration": measure()}
    return {
        **measured,
        "bottega": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": _cores(),
        "memory": memory,
        "disk_free_bytes": disk,
        "offline": os.environ.get("HF_HUB_OFFLINE", "") in ("1", "true", "TRUE", "yes", "ON"),
        "torch": torch_facts,
        "packages": packages,
        "extras": extras,
        "capabilities": capabilities,
        "problems": problems,
        "warnings": warnings,
        "ok": not problems,
        "exit_code": 1 if problems else 0,
    }


def doctor_text(facts: dict[str, Any]) -> str:
    """The same for people."""
    memory = facts["memory"]
    devices = ", ".join(d["name"] for d in facts["torch"]["devices"]) or "none"
    lines = [
        f"bottega {facts['bottega']} on Python {facts['python']}, {facts['platform']}",
        f"torch {facts['torch']['version']}, devices: {devices}",
        f"{facts['cores']} cores; free: {memory['available_bytes'] / 1e9:.1f} of {memory['total_bytes'] / 1e9:.1f} GB "
        f"memory, {facts['disk_free_bytes'] / 1e9:.0f} GB disk" + (", offline" if facts["offline"] else ""),
        "",
        table(
            [(c["name"], c["state"], c["why"]) for c in facts["capabilities"]], ("capability", "state", "why, or mend")
        ),
        "",
        table(
            [(e["extra"], e["state"], e["purpose"], e["mend"]) for e in facts["extras"]],
            ("extra", "state", "for", "mend"),
        ),
    ]
    for label in ("problems", "warnings"):
        lines += ["", f"{label}:", *(f"  {line}" for line in facts[label])] if facts[label] else []
    if "calibration" in facts:
        from bottega.workshop.calibrate import calibrate_text

        lines += ["", calibrate_text(facts["calibration"])]
    lines += ["", "everything that a run needs is here" if facts["ok"] else "mend the problems above first"]
    return "\n".join(lines)


def _package(name: str) -> dict[str, Any]:
    try:
        return {"name": name, "version": metadata.version(name), "mend": ""}
    except metadata.PackageNotFoundError:
        return {"name": name, "version": None, "mend": f"pip install {name}"}


def _extra(name: str, extra: Extra) -> dict[str, Any]:
    missing = [module for module in extra.modules if find_spec(module) is None]
    return {
        "extra": name,
        "purpose": extra.purpose,
        "state": "no" if missing else "works",
        "missing": missing,
        "mend": f"pip install 'bottega[{name}]'" if missing else "",
    }


def _cores() -> int:
    """Cores this process may use (a container may have fewer than the machine)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _torch() -> dict[str, Any]:
    """torch's version and the devices it sees."""
    import torch

    devices: list[dict[str, Any]] = [
        {"kind": "cpu", "name": f"cpu ({platform.processor() or platform.machine()})", "memory_bytes": None}
    ]
    for i in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(i)
        devices.append({"kind": "cuda", "name": facts.name, "memory_bytes": facts.total_memory})
    if torch.backends.mps.is_available():
        devices.append({"kind": "mps", "name": "Apple GPU", "memory_bytes": None})
    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "devices": devices,
        "bf16": _bf16(),
        "distributed": torch.distributed.is_available(),
    }


def _bf16() -> bool:
    """Does a bfloat16 product run here?"""
    import torch

    a = torch.ones(8, 8, dtype=torch.bfloat16)
    try:
        return bool(((a @ a) == 8).all())
    except RuntimeError:
        return False


def _capabilities(torch_facts: dict[str, Any], extras: dict[str, bool]) -> list[dict[str, str]]:
    """What can be done here: works (our tests run it on such a machine), untested, or no."""
    system = platform.system()
    kinds = {d["kind"] for d in torch_facts["devices"]}
    here: State = "works" if system == "Linux" else "untested"
    rows: list[tuple[str, State, str]] = [
        ("run on this system", here, "Linux is what our tests run on" if here != "works" else system),
        (
            "train and generate on the CPU",
            here if "cpu" in kinds else "no",
            "fp32" if "cpu" in kinds else "pip install torch",
        ),
        (
            "bfloat16 on the CPU",
            here if torch_facts.get("bf16") else "no",
            "a product ran" if torch_facts.get("bf16") else "",
        ),
        (
            "train and generate on CUDA",
            "untested" if "cuda" in kinds else "no",
            "torch sees no CUDA device" if "cuda" not in kinds else "our tests have not run on this device",
        ),  # fmt: skip
        (
            "train and generate on Apple GPUs",
            "untested" if "mps" in kinds else "no",
            "" if "mps" in kinds else "none here",
        ),
        ("several processes (torchrun)", here if torch_facts.get("distributed") else "no", "gloo on the CPU"),
        ("one process a run folder (lock)", here if find_spec("fcntl") else "untested", "flock"),
        ("limits on strangers' templates", here if find_spec("resource") else "untested", "CPU and memory limits"),
    ]
    for name, extra in EXTRAS.items():
        if name != "dev":
            state: State = here if extras[name] else "no"
            rows.append((extra.purpose, state, "" if extras[name] else f"pip install 'bottega[{name}]'"))
    rows.append(("vision and audio", "no", "out of scope"))
    return [{"name": name, "state": state, "why": why} for name, state, why in rows]
