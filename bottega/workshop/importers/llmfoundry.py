"""LLM Foundry's training YAML (`composer train.py FILE`) as a recipe.

Left out: models built there from a configuration (mpt_causal_lm without weights), callbacks and evaluation inside training.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bottega.core.errors import UserError
from bottega.workshop.importers.keys import Keys, hub, optimizer

SCHEDULERS = {
    "linear_decay_with_warmup": "linear",
    "cosine_with_warmup": "cosine",
    "constant_with_warmup": "constant",
    "inv_sqrt_with_warmup": "inverse_root",
}
PRECISIONS = {"fp32": "fp32", "amp_bf16": "bf16", "amp_fp16": "fp16"}
ELSEWHERE = {
    "model.config_overrides.*": "the model is used as it was saved; attention is chosen by a probe of the model",
    "model.use_auth_token": "HF_TOKEN in the environment is used where a Hub asks for one",
    "model.pretrained": "a model's weights are always read",
    "tokenizer.kwargs.*": "max_tokens says how long a row may be",
    "device_eval_batch_size": "micro_tokens says how much is computed at once, in training and evaluation",
    "device_train_microbatch_size": "micro_tokens says how much is computed at once",
    "eval_first": "`evaluate: {before: true}` measures the base on tasks",
    "fsdp_config.*": "see `parallel` for how several processes share a model",
    "progress_bar": "a bar is shown on a terminal, plain lines elsewhere",
    "log_to_console": "plain lines are printed where there is no terminal",
    "console_log_interval": "every step is logged",
    "callbacks.*": "speed, learning rate and memory are always shown",
    "max_seq_len": "max_tokens, from the data loader",
    **{
        f"{loader}.{key}": "rows are prepared before training, shuffled by the seed, and packed where the model can"
        for loader in ("train_loader", "eval_loader")
        for key in (
            "drop_last",
            "num_workers",
            "pin_memory",
            "prefetch_factor",
            "persistent_workers",
            "timeout",
            "dataset.shuffle",
            "dataset.allow_pad_trimming",
            "dataset.decoder_only_format",
            "dataset.packing_ratio",
        )
    },
}


def convert(keys: Keys, folder: Path) -> dict[str, Any]:
    """The recipe as plain data."""
    model = keys.take("model.pretrained_model_name_or_path")
    if model is None:
        raise UserError(
            f"{keys.file}: the model ({keys.take('model.name')}) names no pretrained_model_name_or_path; "
            "models from scratch are not imported: write their configuration into a folder first"
        )
    keys.take("model.name")
    if keys.take("tokenizer.name") not in (None, model):
        keys.notes.append(f"the tokenizer {keys.take('tokenizer.name')} is not used: the model's own is")
    loader = keys.take("train_loader.name", "finetuning")
    objective = {"finetuning": "sft", "text": "pretrain"}.get(str(loader))
    if objective is None:
        raise UserError(f"{keys.file}: train_loader.name {loader!r} has no counterpart; there are: finetuning, text")
    keys.take("eval_loader.name")
    one: dict[str, Any] = {
        "objective": objective,
        "data": _data(keys, "train_loader", folder),
        "method": "full",
        "validation": _data(keys, "eval_loader", folder) or None,
        "max_tokens": keys.number("train_loader.dataset.max_seq_len") or keys.number("max_seq_len"),
        "over_length": "split" if objective == "pretrain" else "truncate",
        **_length(keys),
        "batch": keys.number("global_train_batch_size", 8),
        "schedule": keys.pick("scheduler.name", SCHEDULERS, "constant"),
        "warmup": _time(keys, "scheduler.t_warmup", ba=1, dur=1),
        "floor": keys.number("scheduler.alpha_f"),
        "lr": keys.number("optimizer.lr"),
        "precision": keys.pick("precision", PRECISIONS, "fp32"),
        "checkpointing": bool(keys.take("fsdp_config.activation_checkpointing", False)),
        "eval_every": _time(keys, "eval_interval", ba=1),
        "save_every": _time(keys, "save_interval", ba=1),
        "keep": keys.number("save_num_checkpoints_to_keep"),
        **_optimizer(keys),
    }
    keys.take("eval_loader.dataset.max_seq_len")
    if keys.values.get("max_seq_len") == one["max_tokens"]:
        keys.take("max_seq_len")
    keys.drop(ELSEWHERE)
    return {
        "name": str(keys.take("run_name", "imported")),
        "model": model,
        "seed": keys.number("seed", 17),
        "track": [name for name in ("wandb", "mlflow", "tensorboard") if _tracked(keys, name)],
        "stages": [{"tune": one}],
    }


def _tracked(keys: Keys, name: str) -> bool:
    found = [key for key in keys.values if key == f"loggers.{name}" or key.startswith(f"loggers.{name}.")]
    for key in found:
        keys.take(key)
    return bool(found)


def _optimizer(keys: Keys) -> dict[str, Any]:
    """Composer writes both betas in one list, and clips by an algorithm."""
    betas = keys.take("optimizer.betas")
    if isinstance(betas, list) and len(betas) == 2:
        keys.values |= {"optimizer.beta1": betas[0], "optimizer.beta2": betas[1]}
    if keys.take("algorithms.gradient_clipping.clipping_type", "norm") != "norm":
        keys.lose("algorithms.gradient_clipping.clipping_threshold", "gradients are clipped by their norm only")
    made = optimizer(
        keys,
        name="optimizer.name",
        betas=("optimizer.beta1", "optimizer.beta2"),
        eps="optimizer.eps",
        decay="optimizer.weight_decay",
        clip="algorithms.gradient_clipping.clipping_threshold",
    )
    if made["weight_decay"] and str(keys.take("optimizer.name")).startswith("decoupled"):
        lr = keys.number("optimizer.lr")
        keys.notes.append(
            f"weight_decay {made['weight_decay']} is per step there and is multiplied by the learning rate here: "
            f"written as {made['weight_decay'] / lr:g}"
        )
        made["weight_decay"] = made["weight_decay"] / lr
    if "algorithms.gradient_clipping.clipping_threshold" not in keys:
        made["clip"] = 0.0
    return made


def _data(keys: Keys, loader: str, folder: Path) -> list[dict[str, Any]]:
    """A Hub data set, or a local folder of MDS shards or files."""
    at = f"{loader}.dataset"
    named, split = keys.take(f"{at}.hf_name"), keys.take(f"{at}.split")
    for key in (f"{at}.local", f"{at}.remote"):
        place = keys.take(key)
        if place is not None and (folder / str(place)).exists():
            return [{"path": str(folder / str(place) / (split or ""))}]
    if named is None:
        return []
    return [{"path": str(folder / named)}] if (folder / named).exists() else [hub(named, split)]


def _length(keys: Keys) -> dict[str, Any]:
    steps = _time(keys, "max_duration", ba=1)
    if steps is not None:
        return {"steps": steps}
    epochs = _time(keys, "max_duration", ep=1)
    if epochs is None:
        keys.lose("max_duration", "write steps (ba) or epochs (ep); tokens are not counted")
    return {"epochs": epochs or 1}


def _time(keys: Keys, key: str, **units: int) -> Any:
    """Composer's times: `50ba` (steps), `2ep` (epochs), `0.1dur` (a share of the run); None in another unit."""
    value = keys.values.get(key)
    if isinstance(value, int | float):
        return keys.take(key)
    found = re.fullmatch(r"([\d.]+)(ba|ep|dur|tok|sp)", str(value or ""))
    if not found or found[2] not in units:
        if found and key != "max_duration":
            keys.lose(key, f"{value} is not in steps (ba); the default is used")
        return None
    keys.take(key)
    return float(found[1]) if "." in found[1] else int(found[1])
