"""QLoRA of a 70B model with at most 48 GB of the device: the 4-bit base is made on the device layer by layer.

Left out: several GPUs, and a base that stays on disk.

    python benchmarks/gpu/qlora_70b.py [--only CASE] [--tiny]
"""

from common import Case, run

CASES = {
    "70b-1k": Case(
        size="70b", length=1024, count=4, method="qlora", options={"rank": 16, "base": "nf4"}, weights="nf4", cap_gb=48,
        loop={"micro_tokens": 2048, "precision": "bf16-true"}, checkpointing=True,
    ),
}  # fmt: skip


if __name__ == "__main__":
    run("qlora_70b", "QLoRA of 70B in 48 GB", CASES)
