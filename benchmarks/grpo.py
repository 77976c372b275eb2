"""A GRPO step against TRL's on CPU: the same model, prompts, group and tokens, one thread, CPU seconds a step.

Left out: GPUs, vLLM. Command: python benchmarks/grpo.py [--steps 4] [--rounds 2]; the peer's environment is made by benchmarks/cpu.py
(benchmarks/.venvs/trl), or named by --peer. Sides alternate, so that a busy machine meets both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve()
PROMPTS, GROUP, TOKENS, RANK, BETA, LR = 4, 8, 128, 16, 0.04, 1e-4
VARIANTS = ("dynamic", "static")
"""TRL with transformers' usual cache, and with its static one."""


def model_of(folder: Path) -> None:
    """A Llama of 8 layers, width 384 and random weights, with the bundled model's tokenizer; prompts of about 100 tokens."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(HERE.parents[1] / "bottega" / "models" / "garzone")
    torch.manual_seed(0)
    shape = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6}
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=1024, eos_token_id=tokenizer.eos_token_id, **shape
    )
    config.pad_token_id = tokenizer.pad_token_id
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    said = "The miller keeps the keys of the lower barn, and the smith keeps those of the upper one. " * 4
    with open(folder / "prompts.jsonl", "w") as file:
        for number in range(16):
            file.write(json.dumps({"prompt": f"{said}Who has key {number}?"}) + "\n")
    (folder / "reward.py").write_text("def reward(prompt, reply):\n    return float(sum(map(ord, reply)) % 5)\n")


def ours(folder: Path, steps: int) -> list[float]:
    """CPU seconds of each step of a recipe."""
    stage = {
        "objective": {"name": "grpo", "kl": BETA},
        "data": str(folder / "prompts.jsonl"),
        "method": {"name": "lora", "rank": RANK},
        "rewards": [{"name": "python", "path": str(folder / "reward.py")}],
        "rollout": {"group": GROUP, "max_tokens": TOKENS, "cut_steps": 10_000, "max_kl": 100.0},
        "steps": steps,
        "batch": PROMPTS,
        "lr": LR,
        "save_every": 10_000,
    }
    from bottega.workshop.stages import run

    out = Path(tempfile.mkdtemp(dir=folder))
    run({"name": "b", "model": str(folder / "model"), "stages": [{"b": stage}]}, out=str(out / "run"), quiet=True)
    path = next((out / "run").glob("stages/*/timing.jsonl"))
    return [json.loads(line)["cpu_s"] for line in path.read_text().splitlines()]


def peers(folder: Path, steps: int, variant: str) -> list[float]:
    """CPU seconds of each step of TRL's trainer."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    asked = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows]
    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            marks.append(time.process_time())

        def on_step_end(self, *_, **__):
            marks[-1] = time.process_time() - marks[-1]

    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(dir=folder), max_steps=steps, learning_rate=LR, lr_scheduler_type="constant", use_cpu=True,
        bf16=False,
        per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP, max_completion_length=TOKENS, beta=BETA, loss_type="grpo",
        gradient_checkpointing=False, optim="adamw_torch_fused", max_grad_norm=1.0, save_strategy="no", logging_strategy="no",
        report_to="none", disable_tqdm=True, seed=0, temperature=1.0, cache_implementation="static" if variant == "static" else None,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype="float32"),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        reward_funcs=lambda completions, **_: [float(sum(map(ord, one[0]["content"])) % 5) for one in completions],
        args=config,
        train_dataset=Dataset.from_list(asked),
        peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules="all-linear"),
        callbacks=[Clock()],
    )
    trainer.train()
    return marks


def main() -> None:
    """Without a side: both, alternating, and the table."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--steps", type=int, default=4)
    asked.add_argument("--rounds", type=int, default=2)
    asked.add_argument("--peer", default=str(HERE.parent / ".venvs" / "trl" / "bin" / "python"))
    asked.add_argument("--side", default="")
    asked.add_argument("--folder", default="")
    given = asked.parse_args()
    if given.side:
        folder = Path(given.folder)
        took = ours(folder, given.steps) if given.side == "bottega" else peers(folder, given.steps, given.side)
        print(json.dumps(took))
        return
    folder = Path(tempfile.mkdtemp())
    model_of(folder)
    found: dict[str, list[float]] = {}
    for _ in range(given.rounds):
        for side in ("bottega", *VARIANTS):
            python = sys.executable if side == "bottega" else given.peer
            words = [python, str(HERE), "--side", side, "--folder", str(folder), "--steps", str(given.steps)]
            env = os.environ | {
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(HERE.parents[1]),
                "TOKENIZERS_PARALLELISM": "false",
            }
            done = subprocess.run(words, env=env, capture_output=True, text=True)
            if done.returncode:
                print(f"{side}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                continue
            found.setdefault(side, []).extend(json.loads(done.stdout.strip().splitlines()[-1])[1:])
    print(
        f"{PROMPTS} prompts x {GROUP} answers x {TOKENS} tokens, LoRA rank {RANK}, one thread; CPU seconds a step, first step left out"
    )
    for side, took in found.items():
        ratio = statistics.median(took) / statistics.median(found["bottega"])
        print(
            f"{side:8} median {statistics.median(took):6.2f}  from {min(took):.2f} to {max(took):.2f}  ({ratio:.2f} x ours)"
        )


if __name__ == "__main__":
    main()
