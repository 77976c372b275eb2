"""What a better base buys: three bases (few tokens, many clean ones, as many dirty ones) through one SFT and one DPO.

Left out: sizes at which people buy bases; a decoder of half a million weights shows the direction there and no more. Writes
results/DATE-bases.md; a killed run continues when --folder names where it was.

    python benchmarks/bases.py                   # some 25 CPU minutes, one thread
    python benchmarks/bases.py --steps 40 --seeds 0 --folder bases --out short.md
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bottega.grade.intervals import student

SHAPE = {"hidden_size": 96, "num_hidden_layers": 3, "intermediate_size": 256, "mlp": "swiglu"}
BATCH, TOKENS = 16, 128
DIRTY = 0.5
"""Share of the documents of the dirty base that are spoiled, in one of the ways of `spoil`."""
BASES = {
    "few tokens": "a quarter of the tokens, clean",
    "clean": "all tokens, clean",
    "dirty": f"all tokens, {DIRTY:.0%} of the documents spoiled: words shuffled, broken encoding, boilerplate, or one of 20 repeated",
}
MEASURES: dict[str, tuple[str, bool]] = {
    "base: held-out loss": ("base", False),
    "SFT: held-out loss": ("sft", False),
    "SFT: tickets right": ("tickets", True),
    "DPO: held-out pairs right": ("pairs", True),
    "DPO: held-out loss": ("dpo", False),
}
"""Heading -> (key, whether more is better)."""


def spoil(texts: list[str], seed: int) -> list[str]:
    """`texts` with a share of them spoiled."""
    stream = random.Random(seed)
    repeated = texts[:20]

    def shuffled(text: str) -> str:
        words = text.split()
        stream.shuffle(words)
        return " ".join(words)

    ways: list[Callable[[str], str]] = [
        shuffled,
        lambda text: text.encode().hex()[: len(text)],
        lambda text: (
            "Home | About | Login. Accept all cookies. Share this page. Subscribe now! " * (1 + len(text) // 75)
        ),
        lambda text: stream.choice(repeated),
    ]
    return [stream.choice(ways)(text) if stream.random() < DIRTY else text for text in texts]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """Rows as jsonl, once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prepare(folder: Path, seed: int, steps: int) -> dict[str, str]:
    """The files of one seed: text for the three bases and held-out text, rows of SFT and DPO, probes."""
    from bottega.demo.world import journey
    from bottega.demo.world.corpus import old_world_text

    here = folder / f"data-{seed}"
    if not (here / "clean.jsonl").exists():
        texts = old_world_text(100 + seed, 20 * steps)
        write(here / "clean.jsonl", [{"text": text} for text in texts])
        write(here / "dirty.jsonl", [{"text": text} for text in spoil(texts, seed)])
    probes = [{"request": row["request"], "answer": row["answer"]} for row in journey.task_probes("test", seed, 200)]
    write(here / "tickets.jsonl", probes)
    task = {"name": "tickets", "kind": "generation", "data": "tickets.jsonl", "prompt": "{{ request }}", "chat": True}
    task |= {"answer": "answer", "max_tokens": 24, "metric": {"name": "exact", "normal": False}}
    (here / "tickets.yaml").write_text(json.dumps(task))
    return {
        "clean": str(here / "clean.jsonl"),
        "dirty": str(here / "dirty.jsonl"),
        "held": write(here / "held.jsonl", [{"text": text} for text in old_world_text(7, 200, "test")]),
        "sft": write(here / "sft.jsonl", journey.task_rows(seed, 1600)),
        "sft held": write(here / "sft-held.jsonl", journey.task_rows(9000 + seed, 150)),
        "dpo": write(here / "dpo.jsonl", journey.align_rows(seed, 700)),
        "dpo held": write(here / "dpo-held.jsonl", journey.align_rows(9000 + seed, 200)),
        "tickets": str(here / "tickets.yaml"),
    }


def pretraining(base: str, files: dict[str, str], *, steps: int, seed: int) -> dict[str, Any]:
    """The recipe of one base."""
    count = max(2, steps // 4) if base == "few tokens" else steps
    stage = {
        "objective": "pretrain", "method": "full", "data": files["dirty" if base == "dirty" else "clean"], "blocks": True,
        "max_tokens": TOKENS, "steps": count, "batch": BATCH, "lr": 3e-3, "warmup": 0.1, "schedule": "cosine",
        "precision": "bf16", "validation": {"data": [files["held"]]}, "eval_every": count, "save_every": count,
    }  # fmt: skip
    init = {"preset": "garzone-mpt", "config": SHAPE, "tokenizer": "garzone"}
    return {"name": "base", "seed": seed, "init": init, "stages": [{"base": stage}]}


def downstream(model: Path, files: dict[str, str], *, scale: float, seed: int) -> dict[str, Any]:
    """SFT, then DPO, the same for every base."""
    sft, dpo = max(2, round(160 * scale)), max(2, round(40 * scale))
    stages = [
        {"sft": {
            "objective": "sft", "method": "full", "data": files["sft"], "validation": {"data": [files["sft held"]]}, "steps": sft,
            "batch": 16, "lr": 1e-3, "warmup": 0.05, "eval_every": sft, "save_every": sft,
        }},
        {"dpo": {
            "objective": {"name": "dpo", "beta": 0.1}, "method": "full", "data": files["dpo"],
            "validation": {"data": [files["dpo held"]]}, "steps": dpo, "batch": 16, "lr": 5e-5, "eval_every": dpo, "save_every": dpo,
        }},
    ]  # fmt: skip
    return {"name": "downstream", "seed": seed, "model": str(model), "stages": stages}


def measure(folder: Path, *, steps: int, seeds: list[int], scale: float) -> dict[str, list[dict[str, float]]]:
    """Every measure by base and seed; seeds outside, so that an interruption leaves whole rows."""
    from bottega.workshop.evaluating import evaluate
    from bottega.workshop.stages import run

    found: dict[str, list[dict[str, float]]] = {base: [] for base in BASES}
    for seed in seeds:
        files = prepare(folder, seed, steps)
        for base in BASES:
            here = folder / f"{base.replace(' ', '-')}-{seed}"
            first = run(pretraining(base, files, steps=steps, seed=seed), out=here / "base", quiet=True)
            second = run(downstream(first.model, files, scale=scale, seed=seed), out=here / "downstream", quiet=True)
            tuned = here / "downstream" / "stages" / "01-sft" / "result"
            score = evaluate(str(tuned), [files["tickets"]], quiet=True).scores[0]
            found[base].append(
                {
                    "base": first.stages["base"]["eval.loss"],
                    "sft": second.stages["sft"]["eval.loss"],
                    "tickets": score.value,
                    "pairs": second.stages["dpo"]["eval.accuracy"],
                    "dpo": second.stages["dpo"]["eval.loss"],
                }
            )
            print(f"{base:12} seed {seed}: {json.dumps(found[base][-1])}", flush=True)
    return found


def table(found: dict[str, list[dict[str, float]]]) -> list[str]:
    """Means with Student's intervals over seeds, and the paired differences from the clean base."""
    lines = ["| base | " + " | ".join(MEASURES) + " |", "|---" * (1 + len(MEASURES)) + "|"]
    for base, rows in found.items():
        lines.append(
            f"| {base} | " + " | ".join(_said([row[key] for row in rows]) for key, _ in MEASURES.values()) + " |"
        )
    for base, rows in found.items():
        if base != "clean":
            gaps = [
                [a[key] - b[key] for a, b in zip(rows, found["clean"], strict=True)] for key, _ in MEASURES.values()
            ]
            lines.append(f"| {base} minus clean | " + " | ".join(_said(gap, sign="+") for gap in gaps) + " |")
    return lines


def _said(values: list[float], sign: str = "") -> str:
    known = student(values)
    middle = format(known.value, f"{sign}.3f")
    return (
        middle
        if len(values) < 2
        else f"{middle} [{format(known.low, f'{sign}.3f')}, {format(known.high, f'{sign}.3f')}]"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=480, help="of pretraining; the base of few tokens has a quarter")
    parser.add_argument("--scale", type=float, default=1.0, help="of the steps of SFT and DPO")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, help="keep the runs here, and go on with those that are there")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    date = datetime.date.today().isoformat()
    out = asked.out or Path(__file__).parent / "results" / f"{date}-bases.md"
    import torch
    import transformers

    with tempfile.TemporaryDirectory() as name:
        found = measure(asked.folder or Path(name), steps=asked.steps, seeds=asked.seeds, scale=asked.scale)
    tokens = asked.steps * BATCH * TOKENS
    head = [
        "# What a better base buys",
        "",
        f"`python benchmarks/bases.py --steps {asked.steps} --seeds {' '.join(map(str, asked.seeds))}`, {date}, "
        f"{platform.processor() or platform.machine()}, two cores shared with other work, one thread, Python "
        f"{platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}. Decoders of "
        f"{SHAPE['num_hidden_layers']} layers of {SHAPE['hidden_size']}, {tokens:,} tokens of pretraining ({tokens // 4:,} for few), "
        "then the same SFT (sorting tickets) and DPO (polite endings). Seeds pair texts, order and weights; 95 percent over seeds.",
        "",
        *(f"- {base}: {what}" for base, what in BASES.items()),
        "",
    ]
    out.write_text("\n".join([*head, *table(found)]) + "\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
