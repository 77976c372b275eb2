"""A model eight times the memory that a process may take learns by LoRA, layer by layer, bit for bit as a resident one (row F6)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "stream.py"


@pytest.mark.slow
def test_a_streamed_run_stays_within_an_eighth_of_its_model_and_ends_in_the_resident_adapter(tmp_path):
    words = [
        "--json",
        "--layers",
        "128",
        "--width",
        "512",
        "--steps",
        "1",
        "--limit-mb",
        "190",
        "--work",
        str(tmp_path),
    ]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    streamed, resident = found["runs"]["stream full"], found["runs"]["resident full"]
    assert streamed["equal"] and found["model_mb"] > 8 * found["limit_mb"]
    assert streamed["RssAnon"] < found["limit_mb"] < resident["RssAnon"]
