"""torchrun itself (T10): the recipe that one process runs, and a run that loses a process and is started again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bottega.workshop.stages import run
from tests.workshop.made import workshop
from tests.workshop.test_many import SINGLE, assert_same_curve, curve

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Inputs, and the run of one process in runs/single."""
    folder = workshop(tmp_path_factory.mktemp("torchrun"))
    (folder / "single.yaml").write_text(SINGLE)
    run(folder / "single.yaml", out=folder / "runs" / "single", quiet=True)
    return folder


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = [*command, *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


def test_torchrun_runs_the_recipe_of_one_process_to_the_same_curve(made):
    out = made / "runs" / "two"
    done = torchrun("-m", "bottega.cli", "run", made / "single.yaml", "--quiet", "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report  ") == 1
    assert_same_curve(curve(out, "instruct"), curve(made / "runs" / "single", "instruct"))


@pytest.mark.slow
def test_a_killed_process_makes_torchrun_start_all_again_and_the_run_ends_in_the_same_curve(made):
    """Rank 1 dies by SIGKILL in step 4; the second attempt goes on from the checkpoint of step 2."""
    out = made / "runs" / "restarted"
    words = ("-m", "tests.workshop.doomed", 1, 4, "run", made / "single.yaml", "instruct.parallel=fsdp", "--out", out)
    done = torchrun("--max-restarts", 1, *words)
    assert done.returncode == 0, done.stderr
    assert "lost contact with another process" in done.stderr and "continuing after step 2" in done.stderr
    assert_same_curve(curve(out, "instruct"), curve(made / "runs" / "single", "instruct"))


@pytest.mark.slow
def test_a_mistake_is_one_line_under_torchrun_too(made):
    done = torchrun("-m", "bottega.cli", "run", made / "single.yaml", "instruct.batch=1", "--out", made / "runs" / "no")
    assert done.returncode != 0
    assert done.stderr.count("bottega: instruct: batch is 1, which 2 processes cannot share") == 1, done.stderr
