"""LLaMA-Factory on CPU without recomputation: packed (rows of a block do not see each other), or row by row.

Left out: its own templates (the workload's is registered under the name `workload`), images and sound: it imports
torchaudio, whose wheels on the package index want CUDA, though text never reaches it; an empty module stands in.
"""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import measure
from marks import Marks

silent = ModuleType("torchaudio")
silent.__spec__ = ModuleSpec("torchaudio", None)
sys.modules["torchaudio"] = silent

from llamafactory.data.formatter import StringFormatter  # noqa: E402
from llamafactory.data.template import register_template  # noqa: E402
from llamafactory.train.tuner import run_exp  # noqa: E402


def main() -> None:
    """Train one epoch and write the result."""
    options = measure.arguments()
    measure.quiet(options.threads)
    register_template(
        name="workload",
        format_user=StringFormatter(slots=["<|user|>{{content}}<|assistant|>"]),
        format_assistant=StringFormatter(slots=["{{content}}<|eos|>"]),
    )
    meter = measure.Meter()
    marks = Marks(meter)
    how, said = stage(options)
    adapter = {"lora_rank": options.rank, "lora_alpha": 2 * options.rank, "lora_dropout": 0.0, "lora_target": "all"}
    run_exp(
        {
            "do_train": True,
            "model_name_or_path": str(options.work / "model"),
            "finetuning_type": options.tune,
            **(adapter if options.tune == "lora" else {}),
            "template": "workload",
            "dataset": "workload",
            "dataset_dir": str(data_folder(options)),
            **how,
            "flash_attn": "sdpa",
            "disable_gradient_checkpointing": True,
            "disable_shuffling": True,
            "output_dir": str(options.scratch / "out"),
            "num_train_epochs": 1,
            "learning_rate": options.lr,
            "lr_scheduler_type": "constant",
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "optim": "adamw_torch_fused",
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "dataloader_pin_memory": False,
            "preprocessing_num_workers": None,
            "overwrite_cache": True,
            "seed": 0,
        },
        callbacks=[marks],
    )
    marks.model.eval()
    loss = measure.final_loss(lambda ids: marks.model(input_ids=ids).logits, options)
    measure.write(
        options.out,
        meter,
        packages=("llamafactory", "torch", "transformers", "trl", "accelerate", "peft"),
        setting=f"{said}, no gradient checkpointing, fused AdamW",
        loss=loss,
    )


def stage(options):
    """What the part and the setting are in LLaMA-Factory's words, and in ours."""
    if options.variant.startswith("neat"):
        halves = 2 if options.variant == "neat-half" else 1
        block = measure.block_tokens(options.work, options.batch / halves)
        packed = {"packing": True, "neat_packing": True, "cutoff_len": block, "per_device_train_batch_size": 1}
        said = f"neat_packing, blocks of {block} tokens"
        return {"stage": "sft", **packed, "gradient_accumulation_steps": halves}, said
    micro = {"one": 1, "two": 2, "eight": 8}[options.variant]
    batch = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": options.batch // micro}
    said = f"micro-batch {options.variant}"
    if options.part == "dpo":
        return {"stage": "dpo", "pref_loss": "sigmoid", "pref_beta": measure.BETA, "cutoff_len": 2048, **batch}, said
    if options.part == "pretrain":
        length = len(measure.blocks(options.work, "train")[0])
        return {"stage": "pt", "packing": True, "cutoff_len": length, **batch}, said
    return {"stage": "sft", "packing": False, "cutoff_len": 2048, **batch}, said


def data_folder(options):
    """The part's data with LLaMA-Factory's description of it; its folder."""
    data = options.scratch / "data"
    data.mkdir()
    roles = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    entry = {
        "file_name": str((options.work / "chat.jsonl").resolve()),
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": roles,
    }
    if options.part == "pretrain":
        entry = {"file_name": str((options.work / "texts.jsonl").resolve()), "columns": {"prompt": "text"}}
    elif options.part == "dpo":
        entry = {
            "file_name": str((options.work / "pairs.jsonl").resolve()),
            "ranking": True,
            "columns": {"prompt": "question", "chosen": "chosen", "rejected": "rejected"},
        }
    (data / "dataset_info.json").write_text(json.dumps({"workload": entry}))
    return data


if __name__ == "__main__":
    main()
