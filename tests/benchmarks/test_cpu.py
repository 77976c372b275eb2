"""The benchmark's command itself: our side on a toy, the page it writes, and the sums behind its ratios."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, str(ROOT / "benchmarks" / "cpu.py"), *arguments]
    return subprocess.run(whole, capture_output=True, text=True, timeout=170)


def test_a_quick_run_of_our_side_writes_the_page_and_the_numbers(shared_data, tmp_path):
    data = shared_data("gsm8k").parent
    done = command(
        "--quick", "--only", "full,dpo", "--data", str(data),
        "--results", str(tmp_path / "results"), "--work", str(tmp_path / "work"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (page,) = (tmp_path / "results").glob("*-cpu-quick.md")
    (numbers,) = (tmp_path / "results").glob("*-cpu-quick.json")
    assert "| **Bottega" in page.read_text() and "pairs per CPU s" in page.read_text()
    report = json.loads(numbers.read_text())
    side, dpo = report["full"]["results"]["bottega"], report["dpo"]["results"]["bottega"]
    assert side["steps"] == 1 and side["peak_mb"] > 50
    assert 0 < side["loss"] < 7  # ln 512 = 6.24 for a random guess
    tokens = report["full"]["workload"]["tokens"]
    assert abs(side["rate"] * side["cpu_s"] - tokens) < 1e-6 * tokens
    assert 0 < dpo["loss"] < 0.6932  # ln 2 before the one step, and less after it


def test_missing_data_is_named_with_the_option_that_mends_it(tmp_path):
    done = command("--quick", "--data", str(tmp_path / "none"))
    assert done.returncode != 0
    said = done.stderr.strip().splitlines()[-1]
    assert said.endswith("none/gsm8k/train.jsonl is not there: name the folder that holds it with --data")


def test_an_unknown_part_is_refused_with_the_known_ones(tmp_path, shared_data):
    done = command("--only", "dpoo", "--data", str(shared_data("gsm8k").parent))
    assert done.returncode != 0 and "'dpoo' is no part: choose from full, lora" in done.stderr


def test_a_failed_peer_is_named_with_its_error_and_goals_are_judged_on_medians():
    """Ours takes 2, 4, 3 s for 300 tokens: median 3, so 100 tokens/s; TRL 6 s: 50, a ratio of 2.

    Full tuning: floor 1.4 and aim 1.7 of the best peer, floor 1.8 and aim 2.2 of a Hugging Face based one; 10 MB are more than 9.
    """
    code = (
        "import sys; sys.path.insert(0, 'benchmarks/sides'); import table, parts\n"
        "rest = dict(before_mb=1, before_cpu_s=1, loss=6.5, steps=8, setting='x', versions={})\n"
        "run = lambda s, mb: dict(train_cpu_s=s, train_wall_s=s, peak_mb=mb, **rest)\n"
        "sides = {'bottega': table.summary([run(2, 10), run(4, 10), run(3, 10)], 300),"
        " 'trl': table.summary([run(6, 9)], 300), 'litgpt': {'error': 'no wheel'}}\n"
        "titles = dict(bottega='Bottega', trl='TRL', litgpt='litgpt')\n"
        "part = parts.PARTS['full']\n"
        "print('\\n'.join(table.lines(part, sides, titles) + table.goals(part, sides, titles)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "3.00 (2.00 to 4.00) | 3.00 | 100.00 |" in done.stdout
    assert "failed: no wheel" in done.stdout
    assert "2.00x TRL (the best peer), floor 1.4x, aim 1.7x: aim met" in done.stdout
    assert "2.00x TRL, floor 1.8x, aim 2.2x: floor met" in done.stdout
    assert "peak memory 10 MB against TRL's 9: missed" in done.stdout
