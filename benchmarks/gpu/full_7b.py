"""Every weight of a 7B model with at most 24 GB of the device: bfloat16 weights, each stepping as its gradient is there.

Left out: float32 copies of the weights on the device; they and the optimizer's states wait in host memory.

    python benchmarks/gpu/full_7b.py [--only CASE] [--tiny]
"""

from common import Case, run

LEAN = {"precision": "bf16-true", "optimizer_states": "host", "step_in_backward": True, "clip": 0.0, "spikes": "off"}
CASES = {
    "7b-1k": Case(
        size="7b", length=1024, count=2, method="full", options={}, cap_gb=24, checkpointing=True,
        loop={**LEAN, "micro_tokens": 2048},
    ),
}  # fmt: skip


if __name__ == "__main__":
    run("full_7b", "Full tuning of 7B in 24 GB", CASES)
