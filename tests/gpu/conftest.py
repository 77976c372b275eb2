"""What needs a GPU: skipped, by name, where there is none."""

import pytest

from bottega.core.devices import num_devices
from tests.models.conftest import saved  # noqa: F401


@pytest.fixture(autouse=True)
def gpu():
    """The device's name."""
    if not num_devices("cuda"):
        pytest.skip("no GPU here")
    return "cuda:0"
