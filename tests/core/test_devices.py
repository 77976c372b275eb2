"""Which device a name stands for on a machine without a GPU; with devices, see tests/device.

And memory that a step frees is there for the next step.
"""

import os
import platform
import subprocess
import sys

import pytest

from bottega.core import devices
from bottega.core.errors import UserError


@pytest.mark.parametrize("name", ["gpu", "CUDA", "cuda:", "cuda:x", "cpu:1", "", "auto:0", "0"])
def test_what_can_be_no_device_is_refused_without_looking_for_it(name):
    with pytest.raises(UserError, match=r"is not known; write auto, cpu, cuda, or one of several as cuda:1"):
        devices.check(name)


def test_a_device_that_is_not_here_is_one_sentence_and_auto_is_the_cpu(monkeypatch):
    monkeypatch.setattr(devices, "num_devices", lambda kind: 0)
    assert devices.choose("auto").name == "cpu"
    for name in ("cuda", "cuda:1", "xpu"):
        with pytest.raises(UserError) as said:
            devices.choose(name)
        assert (
            str(said.value)
            == f"device {name} is not here: torch sees no {name[:4].strip(':')} device; write cpu, or auto"
        )


def test_the_random_state_goes_back_and_states_of_devices_that_are_gone_are_left_out():
    import torch

    state = devices.random_state()
    first = torch.rand(3)
    devices.set_random_state({**state, "cuda7": state["cpu"]})
    assert torch.equal(torch.rand(3), first)


FAULTS = """
import ctypes, resource, sys
from bottega.core import devices

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
kept = devices.keep_heap() if sys.argv[1] == "keep" else False
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):  # four blocks a step, 80 MiB together
    blocks = [libc.malloc(20 << 20) for _ in range(4)]
    for block in blocks:
        ctypes.memset(block, 1, 20 << 20)
    for block in blocks:
        libc.free(block)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **env: str) -> tuple[int, int]:
    """Whether the heap says that it keeps, and the pages that ten steps of 80 MiB asked for."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))}
    done = subprocess.run([sys.executable, "-c", FAULTS, how], env=clean | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept, count = done.stdout.split()
    return int(kept), int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's heap is told to keep")
def test_pages_of_a_step_are_kept_for_the_next():
    """80 MiB are 20,480 pages of 4 KiB: asked for once where the heap keeps them, more often where it trims at 64 MiB."""
    _, trimmed = faults("default")
    kept, once = faults("keep")
    assert kept and once < 25_000
    assert trimmed > 2 * once


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's heap is told to keep")
def test_an_environment_that_names_its_own_thresholds_is_left_alone():
    assert faults("keep", MALLOC_TRIM_THRESHOLD_="1048576")[0] == 0
