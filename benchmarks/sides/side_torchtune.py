"""torchtune's full fine-tuning recipe for one device on CPU, packed: rows of a pack do not see each other.

Left out: its LoRA, DPO and compiled ways. The recipe is read from its file, as its own command does; clipping as for all.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import measure
import torchtune
from omegaconf import OmegaConf
from torch.utils.data import Dataset
from torchtune.datasets import PackedDataset
from torchtune.models.llama3_2 import llama3_2


class Rows(Dataset):
    """The workload's rows as torchtune wants them; labels are -100 where nothing is learned."""

    def __init__(self, work: Path) -> None:
        self.rows = measure.rows(work, "train")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict:
        row = self.rows[number]
        labels = [token if trains else -100 for token, trains in zip(row["ids"], row["trains"], strict=True)]
        return {"tokens": row["ids"], "labels": labels}


def packed_rows(tokenizer, work: str, block: int, packed: bool) -> PackedDataset:
    """Called by the recipe, with its configuration's values."""
    assert packed
    return PackedDataset(Rows(Path(work)), max_seq_len=block, padding_idx=tokenizer.pad_id)


class Tokenizer:
    """All that the recipe asks of one: which id pads."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id


def model_of(folder: str):
    """torchtune's Llama of the workload's sizes, head tied; a scale factor of 1 is RoPE as it was."""
    facts = json.loads((Path(folder) / "config.json").read_text())
    return llama3_2(
        vocab_size=facts["vocab_size"],
        num_layers=facts["num_hidden_layers"],
        num_heads=facts["num_attention_heads"],
        num_kv_heads=facts["num_key_value_heads"],
        embed_dim=facts["hidden_size"],
        max_seq_len=facts["max_position_embeddings"],
        rope_base=10_000,
        intermediate_dim=facts["intermediate_size"],
        norm_eps=facts["rms_norm_eps"],
        scale_factor=1,
    )


def recipe_class():
    """The recipe, from the file that `tune run` would run."""
    path = Path(torchtune.__file__).parents[1] / "recipes" / "full_finetune_single_device.py"
    spec = importlib.util.spec_from_file_location("full_finetune_single_device", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FullFinetuneRecipeSingleDevice


def main() -> None:
    """Train one epoch and write the result."""
    options = measure.arguments()
    measure.quiet(options.threads)
    meter = measure.Meter()
    block = measure.block_tokens(options.work, options.batch)
    folder = str(options.work / "model")
    facts = json.loads((options.work / "model" / "config.json").read_text())
    here = "side_torchtune"
    config = OmegaConf.create(
        {
            "device": "cpu",
            "dtype": "fp32",
            "seed": 0,
            "output_dir": str(options.scratch),
            "resume_from_checkpoint": False,
            "gradient_accumulation_steps": 1,
            "optimizer_in_bwd": False,
            "clip_grad_norm": 1.0,
            "epochs": 1,
            "max_steps_per_epoch": None,
            "compile": False,
            "shuffle": False,
            "batch_size": 1,
            "model": {"_component_": f"{here}.model_of", "folder": folder},
            "tokenizer": {"_component_": f"{here}.Tokenizer", "pad_id": facts["pad_token_id"]},
            "dataset": {
                "_component_": f"{here}.packed_rows",
                "work": str(options.work),
                "block": block,
                "packed": True,
            },
            "optimizer": {"_component_": "torch.optim.AdamW", "lr": options.lr, "weight_decay": 0.0, "fused": True},
            "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
            "metric_logger": {"_component_": "torchtune.training.metric_logging.StdoutLogger"},
            "checkpointer": {
                "_component_": "torchtune.training.FullModelHFCheckpointer",
                "checkpoint_dir": folder,
                "checkpoint_files": ["model.safetensors"],
                "output_dir": str(options.scratch / "out"),
                "model_type": "LLAMA3_2",
            },
        }
    )
    recipe = recipe_class()(cfg=config)
    recipe.setup(cfg=config)
    recipe.save_checkpoint = lambda epoch: None
    recipe._optimizer.register_step_post_hook(lambda *_: meter.mark())
    meter.start()
    recipe.train()
    model = recipe._model.eval()
    model.num_output_chunks = 0
    loss = measure.final_loss(model, options)
    measure.write(
        options.out,
        meter,
        packages=("torchtune", "torchao", "torch"),
        setting=f"packed, blocks of {block} tokens, chunked cross-entropy, fused AdamW",
        loss=loss,
    )


if __name__ == "__main__":
    main()
