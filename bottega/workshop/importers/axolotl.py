"""Axolotl's YAML (`axolotl train FILE`) as a recipe.

Left out: its reinforcement learning other than dpo, multi-modal data, sequence parallelism and plug-ins.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bottega.core.errors import UserError
from bottega.workshop.importers.keys import SCHEDULES, Keys, hub, lora, optimizer

TYPES = {
    "alpaca": "alpaca",
    "chat_template": None,
    "sharegpt": "sharegpt",
    "completion": None,
    "input_output": None,
    "pretrain": None,
}
"""The kind of a data set -> our format; None: found by looking."""
TEXT = ("completion", "pretrain")
TEMPLATES = {
    "tokenizer_default": None,
    **{name: name for name in ("chatml", "llama3", "gemma", "alpaca", "mistral", "deepseek", "granite")},
}
NOT_HERE = "fused kernels of a tool of its own; rows are packed and logits chunked here anyway"
ELSEWHERE = {
    "attn_implementation": "the attention function is chosen by a probe of the model",
    "flash_attention": "the attention function is chosen by a probe of the model",
    "sdp_attention": "the attention function is chosen by a probe of the model",
    "logging_steps": "every step is logged",
    "tf32": "torch's own setting is left as it is",
    "resume_from_checkpoint": "the same command goes on from the newest good checkpoint",
    "trust_remote_code": "a recipe cannot allow it; give `bottega run --trust-code REVISION`",
    "evals_per_epoch": "say eval_every in steps; ten evaluations a run is the default",
    "saves_per_epoch": "say save_every in steps; five checkpoints a run is the default",
    "loss_watchdog_threshold": "losses far above the last 128 steps' are left out by `spikes`",
    "loss_watchdog_patience": "losses far above the last 128 steps' are left out by `spikes`",
    "dataset_prepared_path": "what is kept is found by content and never stale",
    "deepspeed": "there is no DeepSpeed here; several GPUs share a model by FSDP2",
    "special_tokens.pad_token": "a tokenizer without a pad token needs none here: nothing padded is trained",
    **dict.fromkeys(("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "plugins"), NOT_HERE),
}


def convert(keys: Keys, folder: Path) -> dict[str, Any]:
    """The recipe as plain data."""
    sets = keys.take("datasets", [])
    objective = _objective(keys, sets)
    batch = keys.number("micro_batch_size", 1) * keys.number("gradient_accumulation_steps", 1)
    if keys.take("sample_packing"):
        keys.take("eval_sample_packing")
        keys.notes.append(
            f"batch: {batch} counts conversations here; there it counts packed rows of sequence_len tokens: raise it"
        )
    one: dict[str, Any] = {
        "objective": {"name": "dpo", "beta": keys.number("rl_beta")} if objective == "dpo" else objective,
        "data": [_part(entry, folder, keys) for entry in sets],
        "method": _method(keys),
        "validation": keys.number("val_set_size")
        or [_part(entry, folder, keys) for entry in keys.take("test_datasets", [])]
        or None,
        "template": keys.pick("chat_template", TEMPLATES),
        "mask": "all" if keys.take("train_on_inputs") else None,
        "max_tokens": keys.number("sequence_len"),
        "over_length": "split" if objective == "pretrain" else "drop",
        "epochs": keys.number("num_epochs", 1),
        "steps": keys.number("max_steps"),
        "batch": batch,
        "lr": keys.number("learning_rate"),
        "warmup": keys.number("warmup_steps") or keys.number("warmup_ratio"),
        "schedule": keys.pick("lr_scheduler", SCHEDULES, "cosine"),
        "precision": _precision(keys),
        "checkpointing": bool(keys.take("gradient_checkpointing", False)),
        "save_every": keys.number("save_steps"),
        "keep": keys.number("save_total_limit"),
        **optimizer(
            keys,
            name="optimizer",
            betas=("adam_beta1", "adam_beta2"),
            eps="adam_epsilon",
            decay="weight_decay",
            clip="max_grad_norm",
        ),
    }
    if one["steps"]:
        del one["epochs"]
    if one["validation"]:
        one["eval_every"] = keys.number("eval_steps")
        patience = keys.number("early_stopping_patience")
        one["early_stop"] = {"metric": "loss", "patience": patience} if patience else None
    keys.drop(ELSEWHERE)
    return {
        "name": Path(str(keys.take("output_dir", "imported"))).name,
        "model": keys.take("base_model"),
        "seed": keys.number("seed", 42),
        "track": [name for name in ("wandb", "mlflow") if _tracked(keys, name)],
        "stages": [{"tune": one}],
    }


def _objective(keys: Keys, sets: Any) -> str:
    if not isinstance(sets, list) or not all(isinstance(entry, dict) for entry in sets):
        raise UserError(f"{keys.file}: datasets is not a list of mappings with a path each")
    asked = keys.take("rl")
    if asked not in (None, "dpo", "ipo"):
        raise UserError(f"{keys.file}: rl {asked!r} has no counterpart; there is dpo")
    if asked:
        return "dpo"
    kinds = {str(entry.get("type")) in TEXT for entry in sets}
    if kinds == {True, False}:
        raise UserError(
            f"{keys.file}: datasets mix completion with chats; a stage learns from one kind: split the file"
        )
    return "pretrain" if kinds == {True} else "sft"


def _part(entry: dict[str, Any], folder: Path, keys: Keys) -> dict[str, Any]:
    """One data set: a file here, or a Hub id."""
    kind = entry.get("type")
    name = kind.split(".")[0] if isinstance(kind, str) else None
    if name is not None and name not in TYPES:
        keys.notes.append(f"datasets: type {kind} is not known here; the format is found by looking")
    rest = sorted(set(entry) - {"path", "type", "split", "ds_type"})
    if rest:
        keys.notes.append(f"datasets: {entry.get('path')}: not carried over: {', '.join(rest)}")
    path = str(entry.get("path", ""))
    local = folder / path
    where = {"path": str(local)} if local.exists() else hub(path, entry.get("split"))
    return {**where, "format": TYPES.get(name) if name else None}


def _method(keys: Keys) -> Any:
    kind = keys.take("adapter")
    if kind is None:
        return "full"
    if kind not in ("lora", "qlora"):
        raise UserError(f"{keys.file}: adapter {kind!r} is not carried over; there are: lora, qlora, or none")
    keys.lose("lora_model_dir", "to go on with an adapter, name its folder as `model`")
    four, eight = keys.take("load_in_4bit"), keys.take("load_in_8bit")
    base = "nf4" if four or kind == "qlora" else "int8" if eight else None
    targets = None if keys.take("lora_target_linear") else keys.take("lora_target_modules")
    dora, rslora = keys.take("peft_use_dora"), keys.take("peft_use_rslora")
    return lora(keys, targets=targets, name="qlora" if base else "lora", base=base, dora=dora, rslora=rslora)


def _precision(keys: Keys) -> str:
    bf16 = keys.take("bf16")
    return "bf16" if bf16 in (True, "auto", "full") else "fp16" if keys.take("fp16") else "fp32"


def _tracked(keys: Keys, name: str) -> bool:
    return keys.take({"wandb": "wandb_project", "mlflow": "mlflow_tracking_uri"}[name]) is not None
