"""Start-up (row P2): CPU seconds to the first optimizer step of `bottega run`, against importing torch and transformers.

    python benchmarks/startup.py [--rounds 5] [--model garzone]

Each round starts both in a fresh process, one after the other; medians are printed and kept under benchmarks/results/.
Left out: `--help` and `--version`, whose limit is a test (tests/core).
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def cpu_seconds(command: list[str], folder: Path) -> float:
    """User and system time of one process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, cwd=folder, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="garzone")
    given = parser.parse_args()
    imports, runs = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [
            {"messages": [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."}]}
        ] * 8
        (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        stage = {"objective": "sft", "method": "full", "data": "chats.jsonl", "steps": 1, "batch": 8}
        recipe = {"schema": 1, "name": "first", "model": given.model, "stages": [{"a": stage}]}
        (folder / "recipe.yaml").write_text(json.dumps(recipe))
        for number in range(given.rounds):
            imports.append(
                cpu_seconds([sys.executable, "-c", "import torch, transformers.models.auto.modeling_auto"], folder)
            )
            command = [sys.executable, "-m", "bottega.cli", "run", "recipe.yaml", "--out", f"out{number}"]
            cpu_seconds(command, folder)
            first = (folder / f"out{number}" / "stages" / "01-a" / "timing.jsonl").read_text().splitlines()[0]
            runs.append(json.loads(first)["process_s"])
    lines = [
        f"# Start-up, {datetime.date.today()}",
        "",
        f"`python benchmarks/startup.py --rounds {given.rounds} --model {given.model}`; {platform.processor() or platform.machine()}, "
        f"Python {platform.python_version()}, torch {version('torch')}, transformers {version('transformers')}; CPU seconds of "
        "whole processes, median (smallest to largest).",
        "",
        "| what | CPU s |",
        "|---|---|",
        *(
            f"| {what} | {statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f}) |"
            for what, values in (
                ("import torch and transformers' auto classes", imports),
                ("`bottega run`, until its first optimizer step is done", runs),
            )
        ),
        "",
        f"Ratio of medians: {statistics.median(runs) / statistics.median(imports):.2f} (goal: at most 2).",
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{datetime.date.today()}-startup.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
