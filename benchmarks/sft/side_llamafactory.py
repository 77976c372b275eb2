"""LLaMA-Factory in its best setting on CPU: neat packing (rows of a block do not see each other), no recomputation.

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
    data = options.scratch / "data"
    data.mkdir()
    roles = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    entry = {
        "file_name": str((options.work / "chat.jsonl").resolve()),
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": roles,
    }
    (data / "dataset_info.json").write_text(json.dumps({"workload": entry}))
    block = measure.block_tokens(options.work, options.batch)
    meter = measure.Meter()
    marks = Marks(meter)
    adapter = {"lora_rank": options.rank, "lora_alpha": 2 * options.rank, "lora_dropout": 0.0, "lora_target": "all"}
    run_exp(
        {
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": str(options.work / "model"),
            "finetuning_type": options.tune,
            **(adapter if options.tune == "lora" else {}),
            "template": "workload",
            "dataset": "workload",
            "dataset_dir": str(data),
            "cutoff_len": block,
            "packing": True,
            "neat_packing": True,
            "flash_attn": "sdpa",
            "disable_gradient_checkpointing": True,
            "output_dir": str(options.scratch / "out"),
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 1,
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
    loss = measure.held_out_loss(lambda ids: marks.model(input_ids=ids).logits, options.work)
    measure.write(
        options.out,
        meter,
        packages=("llamafactory", "torch", "transformers", "trl", "accelerate", "peft"),
        setting=f"neat_packing, blocks of {block} tokens, no gradient checkpointing, fused AdamW",
        loss=loss,
    )


if __name__ == "__main__":
    main()
