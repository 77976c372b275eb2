"""TRL's SFTTrainer and DPOTrainer on CPU, without recomputation and with fused AdamW.

Settings: `bfd` packs blocks by best fit, in TRL's order; `flat` lays exactly our rows of a step one after the other;
`one`, `two`, `eight` are micro-batches of so many rows, accumulated; `padded` is TRL's default, a whole step's rows in one
padded batch; `-before` scores the reference before training (its time counts). Left out: padding-free DPO, which this
version of TRL has switched off.
"""

from __future__ import annotations

from unittest import mock

import measure
from datasets import Dataset
from marks import Marks
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

MICRO = {"one": 1, "two": 2, "eight": 8}


def adapter(options):
    """The same LoRA as every side's, or None."""
    if options.tune == "full":
        return None
    from peft import LoraConfig

    return LoraConfig(r=options.rank, lora_alpha=2 * options.rank, lora_dropout=0.0, target_modules="all-linear")


def common(options) -> dict:
    """Settings of every part."""
    return {
        "output_dir": str(options.scratch),
        "num_train_epochs": 1,
        "learning_rate": options.lr,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "train_sampling_strategy": "sequential",
        "seed": 0,
    }


def batches(options) -> tuple[dict, str]:
    """How rows lie in micro-batches, in TRL's words and in ours."""
    if options.variant.startswith("bfd"):
        halves = 2 if options.variant == "bfd-half" else 1
        block = measure.block_tokens(options.work, options.batch / halves)
        packed = {"packing": True, "packing_strategy": "bfd", "max_length": block, "per_device_train_batch_size": 1}
        packed |= {"gradient_accumulation_steps": halves, "train_sampling_strategy": "random"}
        return packed, f"packing bfd, blocks of {block} tokens"
    whole = {"max_length": None, "per_device_train_batch_size": options.batch}
    if options.variant == "flat":
        return whole | {"padding_free": True}, "padding-free, our rows in our order"
    word = options.variant.removesuffix("-before")
    before = {"precompute_ref_log_probs": True} if options.variant.endswith("-before") else {}
    said = ", reference scored first (counted)" if before else ""
    if word == "padded":
        return whole | before, "padded batches of a step" + said
    micro = {"per_device_train_batch_size": MICRO[word], "gradient_accumulation_steps": options.batch // MICRO[word]}
    return {"max_length": None} | micro | before, f"micro-batch {word}" + said


def trainer_of(options, meter: measure.Meter):
    """The part's trainer, ready to train, and what its setting is called."""
    folder = str(options.work / "model")
    how, said = batches(options)
    given = {
        "model": AutoModelForCausalLM.from_pretrained(folder, dtype="float32", attn_implementation="sdpa"),
        "processing_class": AutoTokenizer.from_pretrained(folder),
        "callbacks": [Marks(meter)],
    }
    if options.part == "dpo":
        rows = [{key: pair[key] for key in ("prompt", "chosen", "rejected")} for pair in measure.pairs(options.work)]
        score = DPOTrainer._precompute_ref_logps

        def scored(self, *args, **kwargs):
            with meter.also():
                return score(self, *args, **kwargs)

        with mock.patch.object(DPOTrainer, "_precompute_ref_logps", scored):
            settings = DPOConfig(**common(options), **how, beta=measure.BETA)
            return DPOTrainer(args=settings, train_dataset=Dataset.from_list(rows), **given), said
    if options.part == "pretrain":
        data = [{"input_ids": ids} for ids in measure.blocks(options.work, "train")]
    else:
        data = [{"prompt": row["prompt"], "completion": row["reply"]} for row in measure.rows(options.work, "train")]
    settings = SFTConfig(**(common(options) | how))
    given["peft_config"] = adapter(options)
    return SFTTrainer(args=settings, train_dataset=Dataset.from_list(data), **given), said


def main() -> None:
    """Train one epoch and write the result."""
    options = measure.arguments()
    measure.quiet(options.threads)
    meter = measure.Meter()
    trainer, said = trainer_of(options, meter)
    trainer.train()
    trainer.model.eval()
    loss = measure.final_loss(lambda ids: trainer.model(input_ids=ids).logits, options)
    measure.write(
        options.out,
        meter,
        packages=("trl", "torch", "transformers", "accelerate", "peft"),
        setting=f"{said}, no gradient checkpointing, fused AdamW",
        loss=loss,
    )


if __name__ == "__main__":
    main()
