"""Which device a name stands for on a machine without a GPU; with devices, see tests/device."""

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
