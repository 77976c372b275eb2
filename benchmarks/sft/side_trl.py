"""TRL's SFTTrainer in its two best settings on CPU, without recomputation and with fused AdamW.

Packed: blocks filled by best fit, in TRL's order. Flat (`--variant flat`): exactly our rows in each step, one after the
other without padding, so that the losses can be compared digit by digit. Left out: its padded default, which takes
twice as long.
"""

from __future__ import annotations

import measure
from datasets import Dataset
from marks import Marks
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def adapter(options):
    """The same LoRA as every side's, or None."""
    if options.tune == "full":
        return None
    from peft import LoraConfig

    return LoraConfig(r=options.rank, lora_alpha=2 * options.rank, lora_dropout=0.0, target_modules="all-linear")


def main() -> None:
    """Train one epoch and write the result."""
    options = measure.arguments()
    measure.quiet(options.threads)
    folder = str(options.work / "model")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32", attn_implementation="sdpa")
    data = [{"prompt": row["prompt"], "completion": row["reply"]} for row in measure.rows(options.work, "train")]
    block = measure.block_tokens(options.work, options.batch)
    packed = {
        "packing": True,
        "packing_strategy": "bfd",
        "max_length": block,
        "per_device_train_batch_size": 1,
    }
    flat = {
        "padding_free": True,
        "max_length": None,
        "per_device_train_batch_size": options.batch,
        "train_sampling_strategy": "sequential",
    }
    how = flat if options.variant == "flat" else packed
    said = (
        "padding-free, our rows in our order" if options.variant == "flat" else f"packing bfd, blocks of {block} tokens"
    )
    settings = SFTConfig(
        output_dir=str(options.scratch),
        **how,
        num_train_epochs=1,
        learning_rate=options.lr,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=0,
    )
    meter = measure.Meter()
    trainer = SFTTrainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(data),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=adapter(options),
        callbacks=[Marks(meter)],
    )
    trainer.train()
    trainer.model.eval()
    loss = measure.held_out_loss(lambda ids: trainer.model(input_ids=ids).logits, options.work)
    measure.write(
        options.out,
        meter,
        packages=("trl", "torch", "transformers", "accelerate", "peft"),
        setting=f"{said}, no gradient checkpointing, fused AdamW",
        loss=loss,
        tokens=sum(len(row["input_ids"]) for row in trainer.train_dataset),
        supervised=trained(trainer.train_dataset),
    )


def trained(packed: Dataset) -> int:
    """How many tokens the packed rows train, by their completion masks (or labels, in versions that write them)."""
    if "completion_mask" in packed.column_names:
        return sum(sum(row) for row in packed["completion_mask"])
    return sum(label != -100 for row in packed["labels"] for label in row) if "labels" in packed.column_names else -1


if __name__ == "__main__":
    main()
