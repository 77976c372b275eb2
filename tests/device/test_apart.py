"""Each check_*.py of this room in a process of its own, which has the stand-in device before torch first learns anything.

Torch's engine counts the devices at a process's first backward pass and never again: where other tests ran before, a stand-in would be
a device it does not know. Left out: choosing single checks; `pytest tests/device/check_placement.py -k ...` does that.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("check_*.py")))
def test_the_checks_on_a_stand_in_device_pass(file, tmp_path):
    words = [sys.executable, "-m", "pytest", "-rs", "-n", "0", "-p", "no:cacheprovider", f"--basetemp={tmp_path}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*words, str(HERE / file)], cwd=HERE.parents[1], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    if " passed" not in done.stdout.splitlines()[-1]:
        pytest.skip(re.sub(r".*?(?=the stand-in)", "", done.stdout, flags=re.S).splitlines()[0])
