"""Memory of synth's pipeline does not grow with its rows (row L12); a million of them is benchmarks/many_rows.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "many_rows.py"


@pytest.mark.slow
def test_eight_times_as_many_rows_take_as_much_memory():
    found = []
    for rows in (2000, 16000):
        done = subprocess.run(
            [sys.executable, str(SCRIPT), "--one", str(rows)], capture_output=True, text=True, check=True
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    few, many = found
    assert many["kept"] == 16000 and many["train_mb"] > 6 * few["train_mb"]
    for part in ("flow_mb", "files_mb", "report_mb"):
        assert many[part] < few[part] + 8, (few, many)
