"""LLaMA-Factory's training YAML (`llamafactory-cli train FILE`) as a recipe.

Left out: its stages rm, ppo and kto, multi-modal data, and its inference and export configurations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.workshop.importers.keys import SCHEDULES, Keys, hub, lora, optimizer

STAGES = {"pt": "pretrain", "sft": "sft", "dpo": "dpo"}
TEMPLATES = {
    **dict.fromkeys(("default", "empty", "qwen", "qwen3", "qwen3_nothink", "gemma2", "gemma3", "phi4"), None),
    **{name: name for name in ("chatml", "llama2", "llama3", "mistral", "gemma", "phi", "zephyr", "alpaca", "vicuna")},
    **dict.fromkeys(("granite3", "granite4"), "granite"),
    **dict.fromkeys(("deepseek", "deepseek3"), "deepseek"),
}
"""Names of its templates -> ours; None: the one that comes with the model's tokenizer."""
ELSEWHERE = {
    "trust_remote_code": "a recipe cannot allow it; give `bottega run --trust-code REVISION`",
    "preprocessing_num_workers": "rows are prepared with as many processes as there are cores",
    "dataloader_num_workers": "rows are prepared before training; no loader runs beside it",
    "overwrite_cache": "what is kept is found by content and never stale",
    "overwrite_output_dir": "a run goes on where it stopped; name a fresh --out to start again",
    "resume_from_checkpoint": "the same command goes on from the newest good checkpoint",
    "save_only_model": "checkpoints hold what is needed to go on exactly",
    "plot_loss": "the curve is always drawn",
    "logging_steps": "every step is logged",
    "ddp_timeout": "see `bottega run --help` for launching several processes",
    "deepspeed": "there is no DeepSpeed here; several GPUs share a model by FSDP2",
    "flash_attn": "the attention function is chosen by a probe of the model",
    "max_samples": "rows are not cut off at a number; give a smaller file",
    "cache_dir": "HF_HOME says where downloads are kept",
}


def convert(keys: Keys, folder: Path) -> dict[str, Any]:
    """The recipe as plain data; `data` may be missing where a data set is not beside the file."""
    stage = keys.take("stage", "sft")
    if stage not in STAGES:
        raise UserError(f"{keys.file}: stage {stage!r} has no counterpart; there are: {', '.join(STAGES)}")
    objective = STAGES[stage]
    if keys.take("do_train", True) is not True:
        raise UserError(f"{keys.file}: do_train is not true, so there is nothing to train")
    one: dict[str, Any] = {
        "objective": {"name": objective, **_preference(keys)} if objective == "dpo" else objective,
        "data": _data(keys, "dataset", folder),
        "method": _method(keys),
        "validation": keys.number("val_size") or _data(keys, "eval_dataset", folder) or None,
        "template": keys.pick("template", TEMPLATES) if objective != "pretrain" else keys.take("template") and None,
        "mask": _mask(keys),
        "max_tokens": keys.number("cutoff_len"),
        "over_length": "split" if objective == "pretrain" else "truncate",
        "epochs": keys.number("num_train_epochs", 3.0),
        "batch": keys.number("per_device_train_batch_size", 8) * keys.number("gradient_accumulation_steps", 1),
        "lr": keys.number("learning_rate", 5e-5),
        "warmup": keys.number("warmup_steps") or keys.number("warmup_ratio"),
        "schedule": keys.pick("lr_scheduler_type", SCHEDULES, "linear"),
        "precision": _precision(keys),
        "checkpointing": not keys.take("disable_gradient_checkpointing", False),
        "save_every": keys.number("save_steps"),
        "keep": keys.number("save_total_limit"),
        **optimizer(
            keys,
            name="optim",
            betas=("adam_beta1", "adam_beta2"),
            eps="adam_epsilon",
            decay="weight_decay",
            clip="max_grad_norm",
        ),
    }
    steps = keys.number("max_steps")
    if steps and steps > 0:
        one["steps"] = steps
        del one["epochs"]
    if keys.take("eval_strategy") == "steps" and one["validation"]:
        one["eval_every"] = keys.number("eval_steps")
    keys.lose("per_device_eval_batch_size", "validation rows fill micro-batches of micro_tokens")
    for packing in ("packing", "neat_packing"):
        if keys.take(packing) is False:
            keys.notes.append("rows are packed without seeing each other wherever a probe shows that the model can")
    keys.drop(ELSEWHERE)
    return {
        "name": Path(str(keys.take("output_dir", "imported"))).name,
        "model": keys.take("model_name_or_path"),
        "revision": None if keys.take("model_revision", "main") == "main" else keys.take("model_revision"),
        "seed": keys.number("seed", 42),
        "track": [name for name in _listed(keys.take("report_to")) if name not in ("none", "all")],
        "stages": [{stage: one}],
    }


def _method(keys: Keys) -> Any:
    kind = keys.take("finetuning_type", "lora")
    if kind == "full":
        return "full"
    if kind != "lora":
        raise UserError(f"{keys.file}: finetuning_type {kind!r} is not carried over; there are: lora, full")
    keys.lose("adapter_name_or_path", "to go on with an adapter, name its folder as `model`")
    bits = keys.pick("quantization_bit", {4: "nf4", 8: "int8"})
    given = keys.take("lora_target", "all")
    targets = None if given == "all" else _listed(given)
    more = {
        "rslora": keys.take("use_rslora"),
        "dora": keys.take("use_dora"),
        "lr_ratio": keys.number("loraplus_lr_ratio"),
        "init": "pissa" if keys.take("pissa_init") else None,
        "base": bits,
    }
    return lora(keys, targets=targets, name="qlora" if bits else "lora", **more)


def _data(keys: Keys, key: str, folder: Path) -> list[dict[str, Any]]:
    """The data sets named, looked up in its dataset_info.json where that lies beside the file."""
    place = keys.take("dataset_dir", "data")
    info_file = folder / place / "dataset_info.json"
    info = rundir.read_json(info_file) if info_file.is_file() else {}
    parts = []
    for name in _listed(keys.take(key)):
        entry = info.get(name, {})
        if "file_name" in entry:
            parts.append({"path": str(info_file.parent / entry["file_name"]), "format": _format(entry)})
        elif "hf_hub_url" in entry:
            parts.append(hub(entry["hf_hub_url"], entry.get("split"), format=_format(entry)))
        elif (folder / name).exists():
            parts.append({"path": str(folder / name)})
        else:
            keys.missing.append(f"{name} (in no {place}/dataset_info.json beside the file)")
    return parts


def _format(entry: dict[str, Any]) -> str | None:
    return "sharegpt" if entry.get("formatting") == "sharegpt" else None


def _preference(keys: Keys) -> dict[str, Any]:
    losses = {"sigmoid": "sigmoid", "hinge": "hinge", "ipo": "ipo"}
    return {
        "beta": keys.number("pref_beta"),
        "loss": keys.pick("pref_loss", losses),
        "sft_weight": keys.number("pref_ftx"),
        "label_smoothing": keys.number("dpo_label_smoothing"),
    }


def _mask(keys: Keys) -> str | None:
    if keys.take("train_on_prompt"):
        return "all"
    return "last" if keys.take("mask_history") else None


def _precision(keys: Keys) -> str:
    if keys.take("pure_bf16"):
        return "bf16-true"
    return "bf16" if keys.take("bf16") else "fp16" if keys.take("fp16") else "fp32"


def _listed(value: Any) -> list[str]:
    """`a,b` or [a, b] -> [a, b]."""
    items = value if isinstance(value, list) else str(value).split(",") if value else []
    return [str(item).strip() for item in items if str(item).strip()]
