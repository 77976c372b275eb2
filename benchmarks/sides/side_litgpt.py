"""litgpt's fine-tuning (every weight, or LoRA) and pretraining on CPU, in micro-batches of one or a few rows.

Left out: litgpt's warm-up and cosine, and its own untied head: for the same mathematics as the others this script hands
it a constant learning rate and ties the head to the embeddings. Its fine-tuning clips no gradients and averages over each
micro-batch by itself. Its pretraining compiles the model; the script leaves that out, since it costs more than the run.
"""

from __future__ import annotations

import sys
from unittest import mock

import litgpt.finetune.full
import litgpt.finetune.lora
import measure
import torch
from litgpt.args import EvalArgs, TrainArgs
from litgpt.config import Config
from litgpt.data import DataModule
from litgpt.data.base import SFTDataset, get_sft_collate_fn
from litgpt.prompts import Default
from litgpt.scripts.convert_hf_checkpoint import convert_hf_checkpoint
from torch.utils.data import DataLoader, SequentialSampler


class Starting(SequentialSampler):
    """Rows in their order; the meter starts when training asks for the first."""

    def __init__(self, data, meter: measure.Meter) -> None:
        super().__init__(data)
        self.meter = meter

    def __iter__(self):
        if not self.meter.before:
            self.meter.start()
        return super().__iter__()


class Rows(DataModule):
    """The workload's conversations through litgpt's own data set class."""

    def __init__(self, options, meter: measure.Meter) -> None:
        super().__init__()
        self.options, self.meter = options, meter
        self.prompt_style = Default()

    def connect(self, tokenizer=None, batch_size=1, max_seq_length=None, **kwargs) -> None:
        """Called by litgpt."""
        rows = measure.rows(self.options.work, "train")
        texts = [{"instruction": row["prompt"], "output": row["reply"]} for row in rows]
        self.data = SFTDataset(texts, tokenizer, self.prompt_style, max_seq_length=-1, mask_prompt=True)
        for made, row in zip(self.data, rows, strict=True):
            assert made["input_ids"].tolist() == row["ids"], "other tokens than the workload's"
        self.train_dataset = self.test_dataset = self.data  # litgpt takes the prompt of its look from one of them
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        """Rows in order."""
        return DataLoader(
            self.data,
            batch_size=self.batch_size,
            sampler=Starting(self.data, self.meter),
            collate_fn=get_sft_collate_fn(),
        )

    def val_dataloader(self) -> DataLoader:
        """Two rows: litgpt insists on a look before it starts."""
        return DataLoader(torch.utils.data.Subset(self.data, range(2)), batch_size=1, collate_fn=get_sft_collate_fn())


def convert(options):
    """The model folder as litgpt keeps it, in the scratch folder, and its config."""
    import json
    import shutil

    folder = options.scratch / "model"
    shutil.copytree(options.work / "model", folder)
    facts = json.loads((folder / "config.json").read_text())
    config = Config(
        name="tiny-llama",
        hf_config={},
        block_size=facts["max_position_embeddings"],
        vocab_size=facts["vocab_size"],
        padded_vocab_size=facts["vocab_size"],
        n_layer=facts["num_hidden_layers"],
        n_head=facts["num_attention_heads"],
        n_query_groups=facts["num_key_value_heads"],
        n_embd=facts["hidden_size"],
        head_size=facts["hidden_size"] // facts["num_attention_heads"],
        intermediate_size=facts["intermediate_size"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        norm_eps=facts["rms_norm_eps"],
        rope_base=10000,
    )
    with mock.patch.object(Config, "from_name", lambda *_, **__: config):
        convert_hf_checkpoint(folder, model_name="tiny-llama")
    return folder, config


MICRO = {"one": 1, "two": 2, "eight": 8}


class Blocks(DataModule):
    """The workload's blocks."""

    def __init__(self, work, micro: int) -> None:
        super().__init__()
        self.blocks, self.micro = torch.tensor(measure.blocks(work, "train")), micro

    def connect(self, **kwargs) -> None:
        """Called by litgpt."""

    def train_dataloader(self) -> DataLoader:
        """Blocks in order."""
        return DataLoader(self.blocks, batch_size=self.micro)

    def val_dataloader(self) -> DataLoader:
        """One block: litgpt insists on a look before it starts."""
        return DataLoader(self.blocks[:1], batch_size=1)


def pretrain(options) -> None:
    """Pretraining that goes on from the workload's weights."""
    import litgpt.pretrain as module

    (folder, config), meter, made = convert(options), measure.Meter(), []
    micro = MICRO[options.variant]
    blocks = measure.blocks(options.work, "train")

    def constant(lr, it, *_):
        if it == 0:
            meter.start()
        return lr

    def model_of(config):
        made.append(original(config))
        return made[-1]

    def optimizer_of(_, parameters, **__):
        optimizer = torch.optim.AdamW(parameters, lr=options.lr, weight_decay=0.0, fused=True)
        optimizer.register_step_post_hook(lambda *_: meter.mark())
        return optimizer

    original = module.GPT
    nothing = {"save_hyperparameters": lambda *_: None, "save_checkpoint": lambda *_: None}
    changed = {"GPT": model_of, "get_lr": constant, "instantiate_torch_optimizer": optimizer_of, **nothing}
    with mock.patch.multiple(module, **changed), mock.patch.object(torch, "compile", lambda model: model):
        module.setup(
            model_name="tiny-llama",
            model_config=config,
            out_dir=options.scratch / "out",
            precision="32-true",
            initial_checkpoint_dir=folder,
            devices=1,
            data=Blocks(options.work, micro),
            train=TrainArgs(
                save_interval=None,
                log_interval=10**6,
                global_batch_size=options.batch,
                micro_batch_size=micro,
                max_tokens=len(blocks) * (len(blocks[0]) - 1),
                max_seq_length=len(blocks[0]) - 1,
                max_norm=1.0,
                lr_warmup_steps=0,
                tie_embeddings=True,
            ),
            eval=EvalArgs(interval=10**9, initial_validation=False, final_validation=False, max_iters=1),
            logger_name="csv",
            seed=0,
        )
    finish(options, next(m for m in made if m.lm_head.weight.device.type != "meta"), meter, "eager, clipped")


def finish(options, model, meter: measure.Meter, said: str) -> None:
    """The final loss, and the result."""
    model.eval()
    model.max_seq_length = model.config.block_size
    loss = measure.final_loss(model, options)
    measure.write(
        options.out,
        meter,
        packages=("litgpt", "torch", "lightning", "transformers"),
        setting=f"micro-batch {options.variant}, fused AdamW, {said}; constant learning rate and tied head set by the benchmark",
        loss=loss,
    )


def finetune(options) -> None:
    """Fine-tuning for one epoch."""
    module = getattr(litgpt.finetune, options.tune)
    (folder, _), meter, made = convert(options), measure.Meter(), []

    def tied(config):
        model = original(config)
        if options.tune == "full":
            model.lm_head.weight = model.transformer.wte.weight
        made.append(model)
        return model

    def constant(optimizer, warmup_steps, max_steps):
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        step = schedule.step

        def marked():
            step()
            meter.mark()

        schedule.step = marked
        return schedule

    original = module.GPT
    more = {}
    if options.tune == "lora":
        more = {f"lora_{part}": True for part in ("query", "key", "value", "projection", "mlp")}
        module.merge_lora = lambda *_, **__: None  # what was trained is measured as it is
        more |= {"lora_r": options.rank, "lora_alpha": 2 * options.rank, "lora_dropout": 0.0}
    with mock.patch.multiple(module, GPT=tied, get_lr_scheduler=constant, save_hyperparameters=lambda *_: None):
        module.setup(
            checkpoint_dir=folder,
            out_dir=options.scratch / "out",
            precision="32-true",
            devices=1,
            data=Rows(options, meter),
            train=TrainArgs(
                save_interval=None,
                log_interval=10**9,
                global_batch_size=options.batch,
                micro_batch_size=MICRO[options.variant],
                lr_warmup_steps=1,
                epochs=1,
            ),
            eval=EvalArgs(interval=10**9, final_validation=False, max_new_tokens=1),
            optimizer={
                "class_path": "torch.optim.AdamW",
                "init_args": {"lr": options.lr, "weight_decay": 0.0, "fused": True},
            },
            seed=0,
            **more,
        )
    finish(options, made[0], meter, "no clipping")


def main() -> None:
    """Run the part and write the result."""
    options = measure.arguments()
    measure.quiet(options.threads)
    if options.part == "pretrain":
        pretrain(options)
    else:
        finetune(options)


if __name__ == "__main__":
    sys.exit(main())
