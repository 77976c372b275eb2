"""What pyproject asks for against the pinned lock and what is installed: no extra moves torch, transformers or numpy (Y10).

Left out: asking a registry. Packages that the lock does not pin are not installed here, so their own wishes are not known.
"""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
HELD = ("torch", "transformers", "numpy")
NOT_PINNED = {"datasets", "s3fs", "gcsfs", "wandb", "mlflow-skinny", "alembic"}
"""Of remote services and the Hub: not in the environment that the lock was made of."""


def locked() -> dict[str, str]:
    lines = [line.strip() for line in (ROOT / "requirements.lock").read_text().splitlines()]
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", line) for line in pins), (
        "every line of the lock is one exact version"
    )
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in pins)}


def test_the_lock_pins_what_pyproject_asks_for_within_its_bounds():
    pins = locked()
    asked = [*PROJECT["dependencies"], *(text for texts in EXTRAS.values() for text in texts)]
    lacking = set()
    for text in asked:
        wish = Requirement(text)
        name = canonicalize_name(wish.name)
        if name in pins:
            assert wish.specifier.contains(pins[name]), f"{text}, but the lock has {pins[name]}"
        else:
            lacking.add(name)
    assert lacking == NOT_PINNED


def test_the_three_that_everything_rests_on_come_without_an_extra_and_no_extra_names_them():
    always = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert set(HELD) <= always
    for extra, texts in EXTRAS.items():
        named = {canonicalize_name(Requirement(text).name) for text in texts}
        assert not named & set(HELD), extra


def wishes(name: str, extras: set[str]) -> list[Requirement]:
    """What an installed package asks for here; nothing where it is not installed."""
    try:
        texts = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []
    found = [Requirement(text) for text in texts]
    return [
        w for w in found if w.marker is None or any(w.marker.evaluate({"extra": extra}) for extra in extras or {""})
    ]


@pytest.mark.parametrize("extra", EXTRAS)
def test_whatever_an_extra_brings_with_it_is_content_with_the_locked_torch_transformers_and_numpy(extra):
    """From package to package, as far as they are installed: each one's wish about the three holds for the pinned version."""
    pins = locked()
    waiting = [Requirement(text) for text in EXTRAS[extra]]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wish = waiting.pop()
        name = canonicalize_name(wish.name)
        if name in pins:
            assert wish.specifier.contains(Version(pins[name]), prereleases=True), (
                f"{extra}: {wish} against {pins[name]}"
            )
        if (name, frozenset(wish.extras)) not in seen and name not in HELD:
            seen.add((name, frozenset(wish.extras)))
            waiting += wishes(name, wish.extras)


def test_nothing_that_is_asked_for_or_pinned_is_known_for_telemetry():
    known = {
        "posthog",
        "sentry-sdk",
        "segment-analytics-python",
        "analytics-python",
        "mixpanel",
        "scarf-sdk",
        "datadog",
    }
    assert not known & set(locked())
