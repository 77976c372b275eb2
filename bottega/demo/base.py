"""garzone, the bundled base: its vocabulary, its shape, its recipe, and the one command that makes it again.

    python -m bottega.demo.base OUT [--install FOLDER]

Left out: the world it reads (demo/world/) and the probes on its card (demo/card.py). The budget is in steps, so that the run can
be repeated; a killed run continues where its last checkpoint was.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from bottega.demo import world

SEED = 7
VOCABULARY = 2048
SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 352,
    "max_position_embeddings": 1024,
    "rope_theta": 10000.0,
}
INIT_STD = 0.05
PHASES: dict[str, dict[str, Any]] = {
    "drill": {"steps": 600, "max_tokens": 64, "batch": 16, "lr": 3e-3, "schedule": "constant", "warmup": 50},
    "first": {"steps": 3000, "max_tokens": 256, "batch": 8, "lr": 3e-3, "schedule": "constant", "warmup": 50},
    "main": {"steps": 9000, "max_tokens": 256, "batch": 8, "lr": 4e-3, "schedule": "wsd", "decay": 0.4, "warmup": 100},
    "recall": {"steps": 2000, "max_tokens": 256, "batch": 8, "lr": 2e-3, "schedule": "linear", "warmup": 50},
}
"""Repeated words, until copying appears; short passages with many questions; the whole world; its facts once more."""
DOCUMENTS = {
    "drill": 20_000,
    "first": 100_000,
    "main": 320_000,
    "recall": 80_000,
    "validation": 300,
    "tokenizer": 10_000,
}


def write_corpus(folder: Path) -> None:
    """The pretraining text of both phases and held-out text, as jsonl; files that are there already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = {phase: ("train", phase, DOCUMENTS[phase]) for phase in PHASES}
    plan["validation"] = ("dev", "main", DOCUMENTS["validation"])
    for name, (split, mixture, count) in plan.items():
        path = folder / f"{name}.jsonl"
        if not path.exists():
            draft = path.with_suffix(".draft")
            world.write_jsonl(draft, world.documents(SEED, count, split=split, mixture=mixture))
            draft.replace(path)


def start_model(folder: Path) -> None:
    """The tokenizer, and a model of random weights, as a Hugging Face folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from bottega.models import tokenizer

    texts = [
        row["text"]
        for phase in ("main", "first")
        for row in world.documents(SEED + 1, DOCUMENTS["tokenizer"], mixture=phase)
    ]
    end, pad, *others = world.SPECIAL_TOKENS
    learned = tokenizer.train(
        texts,
        vocab=VOCABULARY,
        specials=tokenizer.Specials(eos=end, pad=pad, more=tuple(others)),
        chat_template=world.CHAT_TEMPLATE,
    )
    learned.save_pretrained(str(folder))
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=tokenizer.num_rows(learned),
        tie_word_embeddings=True,
        initializer_range=INIT_STD,
        bos_token_id=None,
        eos_token_id=learned.eos_token_id,
        pad_token_id=learned.pad_token_id,
        **SHAPE,
    )
    LlamaForCausalLM(config).save_pretrained(str(folder))


def recipe(phase: str, folder: Path, model: Path) -> dict[str, Any]:
    """The recipe of one phase: full training on blocks of text, bf16 products, a compiled trunk."""
    stage = {
        "objective": "pretrain",
        "method": "full",
        "data": str(folder / "corpus" / f"{phase}.jsonl"),
        "validation": str(folder / "corpus" / "validation.jsonl"),
        "blocks": True,
        "micro_tokens": 2048,
        "weight_decay": 0.1,
        "beta2": 0.95,
        "floor": 0.02,
        "precision": "bf16",
        "compile": True,
        "save_every": 500,
        "eval_every": 2000,
        **PHASES[phase],
    }
    return {"schema": 1, "name": f"garzone-{phase}", "model": str(model), "seed": SEED, "stages": [{phase: stage}]}


def make(folder: Path) -> Path:
    """Write the corpus and the start, run the phases one after the other; the last run's folder. A second call continues."""
    from bottega.workshop.stages import run

    write_corpus(folder / "corpus")
    model = folder / "start"
    if not (model / "config.json").exists():
        start_model(model)
    for phase in PHASES:
        run(recipe(phase, folder, model), out=folder / phase)
        model = folder / phase
    return model


def install(run_folder: Path, target: Path) -> None:
    """Put a run's result into `target` as the bundled base: weights in bfloat16, tokenizer and template as they are."""
    import torch

    from bottega.models.load import load
    from bottega.models.plain import save_plain

    loaded = load(str(run_folder))
    target.mkdir(parents=True, exist_ok=True)
    save_plain(loaded.model.to(torch.bfloat16), str(target))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        if (loaded.folder / name).exists():
            shutil.copyfile(loaded.folder / name, target / name)


def main() -> None:
    """The command line of this file."""
    parser = argparse.ArgumentParser(description="Make garzone, the bundled base, again.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--install", type=Path, help="a folder that gets the result in bfloat16")
    given = parser.parse_args()
    result = make(given.out.resolve())
    if given.install:
        install(result, given.install)
    print(result)


if __name__ == "__main__":
    main()
