"""The tiny models of tests/models, here too."""

from tests.models.conftest import saved

__all__ = ["saved"]
