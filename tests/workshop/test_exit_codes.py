"""The table of exit codes, each reached through the command line by the thing that it stands for.

Left out: every other cause of a code, which the tests of its own verb hold.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import threading
import time

import pytest

from bottega import cli
from bottega.core import rundir
from tests.models.endpoint import Endpoint
from tests.workshop.made import chat, jsonl, workshop

RECIPE = """
name: one
model: model
stages:
  - s: {objective: sft, data: chats.jsonl, method: full, steps: 4, batch: 4, save_every: 1, lr: 1e-3}
"""
RUN = ["run", "one.yaml", "--quiet"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A model, data, a recipe and a run of it that has ended."""
    folder = workshop(tmp_path_factory.mktemp("codes"))
    (folder / "one.yaml").write_text(RECIPE)
    with contextlib.chdir(folder):
        assert cli.door(RUN) == 0
    return folder


@pytest.fixture
def here(shop, tmp_path, monkeypatch):
    folder = shutil.copytree(shop, tmp_path / "shop")
    monkeypatch.chdir(folder)
    return folder


def _done(here):
    return cli.door(RUN)


def _check_came_out_negative(here):
    weights = next(here.glob("runs/one/stages/*/result/model.safetensors"))
    raw = bytearray(weights.read_bytes())
    raw[-3] ^= 1
    weights.write_bytes(raw)
    return cli.door(["runs", "verify", "runs/one"])


def _to_mend(here):
    return cli.door([*RUN, "s.stepps=3"])


def _inputs_changed(here):
    jsonl(here / "chats.jsonl", [chat("Who?", f"Nobody {i}.") for i in range(9)])
    return cli.door(RUN)


def _unsafe(here):
    (here / "model" / "model.safetensors").rename(here / "model" / "pytorch_model.bin")
    return cli.door([*RUN, "--out", "unsafe"])


def _diverged(here):
    return cli.door([*RUN, "--out", "wild", "s.lr=1e30", "s.clip=1e30", "s.warmup=0"])


def _does_not_fit(here):
    return cli.door(["plan", "one.yaml", "--device-memory", "1MB", "--no-ways", "--json"])


def _disk(here):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        return cli.door([*RUN, "--out", "full"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _in_use(here):
    with rundir.lock(here / "runs" / "one"):
        return cli.door(RUN)


def _partial(here):
    (here / "q.txt").write_text("one\ntwo\n")
    with Endpoint(script=("400",)) as server:
        return cli.door(["generate", f"{server.url}#big", "--prompts", "q.txt", "--concurrency", "1", "--json"])


def _our_bug(here):
    from bottega.workshop import runs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "runs_list", lambda **_: 1 / 0)
        return cli.door(["runs", "list"])


def _signalled(here, number):
    """The signal comes when the first of a great many steps was saved; then the folder must be sound, and the run go on."""
    saved, over = here / "runs" / "long", threading.Event()

    def send():
        while not over.wait(0.02):
            if any(saved.glob("stages/*/checkpoints/step-*")):
                os.kill(os.getpid(), number)
                return

    sender = threading.Thread(target=send)
    sender.start()
    before = signal.getsignal(signal.SIGTERM)
    try:
        code = cli.door([*RUN, "--out", str(saved), "s.steps=100000"])
    finally:
        over.set()
        sender.join()
        signal.signal(signal.SIGTERM, before)
    assert cli.door(["runs", "verify", str(saved)]) == 0
    return code


CODES = {
    0: (_done, ""),
    1: (_check_came_out_negative, ""),
    2: (_to_mend, "did you mean"),
    3: (_inputs_changed, "--allow-change s.data"),
    4: (_unsafe, "pickle"),
    5: (_diverged, "step "),
    6: (_does_not_fit, ""),
    7: (_disk, "free some space"),
    8: (_in_use, str(os.getpid())),
    9: (_partial, "1 of 2 prompts got no answer"),
    70: (_our_bug, "Please report it"),
    130: (lambda here: _signalled(here, signal.SIGINT), "interrupted; the same command goes on"),
    143: (lambda here: _signalled(here, signal.SIGTERM), "SIGTERM; the same command goes on"),
}


@pytest.mark.parametrize("code", CODES)
def test_each_exit_code_is_reached_through_the_command_line(here, capsys, code):
    happen, said = CODES[code]
    began = time.monotonic()
    assert happen(here) == code, capsys.readouterr().err
    shown = capsys.readouterr().err
    assert said in shown and time.monotonic() - began < 60
    assert ("Traceback" in shown) == (code == 70)
    if code in (2, 3, 4, 5, 7, 8):
        assert shown.startswith("bottega: ") and shown.count("\n") <= 2, "cause and remedy, no more"
