"""Metrics sent on to trackers of other makers (row T11)."""

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
