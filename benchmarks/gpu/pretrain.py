"""Pretraining of 125M, 1B and 7B on full blocks, with model FLOPs utilisation.

Left out: several GPUs, float8.

    python benchmarks/gpu/pretrain.py [--only CASE] [--tiny]
"""

from common import Case, run

CASES = {
    "125m": Case(size="125m", length=2049, count=16, method="full", options={}, loop={"micro_tokens": 32784}, spread=False, mfu=True),
    "1b": Case(size="1b", length=2049, count=8, method="full", options={}, loop={"micro_tokens": 16392}, spread=False, mfu=True),
    "7b": Case(
        size="7b", length=2049, count=4, method="full", options={}, loop={"precision": "bf16-true", "micro_tokens": 8196},
        spread=False, mfu=True, checkpointing=True,
    ),
}  # fmt: skip


if __name__ == "__main__":
    run("pretrain", "Pretraining with MFU", CASES)
