"""Supervised tuning on one CPU core or more against TRL, LLaMA-Factory and litgpt: same model, data, batches and loss.

Left out: GPUs, and other objectives (scripts of their own). One command makes the environments of the peers under
benchmarks/.venvs, runs all sides in turn for some rounds, prints the ratios and writes the page and its numbers, dated,
to benchmarks/results.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "sft"))

import environments  # noqa: E402
import table  # noqa: E402
import workload  # noqa: E402

LR = 1e-3
QUICK = workload.Shape(
    layers=1, width=32, heads=2, kv_heads=1, feed_forward=64, vocabulary=512, rows=8, held_out=4, longest=120
)


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side, interleaved (default 5)")
    parser.add_argument("--only", default="", help=f"comma-separated sides out of {', '.join(environments.PEERS)}")
    parser.add_argument("--rows", type=int, default=64, help="training conversations (default 64)")
    parser.add_argument("--batch", type=int, default=8, help="rows a step (default 8)")
    parser.add_argument("--tune", default="full", help="full, lora, or both with a comma between (default full)")
    parser.add_argument("--seed", type=int, default=workload.SEED, help="of the conversations' lengths and the weights")
    parser.add_argument("--core", type=int, default=None, help="pin everything to this core")
    parser.add_argument("--threads", type=int, default=1, help="threads of every side (default 1)")
    parser.add_argument("--quick", action="store_true", help="our side only, on a toy: does the benchmark itself work?")
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data" / "gsm8k" / "train.jsonl")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where the page and the numbers go")
    parser.add_argument("--work", type=Path, default=HERE / "runs" / "sft", help="where model and data are kept")
    return parser.parse_args()


def chosen(named: str) -> list[str]:
    """The sides to run.

    Raises:
        SystemExit: one is unknown.
    """
    names = [name.strip() for name in named.split(",") if name.strip()] or list(environments.PEERS)
    unknown = [name for name in names if name not in environments.PEERS]
    if unknown:
        sys.exit(f"{unknown[0]!r} is not a side: choose from {', '.join(environments.PEERS)}")
    return names


def pythons(names: list[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """Each side's Python, and why a side has none."""
    found, errors = {}, {}
    for name in names:
        try:
            found[name] = environments.python_of(name, HERE / ".venvs")
        except environments.SetupFailed as failed:
            errors[name] = str(failed)
            print(f"{name}: {failed}", file=sys.stderr)
    return found, errors


def run_side(name: str, python: Path, work: Path, *, tune: str, batch: int, threads: int) -> dict[str, Any]:
    """One run in a process of its own: its result, or {"error": the last line it said}."""
    scratch = Path(tempfile.mkdtemp(prefix=f"bench-{name}-"))
    out = scratch / "result.json"
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "WORLD_SIZE", "RANK", "LOCAL_RANK")}
    env |= {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HOME": str(scratch / "hf"),
    }
    if name == environments.OURS:
        env["PYTHONPATH"] = str(HERE.parent)
    command = [str(python), str(HERE / "sft" / environments.PEERS[name].script)]
    command += ["--work", str(work), "--scratch", str(scratch), "--out", str(out)]
    command += ["--tune", tune, "--batch", str(batch), "--lr", str(LR)]
    command += ["--threads", str(threads), "--variant", environments.PEERS[name].variant]
    try:
        done = subprocess.run(command, env=env, cwd=scratch, capture_output=True, text=True)
        if done.returncode == 0 and out.exists():
            return json.loads(out.read_text())
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return {"error": (said[-1] if said else f"exit code {done.returncode}")[:300].replace("|", "/")}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def measured(args: argparse.Namespace, names: list[str], work: Path, tokens: int) -> tuple[dict, dict]:
    """Summaries and single runs by method and side; sides take turns, so that a busy machine troubles all alike."""
    found, errors = pythons(names)
    summaries: dict[str, Any] = {}
    singles: dict[str, Any] = {}
    for tune in args.tune.split(","):
        runs: dict[str, list] = {name: [] for name in found}
        failed = dict(errors)
        for turn in range(args.rounds):
            for name in [name for name in found if name not in failed]:
                result = run_side(name, found[name], work, tune=tune, batch=args.batch, threads=args.threads)
                if "error" in result:
                    failed[name] = result["error"]
                    print(f"{tune} {name}: failed: {result['error']}", file=sys.stderr, flush=True)
                    continue
                runs[name].append(result)
                print(
                    f"{tune} round {turn + 1} {name}: {result['train_cpu_s']:.2f} CPU s, "
                    f"{tokens / result['train_cpu_s']:.0f} tokens/s, {result['peak_mb']} MB, "
                    f"held-out loss {result['held_out_loss']:.3f}",
                    file=sys.stderr,
                    flush=True,
                )
        singles[tune] = runs
        summaries[tune] = {
            name: {"error": failed[name]} if name in failed else table.summary(runs[name], tokens) for name in names
        }
    return summaries, singles


def main() -> int:
    """Measure, print, write; 1 if a side failed."""
    args = options()
    if args.core is not None and args.threads > 1:
        sys.exit(f"--threads {args.threads} do not fit on one core: leave --core out")
    if not args.data.is_file():
        sys.exit(f"{args.data} is not there: name GSM8K's train.jsonl with --data")
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})
    if args.quick:
        args.rounds, args.only, args.rows = 1, environments.OURS, QUICK.rows
    shape = QUICK if args.quick else workload.Shape(rows=args.rows, seed=args.seed)
    names = chosen(args.only)
    work = workload.prepare(args.work, args.data, shape)
    host, facts = table.machine(), workload.counts(work)
    summaries, singles = measured(args, names, work.resolve(), facts["tokens"])
    now = datetime.datetime.now(datetime.UTC)
    report = {
        "date": now.strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python", "benchmarks/cpu_sft.py", *sys.argv[1:]]),
        "workload": {**facts, "shape": shape.words},
        "batch": args.batch,
        "lr": LR,
        "rounds": args.rounds,
        "threads": args.threads,
        "machine": host,
        "load_after": [round(load, 2) for load in os.getloadavg()],
        "results": summaries,
        "runs": singles,
    }
    titles = {name: peer.title for name, peer in environments.PEERS.items()}
    page = table.page(report, titles, environments.OURS)
    args.results.mkdir(parents=True, exist_ok=True)
    many = f"-{args.threads}-threads" if args.threads > 1 else ""
    name = f"{now:%Y-%m-%d}-cpu-sft{many}" + ("-quick" if args.quick else "")
    (args.results / f"{name}.md").write_text(page)
    (args.results / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(page)
    return int(any("error" in side for sides in summaries.values() for side in sides.values()))


if __name__ == "__main__":
    sys.exit(main())
