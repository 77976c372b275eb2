"""Metrics sent on to trackers of other makers (row T11)."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from bottega.core.errors import UserError
from bottega.train import trackers
from bottega.workshop import recipe


class Kept:
    """A Progress that remembers."""

    def __init__(self):
        self.seen, self.closed = [], False

    def update(self, step, metrics):
        self.seen.append((step, dict(metrics)))

    def note(self, line):
        self.seen.append(line)

    def close(self):
        self.closed = True


def test_tensorboard_gets_every_step_and_the_view_goes_on(tmp_path):
    pytest.importorskip("tensorboardX")
    inner = Kept()
    tracked = trackers.Tracked(inner, ["tensorboard"], folder=tmp_path, run="r", stage="adapt")
    for step in (1, 2):
        tracked.update(step, {"loss": 3.0 / step})
    tracked.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"adapt/loss" in events.read_bytes()
    assert [step for step, _ in inner.seen] == [1, 2] and inner.closed


def test_an_unknown_tracker_is_named_before_anything_is_loaded(tmp_path):
    (tmp_path / "d.txt").write_text("text")
    stages = [{"a": {"objective": "pretrain", "data": str(tmp_path / "d.txt")}}]
    with pytest.raises(UserError, match="tensorbord.*tensorboard, wandb, mlflow"):
        recipe.load({"schema": 1, "name": "x", "model": "garzone", "stages": stages, "track": ["tensorbord"]})


SEND = """
import sys
from pathlib import Path
from bottega.core.textio import NoProgress
from bottega.train.trackers import Tracked
for stage in ("adapt", "align"):
    tracked = Tracked(NoProgress(), [sys.argv[1]], folder=Path(sys.argv[2]), run="journey", stage=stage)
    for step in (1, 2):
        tracked.update(step, {"loss": 3.0 / step, "tokens/s": 80.0, "eval.loss": 4.0})
    tracked.close()
"""


def send(tracker: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Two stages of two steps to a tracker, in a process of its own, without a network."""
    keys = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "MLFLOW"))}
    command = [sys.executable, "-c", SEND, tracker, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env={**keys, **environment}, timeout=120)


def wandb_records(path: Path):
    """The records of a .wandb file: a LevelDB log (blocks of 32 KB; checksum, length, kind) behind a head of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, held = path.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        held, at = held + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(held)
            held = b""
            yield record


def test_weights_and_biases_offline_keeps_every_step_of_every_stage_in_the_run_folder(tmp_path):
    pytest.importorskip("wandb")
    done = send("wandb", tmp_path, WANDB_MODE="offline", WANDB_SILENT="true")
    assert done.returncode == 0, done.stderr
    seen = {}
    for path in tmp_path.glob("wandb/offline-run-*/run-*.wandb"):
        records = list(wandb_records(path))
        (name,) = {record.run.display_name for record in records if record.HasField("run")}
        rows = [
            {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            for record in records
            if record.HasField("history")
        ]
        seen[name] = [(row["_step"], row["loss"], row["tokens/s"], row["eval.loss"]) for row in rows]
    steps = [(1, 3.0, 80.0, 4.0), (2, 1.5, 80.0, 4.0)]
    assert seen == {"journey/adapt": steps, "journey/align": steps}


def test_weights_and_biases_without_a_key_says_how_to_stay_offline(tmp_path):
    pytest.importorskip("wandb")
    done = send("wandb", tmp_path, WANDB_SILENT="true", HOME=str(tmp_path), NETRC=str(tmp_path / "none"))
    assert "UserError: track: wandb does not open" in done.stderr and "WANDB_MODE=offline" in done.stderr


@pytest.mark.parametrize("store", ["", "sqlite:///{}/named.db", "file://{}/mlruns"])
def test_mlflow_without_a_server_keeps_every_step_of_every_stage(store, tmp_path):
    """Without MLFLOW_TRACKING_URI in a database in the run's folder; else where it says. Read back with its own client."""
    pytest.importorskip("mlflow")
    if find_spec("alembic") is None:
        pytest.skip("mlflow keeps no database without alembic")
    uri = store.format(tmp_path)
    environment = {"MLFLOW_TRACKING_URI": uri} if uri else {}
    done = send("mlflow", tmp_path, **environment, MLFLOW_ALLOW_FILE_STORE="true")
    assert done.returncode == 0, done.stderr
    code = (
        "import json, sys, mlflow\n"
        "client = mlflow.MlflowClient(tracking_uri=sys.argv[1])\n"
        "runs = client.search_runs([client.get_experiment_by_name('bottega').experiment_id])\n"
        "names = ('loss', 'tokens_per_s', 'eval.loss')\n"
        "print(json.dumps({r.info.run_name: [r.info.status, *([(m.step, m.value) for m in "
        "client.get_metric_history(r.info.run_id, name)] for name in names)] for r in runs}))"
    )
    place = uri or f"sqlite:///{tmp_path}/mlflow.db"
    keys = {**os.environ, "MLFLOW_ALLOW_FILE_STORE": "true"}
    read = subprocess.run([sys.executable, "-c", code, place], capture_output=True, text=True, env=keys, timeout=120)
    kept = ["FINISHED", [[1, 3.0], [2, 1.5]], [[1, 80.0], [2, 80.0]], [[1, 4.0], [2, 4.0]]]
    assert json.loads(read.stdout) == {"journey/adapt": kept, "journey/align": kept}, read.stderr


def test_an_mlflow_server_that_is_not_there_is_named(tmp_path):
    pytest.importorskip("mlflow")
    done = send("mlflow", tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert "UserError: track: mlflow at http://127.0.0.1:9 does not open" in done.stderr
    assert "mend MLFLOW_TRACKING_URI" in done.stderr
