"""InstructLab's config.yaml (`ilab config`) as a recipe: its `train` section in one stage, or in the two phases of LAB.

Left out: its generate, evaluate, serve, chat and rag sections, which are no training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bottega.workshop.importers.keys import Keys, lora

PHASES = ("phased_phase1_", "phased_phase2_")
ELSEWHERE = {
    "general.*": "settings of that program's own log and prompts",
    "chat.*": "options of `bottega chat`",
    "serve.*": "no training",
    "evaluate.*": "tasks are files here: see `bottega eval`",
    "generate.*": "no training",
    "metadata.*": "facts about that program's machine",
    "rag.*": "no training",
    "train.device": "the device at hand is used",
    "train.nproc_per_node": "start several processes with torchrun",
    "train.distributed_backend": "see `parallel` for how several processes share a model",
    "train.deepspeed_cpu_offload_optimizer": "see `optimizer_states` for states in host memory",
    "train.fsdp_cpu_offload_optimizer": "see `optimizer_states` for states in host memory",
    "train.disable_flash_attn": "the attention function is chosen by a probe of the model",
    "train.is_padding_free": "rows are packed wherever a probe shows that the model can",
    "train.data_output_dir": "what is prepared lies in the run folder",
    "train.phased_base_dir": "everything of a run lies in its run folder",
    "train.training_journal": "the run folder is the journal: the same command goes on where it stopped",
    "train.phased_mt_bench_judge": "no judge chooses a phase's checkpoint here; name `early_stop` and validation rows",
    "train.checkpoint_at_epoch": "say save_every in steps; five checkpoints a run is the default",
    "version": "of that program's configuration",
}


def convert(keys: Keys, folder: Path) -> dict[str, Any]:
    """The recipe as plain data; `data` is missing where its folder of data sets is not here."""
    keys.take("train.ckpt_output_dir")
    pipeline, data = keys.take("train.pipeline", "full"), keys.take("train.data_path")
    shared = {
        "method": _method(keys),
        "max_tokens": keys.number("train.max_seq_len"),
        "over_length": "drop",
        "micro_tokens": keys.number("train.max_batch_len"),
        "schedule": "constant",
    }
    if pipeline == "accelerated":
        stages = [
            {name: _phase(keys, prefix) | shared | {"data": _data(folder, data, f"{name}_train*")}}
            for name, prefix in zip(("knowledge", "skills"), PHASES, strict=True)
        ]
        for key in ("train.num_epochs", "train.effective_batch_size", "train.save_samples"):
            keys.lose(key, "the accelerated pipeline takes each phase's own")
    else:
        size = keys.number("train.effective_batch_size", 64)
        one = {
            "epochs": keys.number("train.num_epochs", 10),
            "batch": size,
            "lr": 2e-5,
            "save_every": _saves(keys, "train.save_samples", size),
        }
        keys.notes.append(f"the {pipeline} pipeline names no learning rate: 2e-05 was written")
        stages = [{"instruct": one | shared | {"data": _data(folder, data, "*train*")}}]
        for key in [key for key in keys.values if key.startswith("train.phased_phase")]:
            keys.lose(key, "only the accelerated pipeline has phases; this file's is " + str(pipeline))
    for stage in stages:
        for one in stage.values():
            one["objective"] = "sft"
    for key in [key for key in keys.values if key.startswith("train.additional_args.")]:
        keys.lose(key, "an argument of another trainer")
    keys.drop(ELSEWHERE)
    return {"name": "instructlab", "model": keys.take("train.model_path"), "stages": stages}


def _phase(keys: Keys, prefix: str) -> dict[str, Any]:
    size = keys.number(f"train.{prefix}effective_batch_size", 64)
    return {
        "epochs": keys.number(f"train.{prefix}num_epochs", 10),
        "batch": size,
        "lr": keys.number(f"train.{prefix}learning_rate", 2e-5),
        "save_every": _saves(keys, f"train.{prefix}samples_per_save", size),
    }


def _saves(keys: Keys, key: str, batch: int) -> int | None:
    """Samples between checkpoints -> steps."""
    samples = keys.number(key)
    return max(1, samples // batch) if samples else None


def _method(keys: Keys) -> Any:
    if not keys.number("train.lora_rank", 0):
        keys.lose("train.lora_quantize_dtype", "lora_rank is 0: every weight learns")
        return "full"
    base = keys.pick("train.lora_quantize_dtype", {"nf4": "nf4"})
    return lora(keys, prefix="train.lora_", name="qlora" if base else "lora", base=base)


def _data(folder: Path, data: Any, pattern: str) -> list[dict[str, Any]]:
    place = folder / str(data or "")
    if data is None or not place.exists():
        return []
    files = sorted(place.rglob(f"{pattern}.jsonl")) if place.is_dir() else [place]
    return [{"path": str(file)} for file in files]
