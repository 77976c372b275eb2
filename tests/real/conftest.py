"""The tiny random model that stands in for the base in this folder's tests."""

import pytest

from tests.models.tiny import tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A random Llama with room for a worked answer in bytes."""
    return tiny_model("llama", tmp_path_factory.mktemp("model"), max_position_embeddings=1024)
