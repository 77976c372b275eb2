"""Pretraining of 125M, 1B and 7B on full blocks, with model FLOPs utilisation.

Left out: several GPUs, float8.

    python benchmarks/gpu/pretrain.py [--only CASE] [--tiny]
"""

from common import Case, run

FULL = {"method": "full", "options": {}, "spread": False, "mfu": True}
CASES = {
    "125m": Case(size="125m", length=2049, count=16, loop={"micro_tokens": 32784, "compile": True}, **FULL),
    "1b": Case(size="1b", length=2049, count=8, loop={"micro_tokens": 16392, "compile": True}, **FULL),
    "7b": Case(
        size="7b",
        length=2049,
        count=4,
        loop={"precision": "bf16-true", "micro_tokens": 8196},
        checkpointing=True,
        **FULL,
    ),
}


if __name__ == "__main__":
    run("pretrain", "Pretraining with MFU", CASES)
