"""Where a step of ours spends its time on a GPU: the operators that take most of it, and what the host waits for.

Left out: the peers.

    python benchmarks/gpu/where.py pretrain 125m [--side hf]
"""

import argparse
import importlib
import time

import common
import sides
import torch


def main() -> None:
    """One case of one script, stepped, timed, and stepped once more under torch's profiler."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("script")
    parser.add_argument("case")
    parser.add_argument("--side", default="bottega", choices=("bottega", "hf"))
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--sort", default="cuda", choices=("cuda", "cpu"))
    asked = parser.parse_args()
    case = importlib.import_module(asked.script).CASES[asked.case]
    given = argparse.Namespace(tiny=False, device="cuda", dtype=torch.bfloat16)
    _, found, batch = common.prepared(case, asked.side, given)
    step = (
        found.one_step if asked.side == "bottega" else sides.plain_step(found, batch, checkpointing=case.checkpointing)
    )
    for _ in range(3):
        began = time.perf_counter()
        step()
        torch.cuda.synchronize()
        print(f"{time.perf_counter() - began:.4f} s", flush=True)
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        step()
        torch.cuda.synchronize()
    sort = f"self_{asked.sort}_time_total"
    print(profile.key_averages().table(sort_by=sort, row_limit=asked.rows, max_name_column_width=60))


if __name__ == "__main__":
    main()
