"""Fixtures that every room's tests share: real inputs beside the checkout, when they are there."""

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
