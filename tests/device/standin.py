"""A stand-in for a GPU: a device of another type than the CPU, so that a tensor left in the wrong place is an error on any machine.

Left out: the numbers of a GPU and its speed. standin.cpp is built once by the machine's C++ compiler (half a minute) and kept.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).with_name("standin.cpp")


class Missing(Exception):
    """Why there is no stand-in."""


def _library() -> Any:
    """The built extension.

    Raises:
        Missing: there is no compiler, or it does not build here.
    """
    from torch.utils import cpp_extension

    if shutil.which(os.environ.get("CXX", "c++")) is None:
        raise Missing("no C++ compiler is on the PATH (c++, or CXX names one)")
    digest = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:12]
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bottega" / "tests" / f"standin-{digest}"
    home.mkdir(parents=True, exist_ok=True)
    try:
        return cpp_extension.load(
            "bottega_standin", [str(SOURCE)], extra_cflags=["-O0", "-g0"], build_directory=str(home)
        )
    except (RuntimeError, OSError, ImportError) as error:
        raise Missing(f"standin.cpp does not build here ({str(error).splitlines()[0][:120]})") from error


def _index(device: Any = None) -> int:
    """The number of a device given as None, a number, a name or a torch.device."""
    if device is None:
        return int(_made().current())
    index = device if isinstance(device, int) else torch.device(device).index
    return int(_made().current()) if index is None else int(index)


def _module(library: Any) -> types.ModuleType:
    """`torch.standin`: what torch and bottega ask of a kind of device."""
    module = types.ModuleType("torch.standin")
    facts: dict[str, Any] = {
        "is_available": library.is_present,
        "device_count": lambda: 2 if library.is_present() else 0,
        "current_device": library.current,
        "set_device": lambda device: library.use(_index(device)),
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "max_memory_allocated": lambda device=None: library.held(_index(device)),
        "mem_get_info": lambda device=None: (ROOM - library.held(_index(device)), ROOM),
        "is_bf16_supported": lambda: BF16,
        "get_amp_supported_dtype": lambda: [torch.bfloat16, torch.float16],
        "_is_in_bad_fork": lambda: False,
        "manual_seed": lambda seed: library.seed(_index(), seed),
        "manual_seed_all": lambda seed: [library.seed(i, seed) for i in range(2)] and None,
        "get_rng_state": lambda device=None: library.get_state(_index(device)),
        "set_rng_state": lambda state, device=None: library.set_state(_index(device), state),
        "get_device_properties": lambda device=None: types.SimpleNamespace(name="stand-in", total_memory=ROOM),
    }
    for name, value in facts.items():
        setattr(module, name, value)
    return module


ROOM = 2**33
BF16 = True
_kept: list[Any] = []


def _made() -> Any:
    if not _kept:
        library = _library()
        torch.utils.rename_privateuse1_backend("standin")
        torch._register_device_module("standin", _module(library))
        torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
        _kept.append(library)
    return _kept[0]


@contextmanager
def present() -> Iterator[Any]:
    """Two stand-in devices are there inside, and none is outside.

    Raises:
        Missing: it cannot be built here.
    """
    library = _made()
    library.present(True)
    try:
        yield library
    finally:
        library.present(False)
        library.use(0)
