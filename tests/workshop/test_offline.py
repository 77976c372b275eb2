"""Every verb, through the command line, with Python's own hook on sockets: nothing that is here makes anybody call anybody.

Left out: `feedback serve` and `serve`, which listen (tests/studio, test_serving.py), `demo` and what takes longer in the default tests
(slow ones do them), and connections that C code opens past Python's socket module.
"""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bottega import cli
from tests.models.tiny import tiny_model
from tests.workshop import labelled
from tests.workshop.made import jsonl, workshop

EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")
WATCH = {"on": False}
CALLED: list[str] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if WATCH["on"] and event in EVENTS:
        CALLED.append(f"{event} {arguments[-1]}")
        raise RuntimeError(f"a connection was tried: {event} {arguments[-1]}")


@pytest.fixture
def watched(monkeypatch):
    """A hook for good (Python has no way to take one off), which only listens while a test does."""
    if not getattr(sys, "_bottega_watches_sockets", False):
        sys.addaudithook(_hook)
        sys._bottega_watches_sockets = True
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    CALLED.clear()
    WATCH["on"] = True
    yield CALLED
    WATCH["on"] = False


STAGE = "name: {name}\nmodel: model\nstages:\n  - s: {{objective: {objective}, data: {data}, steps: 2, batch: 4, method: {method}}}\n"
LORA = "{name: lora, rank: 4}"
TASK = {"name": "sums", "kind": "generation", "chat": True, "max_tokens": 4, "rows": [{"prompt": "1", "answer": "2"}]}
NOBODY = "feedback export --store f.db --project answers --out said.jsonl"
QUICK = """
lab example parish
lab recipe --short chats.jsonl --model model --out phases
lab import ilab --out ours
init chats.jsonl --model model --out mine.yaml
run one.yaml --quiet
run two.yaml --quiet
eval runs/one --tasks task.yaml --quiet --out before.json
compare before.json before.json
chat runs/one --max-tokens 2
generate runs/one --prompts prompts.txt --max-tokens 2 --quiet
data inspect chats.jsonl --model model
data check chats.jsonl --model model
data stats chats.jsonl --model model
data clean chats.jsonl --step exact --out cleaned
data convert chats.jsonl --to messages --out converted.jsonl
data split chats.jsonl --out parts --share test=0.2
tokenizer train docs --vocab 300 --out vocabulary
tokenizer extend model docs --add 4 --out longer
taxonomy check examples/taxonomy
taxonomy fix examples/taxonomy
taxonomy tree examples/taxonomy
taxonomy diff examples/taxonomy --base HEAD
taxonomy migrate examples/taxonomy --dry-run
taxonomy new examples/taxonomy --answers examples/leaf.yaml
taxonomy triage examples/taxonomy --base HEAD --out triage.html
taxonomy contribute examples/taxonomy --base HEAD --patch leaf.patch
feedback import prefs.jsonl --store f.db --project answers --kind compare
feedback stats --store f.db
feedback export --store f.db --project answers --out said.jsonl
runs list
runs show runs/one
runs compare runs/one runs/two
runs verify runs/one
runs resume runs/one
runs pin runs/one 2
runs gc
audit forgetting runs/one --tasks task.yaml --quiet
audit privacy runs/one chats.jsonl --prefix 4 --length 2 --quiet
"""
HEAVY = """
run one.yaml --quiet
doctor
plan one.yaml --no-ways
run judge.yaml --quiet
run labels.yaml --quiet
search one.yaml s.validation=0.2 --over lr=1e-4,1e-3 --trials 2 --out found --quiet
merge runs/one --out merged --quiet
export runs/one --out given --quiet
predict runs/labels classification.jsonl --quiet
score runs/judge prefs.jsonl --quiet
embed runs/one prompts.txt --quiet
synth examples/taxonomy --teacher template --out made --quiet
lab teachers made made
taxonomy documents examples/taxonomy
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    folder = workshop(tmp_path)
    for name, objective, data, method in (
        ("one", "sft", "chats.jsonl", LORA), ("two", "pretrain", "docs", LORA), ("judge", "reward", "prefs.jsonl", LORA),
        ("labels", "classification", "classification.jsonl", "full"),
    ):  # fmt: skip
        (folder / f"{name}.yaml").write_text(STAGE.format(name=name, objective=objective, data=data, method=method))
    jsonl(folder / "classification.jsonl", labelled.rows("classification", 24))
    (folder / "task.yaml").write_text(json.dumps(TASK))
    (folder / "prompts.txt").write_text("Who are you?\n")
    shutil.copytree(Path(__file__).parents[2] / "recipes" / "examples", folder / "examples")
    shutil.copytree(folder / "examples" / "taxonomy", folder / "ilab" / "taxonomy")
    shutil.rmtree(folder / "examples/taxonomy/compositional_skills/writing/notices")  # `taxonomy new` writes it again
    who = (["config", "user.name", "a"], ["config", "user.email", "a@example.org"])
    for call in (["init", "-q"], *who, ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(["git", *call], cwd=folder / "examples", check=True)
    monkeypatch.chdir(folder)
    return folder


def _calls(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]


def test_every_verb_is_asked():
    asked = _calls(QUICK + HEAVY)
    covered = {verb for verb in cli.VERBS for call in asked if call[: len(verb.split())] == verb.split()}
    assert covered == set(cli.VERBS) - {"demo", "feedback serve", "serve"}


@pytest.mark.parametrize(
    "text", [pytest.param(QUICK, id="quick"), pytest.param(HEAVY, id="heavy", marks=pytest.mark.slow)]
)
def test_no_verb_opens_a_connection_where_nothing_remote_was_named(shop, watched, monkeypatch, capsys, text):
    ended = {}
    for call in _calls(text):
        monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
        ended[" ".join(call)] = cli.door(call), capsys.readouterr().err[-300:]
    assert watched == []
    assert ended.pop(NOBODY, (2,))[0] == 2  # nobody has answered, so there is nothing to write
    failed = [f"{call}: {said}" for call, (code, said) in ended.items() if code not in (0, 1, 9)]
    assert not failed, "\n".join(failed)


def test_the_hook_sees_a_connection_and_a_remote_name_that_a_user_gave_makes_one(
    tmp_path, watched, monkeypatch, capsys
):
    """Otherwise the test above would hold whatever the verbs did."""
    with pytest.raises(RuntimeError, match="a connection was tried"):
        socket.create_connection(("127.0.0.1", 9), timeout=1)
    watched.clear()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.txt").write_text("one\n")
    cli.door(["generate", "http://127.0.0.1:9/v1#big", "--prompts", "q.txt", "--tries", "1"])
    assert watched and "127.0.0.1" in watched[0]
    watched.clear()
    assert cli.door(["generate", "http://models.example.org/v1#big", "--prompts", "q.txt", "--offline"]) == 2
    assert watched == []
    capsys.readouterr()


@pytest.mark.slow
def test_the_demo_opens_none_either(tmp_path, watched, monkeypatch, capsys):
    tiny_model("llama", tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    cli.door(["demo", "--out", "out", "--model", str(tmp_path / "model"), "--stages", "adapt", "--quiet"])
    assert watched == [] and (tmp_path / "out").is_dir()
    capsys.readouterr()
