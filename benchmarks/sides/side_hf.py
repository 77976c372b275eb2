"""Plain transformers on CPU: its Trainer on rows of ids (grouped by length, or in small micro-batches), and its `generate`.

Left out: data collators of other libraries; padding is to the longest row of a micro-batch.
"""

from __future__ import annotations

import measure
import torch
from datasets import Dataset
from marks import Marks
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

MICRO = {"one": 1, "two": 2, "eight": 8, "grouped": 8}
PACKAGES = ("transformers", "torch", "accelerate", "peft")


def data_of(options) -> Dataset:
    """Ids and labels of the part's rows."""
    if options.part == "pretrain":
        rows = [{"input_ids": ids, "labels": ids} for ids in measure.blocks(options.work, "train")]
    else:
        rows = [
            {
                "input_ids": row["ids"],
                "labels": [token if trains else -100 for token, trains in zip(row["ids"], row["trains"], strict=True)],
            }
            for row in measure.rows(options.work, "train")
        ]
    for row in rows:
        row["length"] = len(row["input_ids"])
    return Dataset.from_list(rows)


def train(options, model, meter: measure.Meter) -> None:
    """One epoch by Trainer."""
    micro = min(MICRO[options.variant], options.batch)
    if options.tune == "lora":
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=options.rank, lora_alpha=2 * options.rank, lora_dropout=0.0, target_modules="all-linear")
        model = get_peft_model(model, config)
    settings = TrainingArguments(
        output_dir=str(options.scratch),
        num_train_epochs=1,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=options.batch // micro,
        train_sampling_strategy="group_by_length" if options.variant == "grouped" else "sequential",
        learning_rate=options.lr,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=0,
    )
    trainer = Trainer(
        model=model,
        args=settings,
        train_dataset=data_of(options),
        data_collator=DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(str(options.work / "model"))),
        callbacks=[Marks(meter)],
    )
    trainer.train()
    model.eval()
    loss = measure.final_loss(lambda ids: model(input_ids=ids).logits, options)
    said = "grouped by length, batches of a step" if options.variant == "grouped" else f"micro-batch {options.variant}"
    measure.write(options.out, meter, packages=PACKAGES, setting=f"{said}, fused AdamW", loss=loss)


def generate(options, model, meter: measure.Meter) -> None:
    """Greedy replies to the part's prompts, padded on the left."""
    prompts = measure.prompts(options.work, options.part)
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    how = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    if options.variant == "static":
        how["cache_implementation"] = "static"
    with torch.inference_mode():
        model.generate(ids[:2], attention_mask=mask[:2], max_new_tokens=2, **how)
        meter.start()
        found = model.generate(ids, attention_mask=mask, max_new_tokens=measure.NEW_TOKENS, **how)
        meter.mark()
    replies = found[:, width:].tolist()
    assert all(len(reply) == measure.NEW_TOKENS for reply in replies), "a reply ended early"
    loss = measure.replies_loss(lambda ids: model(input_ids=ids).logits, prompts, replies)
    measure.write(options.out, meter, packages=PACKAGES, setting=f"generate, {options.variant} cache", loss=loss)


def main() -> None:
    """Run the part and write the result."""
    options = measure.arguments()
    measure.quiet(options.threads)
    model = AutoModelForCausalLM.from_pretrained(
        str(options.work / "model"), dtype="float32", attn_implementation="sdpa"
    )
    meter = measure.Meter()
    if options.part.startswith("generate"):
        model.generation_config.eos_token_id = None
        generate(options, model.eval(), meter)
    else:
        train(options, model, meter)


if __name__ == "__main__":
    main()
