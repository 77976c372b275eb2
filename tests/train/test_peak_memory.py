"""What the process really holds: the loss's peak, optimizer states and activations in files, bytes a weight (rows T2, T3, T4)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bottega.train import optim
from bottega.train.rules import Hyper

ROOT = Path(__file__).parents[2]
MB = 1e6
needs_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc/self, which Linux has")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The probe's numbers; what is freed goes back to the system at once there."""
    command = [sys.executable, "-m", "tests.train.memory_probe", str(tmp_path_factory.mktemp("scratch"))]
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@needs_proc
@pytest.mark.parametrize("kind", ["nll", "weighted", "entropy"])
def test_peak_memory_of_the_loss_does_not_grow_with_vocabulary_times_sequence(found, kind):
    """3,072 positions of 16,000 logits are 197 MB, 512 are 33 MB; 256 at a time are 16 MB whatever the number. The plain way
    shows that the measure sees it: logits, their softmax and its gradient."""
    assert found["plain 3072"] > 350 * MB
    assert found[f"{kind} 3072"] < 130 * MB
    assert found[f"{kind} 3072"] - found[f"{kind} 512"] < 20 * MB


@needs_proc
def test_states_in_a_file_take_no_anonymous_memory(found):
    """AdamW over 8 million weights: 8 bytes a weight are 64 MB."""
    assert found["states device"] > 60 * MB
    assert found["states file"] < 5 * MB


@needs_proc
def test_saved_activations_in_a_file_take_no_anonymous_memory(found):
    """Ten results of 16 MB, of which the last is still in use where the others lie in the file."""
    assert found["activations device"] > 150 * MB
    assert found["activations file"] < 40 * MB


BYTES = {
    "adamw": 8.0,
    "adamw8bit": 2 + 2 * 4 / 256,
    "lion": 4.0,
    "muon": 4.0,
    "adafactor": 4 / 1024 + 4 / 512,
    "schedule_free": 8.0,
    "sgd": 4.0,
}
"""Of state for a weight of a 512 x 1024 matrix: two means in fp32; in 8 bits with a scale of 4 bytes a block of 256; one; rows and
columns."""


@pytest.mark.parametrize("name", BYTES)
def test_states_cost_the_bytes_a_weight_that_the_page_says(name):
    """bf16 weights add their fp32 copy: 4 bytes. Counters are left out."""
    if name == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    assert BYTES.keys() == optim.OPTIMIZERS.keys()
    page = (ROOT / "docs" / "how-to" / "optimizers-and-memory.md").read_text()
    assert f"| {name} | {BYTES[name]:.2f} |" in page
    for dtype, more in ((torch.float32, 0.0), (torch.bfloat16, 4.0)):
        weight = torch.nn.Parameter(torch.randn(512, 1024).to(dtype))
        weight.grad = torch.randn_like(weight)
        groups, hidden = [{"params": [weight]}], {id(weight)}
        optimizer = optim.make(name, groups, lr=1e-3, weight_decay=0, hyper=Hyper(), hidden=hidden)
        optimizer.step()
        found = sum(value.nbytes for value in optimizer.state[weight].values() if value.ndim)
        assert found / weight.numel() == pytest.approx(BYTES[name] + more, rel=1e-6)
