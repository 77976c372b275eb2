"""7B, 13B, 33B and 65B tuned on one machine under hard caps of 24, 48 and 80 GB.

Left out: the recipes' data; what is measured is whether a step fits, and how long it takes.

    python benchmarks/gpu/recipes.py [--only CASE] [--tiny]
"""

from common import Case, run


def lean(size: str, cap_gb: float) -> Case:
    """A 4-bit base with LoRA under a cap."""
    return Case(
        size=size, length=1024, count=4, method="qlora", options={"rank": 16, "base": "nf4"}, weights="nf4", cap_gb=cap_gb,
        loop={"micro_tokens": 2048, "precision": "bf16-true"}, checkpointing=True,
    )  # fmt: skip


CASES = {
    "7b-24": lean("7b", 24),
    "13b-24": lean("13b", 24),
    "33b-24": lean("33b", 24),
    "33b-48": lean("33b", 48),
    "65b-48": lean("65b", 48),
    "65b-80": lean("65b", 80),
}


if __name__ == "__main__":
    run("recipes", "Recipes under hard memory caps", CASES)
