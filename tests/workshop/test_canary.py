"""A canary key and a canary person through full runs: found in nothing that is left behind, printed or shown to other users (Y8).

Left out: what a model that learned from a person's data may say; masking is tests/workshop/test_clean_run.py.
"""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.models.endpoint import Endpoint
from tests.workshop.made import chat, jsonl, workshop

KEYS = {name: f"canary-{name.lower()}-4711" for name in ("HOOK_TOKEN", "MODEL_KEY", "HF_TOKEN", "WANDB_API_KEY")}
PERSON = "canary.person@example.org"
RECIPE = """
name: one
model: model
notify: {{url: "{hook}", token: "${{env:HOOK_TOKEN}}"}}
stages:
  - s:
      objective: sft
      data: [{{path: people.jsonl, clean: [{{name: personal, kinds: [email], action: mask}}]}}]
      method: {{name: lora, rank: 4}}
      steps: 3
      batch: 4
      validation: 0.2
      samples: {{prompts: ["Who are you?"], max_tokens: 4}}
evaluate: {{tasks: [task.yaml]}}
"""
TASK = "name: sums\nkind: generation\nchat: true\nmax_tokens: 4\nrows: [{prompt: '1', answer: '2'}, {prompt: '2', answer: '3'}]\n"


@contextmanager
def hook():
    """(address, what it was told with which header)."""
    told = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            told.append((self.headers["Authorization"], self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", told
    server.shutdown()
    server.server_close()


class Watched:
    """A command with the keys in its environment: its output, and the arguments of every process that it starts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said, self.lines = folder, "", set[str]()

    def __call__(self, *arguments: str) -> int:
        environment = {**os.environ, **KEYS}
        environment.pop("HF_HUB_OFFLINE", None)
        child = subprocess.Popen(
            [sys.executable, "-m", "bottega.cli", *arguments], cwd=self.folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        over = threading.Event()
        looker = threading.Thread(target=self._look, args=(child.pid, over))
        looker.start()
        self.said += child.communicate(timeout=120)[0]
        over.set()
        looker.join()
        return child.returncode

    def _look(self, session: int, over: threading.Event) -> None:
        """The command lines of the session's processes, as any user of the machine sees them."""
        while not over.wait(0.05):
            for place in Path("/proc").glob("[0-9]*"):
                try:
                    if os.getsid(int(place.name)) == session:
                        self.lines.add((place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                except (OSError, ProcessLookupError):
                    continue


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="the process list is read from /proc")
@pytest.mark.slow
def test_a_key_and_a_person_are_found_in_nothing_that_full_runs_leave_behind(tmp_path):
    folder = workshop(tmp_path)
    rows = [chat(f"Who answers letter {i}?", f"Letter {i} goes to {PERSON} on day {i % 7}.") for i in range(24)]
    jsonl(folder / "people.jsonl", rows)
    (folder / "task.yaml").write_text(TASK)
    before = {path for path in folder.rglob("*") if path.is_file()}
    bottega = Watched(folder)
    with hook() as (url, told), Endpoint(script=("good", "good", "401")) as server:
        (folder / "one.yaml").write_text(RECIPE.format(hook=url))
        before.add(folder / "one.yaml")
        assert bottega("run", "one.yaml") == 0, bottega.said
        model = f"{server.url}#big"
        assert bottega("eval", model, "--tasks", "task.yaml", "--key-env", "MODEL_KEY", "--out", "card.json") == 0
        assert bottega("eval", model, "--tasks", "task.yaml", "--key-env", "MODEL_KEY") == 2  # the key is refused: 401
        assert bottega("export", "runs/one", "--out", "given") == 0, bottega.said
    assert told[0][0] == f"Bearer {KEYS['HOOK_TOKEN']}"
    assert server.headers[0]["Authorization"] == f"Bearer {KEYS['MODEL_KEY']}"  # otherwise nothing was carried at all
    left = [path for path in folder.rglob("*") if path.is_file() and path not in before]
    assert {"report.html", "card.json", "run.json"} <= {path.name for path in left}
    secrets = [*KEYS.values(), PERSON]
    found = [(path.name, one) for path in left for one in secrets if one.encode() in path.read_bytes()]
    assert found == []
    assert [one for one in secrets if one in bottega.said] == []
    assert bottega.lines and [one for one in secrets if any(one in line for line in bottega.lines)] == []


def test_a_traceback_of_ours_shows_no_key(tmp_path):
    """The lines of a bug's report are those of the code, never of the environment."""
    code = (
        "import os, sys; from bottega.workshop import endpoints; from bottega.models import remote; from bottega import cli\n"
        "def broken(*_, **__): raise RuntimeError('boom')\n"
        "remote.ask_all = broken\n"
        "sys.exit(cli.door(sys.argv[1:]))"
    )
    (tmp_path / "q.txt").write_text("one\n")
    arguments = ["generate", "http://127.0.0.1:9/v1#big", "--prompts", "q.txt", "--key-env", "MODEL_KEY"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env={**os.environ, **KEYS},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 70 and "boom" in done.stderr
    assert not [key for key in KEYS.values() if key in done.stdout + done.stderr]
