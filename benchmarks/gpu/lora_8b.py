"""LoRA of an 8B model in bfloat16, rows of up to 2,048 and of 8,192 tokens.

Left out: several GPUs.

    python benchmarks/gpu/lora_8b.py [--only CASE] [--tiny]
"""

from common import Case, run

LOOP = {"micro_tokens": 16384, "precision": "bf16-true"}
CASES = {
    "2k": Case(size="8b", length=2048, count=8, options={"rank": 16}, loop=LOOP, checkpointing=True),
    "8k": Case(size="8b", length=8192, count=2, options={"rank": 16}, loop=LOOP, checkpointing=True, spread=False),
}


if __name__ == "__main__":
    run("lora_8b", "LoRA of 8B in bfloat16", CASES)
