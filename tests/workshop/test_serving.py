"""`bottega serve` as people start it: a process over a run's result, adapters by name, who may ask, and what is refused before loading.

Left out: what the server answers (tests/serve).
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx2 as httpx
import pytest

from bottega import cli
from bottega.core.errors import Mismatch, UserError
from bottega.workshop import serving, use
from bottega.workshop.access import Access
from tests.models.tiny import tiny_model
from tests.serve.served import client
from tests.serve.test_lane import an_adapter

KEY = "k" * 24


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A base, an adapter on it that comes with its tokenizer, and another base."""
    here = tmp_path_factory.mktemp("serving")
    tiny_model("llama", here / "base")
    place, _ = an_adapter("llama", here, 1)
    for path in [*(here / "base").glob("tokenizer*"), *(here / "base").glob("*.jinja")]:
        shutil.copy(path, place)
    tiny_model("llama", here / "other", seed=7)
    return here


@contextmanager
def process(*words):
    """(port, all lines said before it began) of a server process, which Ctrl-C ends; what it said last is added to the lines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child = subprocess.Popen(
        [sys.executable, "-m", "bottega.cli", "serve", *map(str, words), "--port", str(port)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    watchdog = threading.Timer(120, child.kill)
    watchdog.start()
    lines = []
    try:
        while "(Ctrl-C ends it)" not in (line := child.stderr.readline()):
            assert line, "".join(lines)
            lines.append(line)
        lines.append(line)
        with httpx.Client(transport=httpx.HTTPTransport(retries=8), timeout=20) as one:
            assert one.get(f"http://127.0.0.1:{port}/health").status_code == 200
        yield port, lines
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) in (0, 143)
        lines += child.stderr.readlines()
    finally:
        watchdog.cancel()
        child.kill()
        child.communicate()


def test_a_base_with_an_adapter_behind_a_key_and_a_mixture(here, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(KEY + "\n")
    keys.chmod(0o600)
    with process(here / "base", "--adapter", f"one={here / 'a1'}", "--key-file", keys, "--name", "house") as (
        port,
        lines,
    ):
        asked = {"messages": [{"role": "user", "content": "Who keeps the keys?"}], "max_tokens": 12, "temperature": 0}
        create = client(f"http://127.0.0.1:{port}", KEY).chat.completions.create
        said = [create(model=name, **asked).choices[0].message.content for name in ("house", "one", "one:0.5")]
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 401
    assert "house, one on http://127.0.0.1" in lines[-2] and "tokens/s while decoding" in lines[-1]
    for model, text in zip((here / "base", here / "a1"), said):
        assert use.generate(str(model), ["Who keeps the keys?"], max_tokens=12, quiet=True)[0]["reply"] == text
    assert len(set(said)) == 3


@pytest.mark.parametrize("weights", ["nf4", "int8", "stream", "int8+stream"])
def test_weights_in_few_bits_or_left_on_disk_say_what_they_cost(here, weights):
    with process(here / "base", "--weights", weights) as (port, lines):
        got = client(f"http://127.0.0.1:{port}").completions.create(
            model="base", prompt="The saw", max_tokens=6, temperature=0
        )
        assert got.usage.completion_tokens >= 1
    told = " ".join(lines)
    assert (
        ("KL to full precision" in told) == (weights != "stream") and "tokens/s" in lines[-1] and weights in lines[-1]
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"adapters": ["one"]}, "is not NAME=FOLDER"),
        ({"adapters": ["base=a1"]}, "is not NAME=FOLDER"),
        ({"adapters": ["one={other}"]}, "is a whole model"),
        ({"adapters": ["one={a1}", "one={a1}"]}, "already"),
        ({"adapters_from": "nowhere"}, "no folder"),
        ({"adapters": ["one={a1}"], "weights": "stream"}, "streamed from disk"),
        ({"name": "a b"}, "letters, digits"),
        ({"access": Access(host="0.0.0.0")}, "--allow-host"),
        ({"access": Access(host="0.0.0.0", allow_host=("box",), behind_proxy=True)}, "--key-file"),
        ({"access": Access(certificate="gone.pem")}, "gone.pem"),
        ({"access": Access(key_env="BOTTEGA_NO_KEY")}, "BOTTEGA_NO_KEY is empty"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_one_sentence(here, options, says):
    places = {"other": here / "other", "a1": here / "a1"}
    filled = {k: [one.format(**places) for one in v] if isinstance(v, list) else v for k, v in options.items()}
    with pytest.raises(UserError, match=says):
        serving.serve(str(here / "base"), **filled)


def test_an_adapter_of_another_base_is_a_mismatch_and_one_on_itself_is_refused(here):
    with pytest.raises(Mismatch, match="its own base"):
        serving.serve(str(here / "other"), adapters=[f"one={here / 'a1'}"])
    with pytest.raises(UserError, match="name their base"):
        serving.serve(str(here / "a1"), adapters=[f"one={here / 'a1'}"])


def test_keys_that_others_can_read_or_guess_are_refused(here, tmp_path, monkeypatch):
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    keys.chmod(0o644)
    assert cli.door(["serve", str(here / "base"), "--key-file", str(keys)]) == 4
    keys.chmod(0o600)
    keys.write_text("short")
    assert cli.door(["serve", str(here / "base"), "--key-file", str(keys)]) == 2
    monkeypatch.setenv("BOTTEGA_KEY_FOR_TEST", "short")
    assert cli.door(["serve", str(here / "base"), "--key-env", "BOTTEGA_KEY_FOR_TEST"]) == 2
