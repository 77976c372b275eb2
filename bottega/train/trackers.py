"""Metrics sent on to trackers of other makers: TensorBoard, Weights & Biases, MLflow, each an extra.

Left out: pictures and artefacts. metrics.jsonl is always written, with or without any of these.
"""

from __future__ import annotations

import os
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

    session: Any = wandb.init(project="bottega", name=f"{run}/{stage}", dir=str(folder), reinit=True)
    return lambda step, metrics: session.log(dict(metrics), step=step), session.finish


def _mlflow(folder: Path, run: str, stage: str) -> tuple[Log, Callable[[], None]]:
    import mlflow

    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise UserError(
            "track: mlflow needs to know its server: set MLFLOW_TRACKING_URI, such as http://localhost:5000"
        )
    mlflow.set_experiment("bottega")
    mlflow.start_run(run_name=f"{run}/{stage}")

    def log(step: int, metrics: Mapping[str, float]) -> None:
        mlflow.log_metrics({name.replace("/", "_per_"): value for name, value in metrics.items()}, step=step)

    return log, mlflow.end_run


TRACKERS: dict[str, tuple[str, str, Callable[..., tuple[Log, Callable[[], None]]]]] = {
    "tensorboard": ("tensorboardX", "tensorboardX", _tensorboard),
    "wandb": ("wandb", "wandb", _wandb),
    "mlflow": ("mlflow", "mlflow-skinny", _mlflow),
}
"""Name -> the module it needs, the package that brings it, and the function that opens it."""


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
            raise UserError(f"track: {name} needs the package {package}: pip install {package}")


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
