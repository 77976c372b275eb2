"""The GPU scripts on a toy: parity is judged first, every side runs, and the page says what was not tried."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("lora_8b", "qlora_70b", "full_7b", "recipes", "pretrain")


def test_each_script_of_the_gpu_tables_runs_tiny_on_a_cpu(tmp_path):
    code = (
        "import sys, importlib; sys.path.insert(0, sys.argv.pop(1)); results = sys.argv.pop(1)\n"
        "for name in sys.argv[1:]:\n"
        "    sys.argv = [name, '--tiny', '--peers', 'hf,unsloth', '--results', results]\n"
        "    module = importlib.import_module(name)\n"
        "    import common; label = next(iter(module.CASES)); sys.argv += ['--only', label]\n"
        "    common.run(name, name, module.CASES)\n"
    )
    whole = [sys.executable, "-c", code, str(ROOT / "benchmarks" / "gpu"), str(tmp_path), *SCRIPTS]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=170, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    for name in SCRIPTS:
        (numbers,) = tmp_path.glob(f"*-gpu-{name}-tiny.json")
        ours, peer = json.loads(numbers.read_text())
        assert ours["side"] == "bottega" and ours["parity"] < 1e-5, ours
        assert peer["side"] == "hf" and peer["tokens_per_s"] > 0, peer
        (page,) = tmp_path.glob(f"*-gpu-{name}-tiny.md")
        assert "untested: no module unsloth" in page.read_text() and "no result" in page.read_text()


def test_without_a_gpu_the_table_is_refused(tmp_path):
    script = str(ROOT / "benchmarks" / "gpu" / "pretrain.py")
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, script, "--results", str(tmp_path)], capture_output=True, text=True, timeout=120, env=env
    )
    assert done.returncode != 0 and "no GPU here" in done.stderr and not list(tmp_path.iterdir())
