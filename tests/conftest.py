"""Fixtures that every room's tests share: real inputs beside the checkout, when they are there."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture
def shared_data():
    """A function name -> path of a real input; the test is skipped, by name, where it does not lie beside the checkout."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"real input {name} is not beside the checkout")
        return path

    return find


@pytest.fixture(autouse=True)
def offline_ends_with_its_test():
    """`--offline` sets variables of its process, which in a test is everybody's."""
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    before = {name: os.environ.get(name) for name in names}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
