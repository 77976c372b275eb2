"""Measures real runs and writes the table that `bottega plan` predicts with: bottega/workshop/calibration.json.

Left out: GPUs. Each run is `bottega run` of a small random model in a forked process, so that its peak memory is that of the run above
an interpreter with everything imported; seconds are CPU seconds of a training step (the median). Families, widths, methods,
objectives and settings are interleaved. `--fit` fits anew from what was measured and prints the held-out errors.

    python benchmarks/plan_calibration.py            # some five CPU minutes
    python benchmarks/plan_calibration.py --fit
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import statistics
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from bottega.workshop import plan_table

TABLE = Path(__file__).parents[1] / "bottega" / "workshop" / "calibration.json"
WORDS = "the baker opens her shop at seven and sells bread cakes coffee to people of our small town every day but monday".split()


def shape(family: str, width: int, layers: int, vocabulary: int, **more: Any) -> dict[str, Any]:
    heads = max(2, width // 32)
    if family == "gpt2":
        own = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": 2048}
        return {
            "model_type": family,
            "vocab_size": vocabulary,
            **own,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            **more,
        }
    common = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": vocabulary}
    size = {"intermediate_size": width * 11 // 4 // 8 * 8, "num_key_value_heads": max(1, heads // 2), "head_dim": 32}
    return {
        "model_type": family,
        **common,
        **size,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        **more,
    }


LORA = "lora"
RUNS = [
    ("sft", "full", {}, shape("llama", 256, 4, 4096), {}),
    ("sft", LORA, {"rank": 16}, shape("qwen3", 256, 6, 8192), {}),
    ("pretrain", "full", {}, shape("gpt2", 192, 4, 8192), {"max_tokens": 256}),
    ("dpo", LORA, {"rank": 8}, shape("llama", 256, 4, 8192), {"micro_tokens": 2048}),
    ("sft", "lisa", {"active": 2, "every": 4}, shape("qwen2", 320, 6, 8192), {}),
    ("sft", "prefix", {"length": 16}, shape("llama", 256, 4, 4096), {}),
    ("sft", "full", {}, shape("olmo2", 256, 4, 8192, pad_token_id=0), {"checkpointing": True}),
    ("pretrain", LORA, {"rank": 32}, shape("phi3", 256, 4, 16384, pad_token_id=0), {"blocks": True, "max_tokens": 256}),
    ("dpo", "full", {}, shape("qwen3", 192, 4, 4096), {"micro_tokens": 1024}),
    ("sft", "full", {}, shape("granite", 256, 4, 8192), {"micro_tokens": 512}),
    ("sft", LORA, {"rank": 64}, shape("mistral", 384, 4, 16384, tie_word_embeddings=False), {"batch": 16, "micro_tokens": 4096}),
    ("pretrain", "full", {}, shape("llama", 384, 3, 16384), {"blocks": True, "max_tokens": 512, "batch": 4}),
    ("sft", LORA, {"rank": 16}, shape("gpt2", 256, 6, 8192), {"checkpointing": True}),
    ("dpo", "lisa", {"active": 1, "every": 4}, shape("llama", 256, 5, 4096), {"micro_tokens": 4096}),
    ("sft", "full", {}, shape("opt", 256, 4, 8192, ffn_dim=1024, word_embed_proj_dim=256), {"batch": 4}),
    ("sft", LORA, {"rank": 16, "dora": True}, shape("llama", 256, 4, 8192), {}),
    ("sft", "full", {}, shape("qwen3", 128, 8, 2304), {"batch": 24}),
    ("pretrain", "full", {}, shape("qwen2", 512, 3, 8192), {"max_tokens": 256, "micro_tokens": 1024}),
    ("sft", LORA, {"rank": 16}, shape("llama", 512, 4, 8192), {"then": "merge"}),
    ("sft", LORA, {"rank": 16}, shape("gemma2", 256, 4, 8192, query_pre_attn_scalar=32), {}),
    ("pretrain", "full", {}, shape("llama", 128, 4, 32000), {"max_tokens": 512}),
    # a mixture of experts cannot be planned yet: it is shown as failed, and its number stays
    ("sft", "full", {}, shape("mixtral", 192, 3, 4096, num_local_experts=4, intermediate_size=384), {"batch": 6}),
    ("sft", LORA, {"rank": 8, "targets": ["q_proj", "v_proj"]}, shape("qwen2", 448, 6, 8192), {"micro_tokens": 2048}),
    ("dpo", LORA, {"rank": 16}, shape("olmo2", 192, 6, 8192, pad_token_id=0), {"checkpointing": True, "micro_tokens": 4096}),
    ("sft", "prefix", {"length": 32}, shape("qwen3", 320, 4, 8192), {"micro_tokens": 1024}),
    ("sft", "full", {}, shape("bloom", 256, 4, 4096, n_layer=4, n_head=8), {"batch": 6}),
]  # fmt: skip
"""(objective, method, its options, config, settings of the stage)."""


NUMBERS = (
    "weights",
    "read",
    "largest",
    "trainable",
    "total",
    "gradients",
    "states",
    "first_peak",
    "later_peak",
    "churn",
    "head",
    "tokens",
)


def say(rng: random.Random, low: int, high: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))


def rows(objective: str, count: int, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    if objective == "pretrain":
        return [{"text": say(rng, 60, 400)} for _ in range(count)]
    if objective == "dpo":
        return [
            {"prompt": say(rng, 10, 90), "chosen": say(rng, 10, 90), "rejected": say(rng, 10, 90)} for _ in range(count)
        ]
    return [{"prompt": say(rng, 10, 90), "response": say(rng, 10, 140)} for _ in range(count)]


def make(folder: Path, number: int) -> dict[str, Any]:
    """A random model's folder, its data, and the recipe."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from bottega.models.load import load_tokenizer
    from bottega.models.locate import GARZONE

    objective, method, options, config, settings = RUNS[number]
    keys = dict(config)
    torch.manual_seed(number)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(keys.pop("model_type"), **keys))
    (model.bfloat16() if number % 2 else model).save_pretrained(folder / "model")
    load_tokenizer(GARZONE).save_pretrained(folder / "model")
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(objective, 160, number)), encoding="utf-8")
    stage = {
        "objective": objective, "data": str(data), "method": {"name": method, **options}, "steps": 7, "save_every": 7,
        "template": "plain", "over_length": "truncate", **settings,
    }  # fmt: skip
    if objective == "pretrain":
        del stage["template"], stage["over_length"]
    return {"name": "run", "model": str(folder / "model"), "stages": [{"only": stage}]}


def predicted(recipe: dict[str, Any]) -> dict[str, Any]:
    """What the plan knows before the run: tensors' bytes, and a step's work in seconds at the machine's rates."""
    from bottega.workshop import plan_rows, plan_shape, plan_stage
    from bottega.workshop import recipe as recipes
    from bottega.workshop.calibrate import measure
    from bottega.workshop.plan_memory import Fit
    from bottega.workshop.plan_target import Target
    from bottega.workshop.plan_time import TERMS

    plan = recipes.load(recipe)
    stage = recipes.on_device(plan.stages[0], "cpu")
    found = plan_shape.find_shape(plan.model)
    name, rates = measure("cpu")
    target = Target(
        name=name, kind="cpu", memory=None, rates=rates, factors=dict.fromkeys(TERMS, 1.0), fit=Fit(constant=0.0, factor=1.0),
        interpreter=0.0, threads=1, calibrated=True, spread=(1, 1), slack=(1, 1), note="",
    )  # fmt: skip
    looked = plan_rows.look(stage, found.config, found.tokenizer, seed=plan.seed, packed=plan_shape.packs(found.config))
    rehearsals = plan_stage.Rehearsals(shape=found, rows=looked.heaviest, objective=stage.objective.name)
    one = plan_stage.predict(stage, rehearsals, looked, target)
    work = plan_stage.step_work(one.needs, looked)
    return {
        "tensors": one.memory.tensors, "moments": one.memory.moments, "rates": rates.to_json(), "work": work.to_json(),
        "tokens": looked.step_tokens, "parts": one.memory.parts,
        "needs": {name: getattr(one.needs, name) for name in NUMBERS}, "micro_batches": looked.micro_batches,
    }  # fmt: skip


def measured(recipe: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the run took, above the process as it was when it began."""
    from bottega.core.rundir import read_jsonl
    from bottega.workshop.stages import run

    before = status("VmRSS")
    run(recipe, out=folder / "run", quiet=True)
    lines = read_jsonl(folder / "run" / "stages" / "01-only" / "timing.jsonl")
    each = statistics.median(line["cpu_s"] / line["tokens"] for line in lines[1:])  # per token: steps differ in length
    return {"bytes": status("VmHWM") - before, "token_s": each}


def modules_of_a_run() -> list[str]:
    """What a run imports that this process has not: many modules come late."""
    import sys

    known = set(sys.modules)
    with tempfile.TemporaryDirectory() as place:
        recipe = make(Path(place), 1)
        measured(recipe, Path(place))
    return [name for name in sys.modules if name not in known]


def rates_now() -> dict[str, Any]:
    """The machine's rates at this moment: they stand beside each run, for others may be using the machine."""
    from bottega.workshop.calibrate import measure

    return measure("cpu")[1].to_json()


def import_all(names: list[str]) -> None:
    """Import them here, so that the forked runs' memory is theirs alone."""
    for name in names:
        with contextlib.suppress(ImportError, KeyError):
            importlib.import_module(name)


def status(key: str) -> int:
    """A size of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def in_child(function: Any, *arguments: Any) -> Any:
    """The function's result, computed in a forked process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(writer, json.dumps(function(*arguments)).encode())
            code = 0
        except Exception:  # noqa: BLE001  whatever a run may raise is shown, and the others go on
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    _, code = os.waitpid(child, 0)
    return json.loads(text) if code == 0 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", action="store_true", help="only predict and fit anew what the table measured")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of runs to measure; the table is not written")
    options = parser.parse_args()
    if options.fit:
        table = plan_table.fitted(predict_again(json.loads(TABLE.read_text())))
    else:
        table = measure_all(options.only)
    print(plan_table.text(table))
    if options.only is None:
        TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def predict_again(table: dict[str, Any]) -> dict[str, Any]:
    """The table with today's predictions beside what was measured."""
    import bottega.workshop.plan_stage  # noqa: F401  imported before forking
    import bottega.workshop.stages  # noqa: F401

    runs = []
    for run in table["runs"]:
        with tempfile.TemporaryDirectory() as place:
            seen = in_child(predicted, in_child(make, Path(place), int(run["name"][:2])))
        seen.pop("rates")
        runs.append({**run, "predicted": seen})
    return {**table, "runs": runs}


def measure_all(only: list[int] | None) -> dict[str, Any]:
    import peft.tuners.lora  # noqa: F401
    import torch

    import bottega.workshop.plan_stage  # noqa: F401  imported before forking, as are all that a run needs
    from bottega.workshop.calibrate import calibrate_here

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    import_all(in_child(modules_of_a_run))
    machine = in_child(calibrate_here)
    done = []
    for number in range(len(RUNS)) if only is None else only:
        objective, method, _, config, settings = RUNS[number]
        with tempfile.TemporaryDirectory() as place:
            recipe = in_child(make, Path(place), number)
            seen = recipe and in_child(predicted, recipe)
            found = seen and in_child(measured, recipe, Path(place))
            after = found and in_child(rates_now)
        name = f"{number:02d} {config['model_type']}-{config.get('hidden_size', config.get('n_embd'))} {objective} {method}"
        print(name, json.dumps(found), json.dumps(seen and {k: seen[k] for k in ("tensors", "tokens")}), flush=True)
        if found:
            found["step_s"] = found.pop("token_s") * seen["tokens"]
            found["rates"] = [seen.pop("rates"), after]
            done.append({"name": name, "settings": settings, "measured": found, "predicted": seen})
    date = time.strftime("%Y-%m-%d")
    return plan_table.fitted({"date": date, "machine": machine, "runs": done})


if __name__ == "__main__":
    main()
