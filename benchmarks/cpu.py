"""Training and generation on CPU against TRL, LLaMA-Factory, transformers, litgpt and torchtune: same model, data and loss.

Left out: GPUs (gpu/), and GRPO. One command makes the environments of the peers under benchmarks/.venvs, runs all sides in
turn for some rounds, prints the ratios and writes the page and its numbers, dated, to benchmarks/results. Parts measured on
the same day with as many threads share a page.

    python benchmarks/cpu.py [--only full,lora,pretrain,dpo,generate] [--rounds 5] [--threads 1] [--sweep]
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
sys.path.insert(0, str(HERE / "sides"))

import environments  # noqa: E402
import parts  # noqa: E402
import table  # noqa: E402
import workload  # noqa: E402
from measure import NEW_TOKENS  # noqa: E402

FEWEST = 3
"""Rounds of a page that is kept; fewer are a try."""
QUICK = workload.Shape(
    layers=1, width=32, heads=2, kv_heads=1, feed_forward=64, vocabulary=512, rows=8, held_out=4, longest=120,
    pairs=4, blocks=8,
)  # fmt: skip


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help=f"parts out of {', '.join(parts.PARTS)} (default all)")
    parser.add_argument("--sides", default="", help=f"sides out of {', '.join(environments.PEERS)} (default all)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side, interleaved (default 5)")
    parser.add_argument(
        "--sweep", action="store_true", help="first every setting of every side once; the fastest is used"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of every side (default 1)")
    parser.add_argument("--core", type=int, default=None, help="pin everything to this core")
    parser.add_argument("--batch", type=int, default=8, help="rows a step (default 8)")
    parser.add_argument("--seed", type=int, default=workload.SEED, help="of the conversations' lengths and the weights")
    parser.add_argument("--quick", action="store_true", help="a toy, our side unless --sides names more: does it work?")
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data", help="gsm8k/, hh_rlhf/")
    parser.add_argument("--results", type=Path, default=None, help="where the page and the numbers go")
    parser.add_argument("--work", type=Path, default=HERE / "runs" / "cpu", help="where model and data are kept")
    args = parser.parse_args()
    if args.core is not None and args.threads > 1:
        sys.exit(f"--threads {args.threads} do not fit on one core: leave --core out")
    for needed in ("gsm8k/train.jsonl", "hh_rlhf/pairs.jsonl"):
        if not (args.data / needed).is_file():
            sys.exit(f"{args.data / needed} is not there: name the folder that holds it with --data")
    unknown = [name for name in args.sides.split(",") if name and name not in environments.PEERS]
    if unknown:
        sys.exit(f"{unknown[0]!r} is no side: choose from {', '.join(environments.PEERS)}")
    if args.quick:
        args.rounds, args.sides = 1, args.sides or parts.OURS
    if args.results is None:
        args.results = HERE / "results" if args.rounds >= FEWEST or args.sweep else HERE / "runs" / "results"
    return args


def run_side(name: str, python: Path, part: str, variant: str, work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One run in a process of its own: its result, or {"error": the last line it said}."""
    scratch = Path(tempfile.mkdtemp(prefix=f"bench-{name}-"))
    out = scratch / "result.json"
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "WORLD_SIZE", "RANK", "LOCAL_RANK")}
    env |= {
        "OMP_NUM_THREADS": str(args.threads),
        "MKL_NUM_THREADS": str(args.threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HOME": str(scratch / "hf"),
    }
    if name == parts.OURS:
        env["PYTHONPATH"] = str(HERE.parent)
    command = [str(python), str(HERE / "sides" / environments.PEERS[name].script)]
    command += ["--work", str(work), "--scratch", str(scratch), "--out", str(out)]
    command += ["--part", part, "--batch", str(args.batch), "--lr", str(parts.PARTS[part].lr)]
    command += ["--threads", str(args.threads), "--variant", variant]
    try:
        done = subprocess.run(command, env=env, cwd=scratch, capture_output=True, text=True)
        if done.returncode == 0 and out.exists():
            return json.loads(out.read_text())
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return {"error": (said[-1] if said else f"exit code {done.returncode}")[:300].replace("|", "/")}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def say(part: str, name: str, what: str, result: dict[str, Any]) -> None:
    """A line on stderr as it goes."""
    if "error" in result:
        said = f"failed: {result['error']}"
    else:
        said = f"{result['train_cpu_s']:.2f} CPU s, {result['peak_mb']} MB, loss {result['loss']:.4f}"
    print(f"{part} {what} {name}: {said}", file=sys.stderr, flush=True)


def swept(part: str, found: dict[str, Path], work: Path, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Every setting of every side that has several, once: results by side and setting."""
    tried: dict[str, dict[str, Any]] = {}
    for name in found:
        variants = parts.PARTS[part].sides[name]
        for variant in variants if len(variants) > 1 else ():
            result = run_side(name, found[name], part, variant, work, args)
            say(part, name, variant, result)
            tried.setdefault(name, {})[variant] = result
    return tried


def measured(part: str, work: Path, amount: float, args: argparse.Namespace) -> dict[str, Any]:
    """Sweep, summaries and single runs of a part; sides take turns, so that a busy machine troubles all alike."""
    wanted = [name for name in parts.PARTS[part].sides if not args.sides or name in args.sides.split(",")]
    found: dict[str, Path] = {}
    failed: dict[str, str] = {}
    for name in wanted:
        try:
            found[name] = environments.python_of(name, HERE / ".venvs")
        except environments.SetupFailed as error:
            failed[name] = str(error)
            print(f"{name}: {error}", file=sys.stderr)
    tried = swept(part, found, work, args) if args.sweep else {}
    setting = {name: parts.PARTS[part].sides[name][0] for name in found}
    for name, by_variant in tried.items():
        good = {variant: run["train_cpu_s"] for variant, run in by_variant.items() if "error" not in run}
        setting[name] = min(good, key=good.__getitem__) if good else setting[name]
    runs: dict[str, list] = {name: [] for name in found}
    for turn in range(args.rounds):
        for name in [name for name in found if name not in failed]:
            result = run_side(name, found[name], part, setting[name], work, args)
            say(part, name, f"round {turn + 1}", result)
            if "error" in result:
                failed[name] = result["error"]
            else:
                runs[name].append(result)
    results = {
        name: {"error": failed[name]} if name in failed else table.summary(runs[name], amount)
        for name in (wanted if args.rounds else ())
    }
    return {"sweep": tried, "results": results, "runs": runs}


def amount_of(part: str, facts: dict[str, Any]) -> float:
    """How much of its unit a run of the part does."""
    if part == "dpo":
        return facts["pairs"]
    if part == "pretrain":
        return facts["blocks"] * facts["block"]
    return int(part.rpartition("-")[2]) * NEW_TOKENS if part.startswith("generate") else facts["tokens"]


def keep(folder: Path, name: str, title: str, part: str, report: dict[str, Any]) -> Path:
    """Add a part to the day's numbers and write its page anew."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = folder / f"{name}.json"
    reports = json.loads(numbers.read_text()) if numbers.exists() else {}
    reports[part] = report
    numbers.write_text(json.dumps(reports, indent=1) + "\n")
    titles = {side: peer.title for side, peer in environments.PEERS.items()}
    path = folder / f"{name}.md"
    path.write_text(table.page(title, reports, titles, parts.PARTS))
    return path


def main() -> int:
    """Measure, print, write; 1 if a side failed."""
    args = options()
    wanted = parts.chosen(args.only)
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})
    shape = QUICK if args.quick else workload.Shape(seed=args.seed)
    work = workload.prepare(args.work, args.data, shape).resolve()
    facts = workload.counts(work)
    failures = 0
    kind = "-quick" if args.quick else "" if args.rounds else "-sweep"
    many = f"-{args.threads}-threads" if args.threads > 1 else ""
    for part in wanted:
        host = table.machine()
        report = measured(part, work, amount_of(part, facts), args)
        now = datetime.datetime.now(datetime.UTC)
        report |= {
            "date": now.strftime("%Y-%m-%d %H:%M UTC"),
            "command": " ".join(["python", "benchmarks/cpu.py", *sys.argv[1:]]),
            "workload": {**facts, "shape": shape.words},
            "batch": args.batch,
            "lr": parts.PARTS[part].lr,
            "rounds": args.rounds,
            "threads": args.threads,
            "machine": host,
            "load_after": [round(load, 2) for load in os.getloadavg()],
        }
        title = f"Training and generation on CPU, {now:%Y-%m-%d}, threads: {args.threads}"
        path = keep(args.results, f"{now:%Y-%m-%d}-cpu{many}{kind}", title, part, report)
        print(f"{part}: written to {path}", flush=True)
        failures += sum("error" in side for side in report["results"].values())
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
