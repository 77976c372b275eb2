"""Metrics sent on to trackers of other makers: TensorBoard, Weights & Biases, MLflow, each an extra.

Left out: pictures and artefacts. metrics.jsonl is always written, with or without any of these.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bottega.core.errors import UserError
from bottega.core.types import Progress

Log = Callable[[int, Mapping[str, float]], None]


def _tensorboard(folder: Path, run: str, stage: str) -> tuple[Log, Callable[[], None]]:
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))

    def log(step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(f"{stage}/{name}", value, step)

    return log, writer.close


def _wandb(folder: Path, run: str, stage: str) -> tuple[Log, Callable[[], None]]:
    import wandb

    try:
        session: Any = wandb.init(project="bottega", name=f"{run}/{stage}", dir=str(folder), reinit="finish_previous")
    except wandb.errors.Error as error:
        said = " ".join(str(error).split())
        raise UserError(f"track: wandb does not open ({said}); WANDB_MODE=offline keeps the run here") from error
    return lambda step, metrics: session.log(dict(metrics), step=step), session.finish


def _mlflow(folder: Path, run: str, stage: str) -> tuple[Log, Callable[[], None]]:
    """To the server or store that MLFLOW_TRACKING_URI names; without one, to a database in the run's folder."""
    import mlflow

    place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.absolute() / 'mlflow.db'}"
    client = mlflow.MlflowClient(tracking_uri=place)
    try:
        known = client.get_experiment_by_name("bottega")
        experiment = known.experiment_id if known else client.create_experiment("bottega")
        opened = client.create_run(experiment, run_name=f"{run}/{stage}").info.run_id
    except (mlflow.exceptions.MlflowException, ImportError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"track: mlflow at {place} does not open ({said}); mend MLFLOW_TRACKING_URI, or leave it out"
        ) from error

    def log(step: int, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        entry = mlflow.entities.Metric
        client.log_batch(opened, [entry(name.replace("/", "_per_"), v, now, step) for name, v in metrics.items()])

    return log, lambda: client.set_terminated(opened)


TRACKERS: dict[str, tuple[str, str, Callable[..., tuple[Log, Callable[[], None]]]]] = {
    "tensorboard": ("tensorboardX", "tensorboardX", _tensorboard),
    "wandb": ("wandb", "wandb", _wandb),
    "mlflow": ("mlflow", "mlflow-skinny sqlalchemy alembic", _mlflow),
}
"""Name -> the module it needs, the packages that bring it, and the function that opens it."""


def check(names: Sequence[str]) -> None:
    """Every tracker is known and installed.

    Raises:
        UserError: one is not; with the command that mends it.
    """
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"track {name!r} is not known: use one of {', '.join(TRACKERS)}")
        module, package, _ = TRACKERS[name]
        if find_spec(module) is None:
            raise UserError(f"track: {name} needs {package}: pip install {package}")


class Tracked:
    """A Progress that also sends every step's metrics to trackers."""

    def __init__(self, inner: Progress, names: Sequence[str], *, folder: Path, run: str, stage: str) -> None:
        check(names)
        self.inner = inner
        self.open = [TRACKERS[name][2](folder, run, stage) for name in names]

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show and send."""
        self.inner.update(step, metrics)
        for log, _ in self.open:
            log(step, metrics)

    def note(self, line: str) -> None:
        """Show."""
        self.inner.note(line)

    def close(self) -> None:
        """Finish the trackers' runs, then what is shown."""
        for _, close in self.open:
            close()
        if hasattr(self.inner, "close"):
            self.inner.close()
