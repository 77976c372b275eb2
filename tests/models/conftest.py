"""Tiny models are saved once a session and shared by the tests that only read them."""

import pytest

from tests.models.tiny import tiny_model


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A function (family, **config) -> folder of a saved tiny model; the same call gives the same folder: do not
    write there.
    """
    made = {}

    def find(family, **config):
        key = (family, repr(sorted(config.items())))
        if key not in made:
            made[key] = tiny_model(family, tmp_path_factory.mktemp(family) / "model", **config)
        return made[key]

    return find
