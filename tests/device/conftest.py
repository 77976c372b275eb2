"""The stand-in device for the tests of this room, and nowhere else; without a C++ compiler they are skipped, by name."""

import pytest

from bottega.core import devices
from tests.device import standin


@pytest.fixture(scope="module")
def built():
    """The stand-in's library, built at the first call on a machine."""
    try:
        with standin.present() as library:
            return library
    except standin.Missing as error:
        pytest.skip(f"the stand-in device is missing: {error}")


@pytest.fixture
def device(built, monkeypatch):
    """Two stand-in devices are there, and `auto` takes them for GPUs."""
    monkeypatch.setattr(devices, "ACCELERATOR", "standin")
    with standin.present():
        yield "standin"
