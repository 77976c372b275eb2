"""One equal-token ablation per component of MPT's block: the same tokens, steps and seeds, one field of the shape changed.

Left out: timings, and sizes at which such choices are made in earnest: a decoder of half a million weights says what a part does to
the loss there, not at 7B. Writes results/DATE-ablations.md.

    python benchmarks/ablations.py                   # some 25 CPU minutes, one thread
    python benchmarks/ablations.py --steps 20 --seeds 0 --out /tmp/x.md
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import tempfile
from pathlib import Path
from typing import Any

T975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365}
"""Student's t at 0.975 by degrees of freedom."""
BASE = {"hidden_size": 96, "num_hidden_layers": 3, "intermediate_size": 384}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "as MPT": ("ALiBi, no biases, LayerNorm in bfloat16, no clipping, no qk-norm", {}),
    "RoPE": ("rotary positions instead of ALiBi", {"positions": "rope", "max_position_embeddings": 128}),
    "learned positions": ("a table instead of ALiBi", {"positions": "learned", "max_position_embeddings": 128}),
    "no positions": ("none instead of ALiBi", {"positions": "none"}),
    "biases": ("biases in linear layers and norms", {"bias": True}),
    "norms in float32": ("LayerNorm computed in float32", {"low_precision_norm": False}),
    "clip_qkv 6": ("queries, keys and values held within 6", {"clip_qkv": 6.0}),
    "qk-norm": ("queries and keys normed head by head", {"qk_norm": True}),
    "SwiGLU": ("gated, with as many weights, instead of GELU", {"mlp": "swiglu", "intermediate_size": 256}),
}


def recipe(folder: Path, config: dict[str, Any], *, steps: int, seed: int) -> dict[str, Any]:
    """One run: every variant reads the same rows in the same order."""
    return {
        "name": "ablation",
        "seed": seed,
        "init": {"preset": "garzone-mpt", "config": {**BASE, **config}, "tokenizer": "garzone"},
        "stages": [
            {
                "pretrain": {
                    "objective": "pretrain", "method": "full", "data": str(folder / f"train-{seed}.jsonl"), "blocks": True,
                    "max_tokens": 128, "steps": steps, "batch": 16, "lr": 3e-3, "warmup": 0.1, "schedule": "cosine",
                    "precision": "bf16", "validation": {"data": [str(folder / "held.jsonl")]}, "eval_every": steps,
                    "save_every": steps,
                }
            }
        ],
    }  # fmt: skip


def documents(folder: Path, seeds: list[int], count: int) -> None:
    """Texts of the bundled world's generator: other ones for every seed, and held-out ones."""
    from bottega.demo.world.corpus import old_world_text

    for name, texts in [(f"train-{seed}", old_world_text(100 + seed, count)) for seed in seeds] + [
        ("held", old_world_text(7, max(20, count // 20), "test"))
    ]:
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def measure(folder: Path, *, steps: int, seeds: list[int]) -> dict[str, list[tuple[float, int]]]:
    """Held-out loss and number of weights, by variant and seed; seeds outside, so that an interruption leaves whole rows."""
    from bottega.workshop.stages import run

    found: dict[str, list[tuple[float, int]]] = {name: [] for name in ROWS}
    for seed in seeds:
        for name, (_, config) in ROWS.items():
            out = folder / f"{name.replace(' ', '-')}-{seed}"
            result = run(recipe(folder, config, steps=steps, seed=seed), out=out, quiet=True)
            from bottega.models.load import load

            weights = sum(p.numel() for p in load(out).model.parameters())
            found[name].append((float(result.stages["pretrain"]["eval.loss"]), weights))
            print(f"{name:18} seed {seed}: {found[name][-1][0]:.4f}", flush=True)
    return found


def table(found: dict[str, list[tuple[float, int]]]) -> list[str]:
    """Mean loss, and the paired difference to MPT's block with a t interval over seeds (n - 1 degrees of freedom)."""
    lines = ["| variant | what differs | weights | held-out loss | minus MPT's, 95 percent |", "|---|---|---|---|---|"]
    base = [loss for loss, _ in found["as MPT"]]
    for name, losses in found.items():
        mean = sum(loss for loss, _ in losses) / len(losses)
        gaps = [loss - own for (loss, _), own in zip(losses, base, strict=True)]
        said = "" if name == "as MPT" else _interval(gaps)
        lines.append(f"| {name} | {ROWS[name][0]} | {losses[0][1]:,} | {mean:.4f} | {said} |")
    return lines


def _interval(gaps: list[float]) -> str:
    mean = sum(gaps) / len(gaps)
    if len(gaps) == 1:
        return f"{mean:+.4f} (one seed)"
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1) / len(gaps))
    reach = T975[len(gaps) - 1] * spread
    return f"{mean:+.4f} [{mean - reach:+.4f}, {mean + reach:+.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    date = datetime.date.today().isoformat()
    out = asked.out or Path(__file__).parent / "results" / f"{date}-ablations.md"
    import torch
    import transformers

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents(folder, asked.seeds, max(200, 20 * asked.steps))
        found = measure(folder, steps=asked.steps, seeds=asked.seeds)
    head = [
        "# Components of MPT's block, one at a time, at equal tokens",
        "",
        f"`python benchmarks/ablations.py --steps {asked.steps} --seeds {' '.join(map(str, asked.seeds))}`, {date}, "
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}. {asked.steps * 16 * 128:,} tokens a run, bfloat16 autocast, "
        f"{BASE['num_hidden_layers']} layers of {BASE['hidden_size']}, the bundled tokenizer; seeds pair texts, order and weights.",
        "",
    ]
    out.write_text("\n".join([*head, *table(found)]) + "\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
