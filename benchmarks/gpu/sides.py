"""The sides that ours is timed beside: a plain loop over transformers' model, the same with Liger's kernels, and TRL.

Left out: LLaMA-Factory and Unsloth, which are named as untested.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from bottega.core.types import Row
from bottega.models.heads import causal_model

PEERS = {
    "hf": "transformers",
    "trl": "trl",
    "liger": "liger_kernel",
    "llamafactory": "llamafactory",
    "unsloth": "unsloth",
}
STEPS, WARM = 5, 2


def timed(step: Callable[[], Any], given: argparse.Namespace, tokens: int) -> dict[str, float]:
    """Seconds a step (median after warm-up), tokens a second, and peak memory in GB."""
    cuda = given.device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(WARM + STEPS):
        began = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    middle = statistics.median(seconds[WARM:])
    peak = torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0
    return {"step_s": middle, "tokens_per_s": tokens / middle, "peak_gb": peak}


def plain_step(model: nn.Module, batch: Sequence[Row], *, checkpointing: bool) -> Callable[[], None]:
    """A step of the plain loop over transformers' own attention."""
    model.set_attn_implementation("sdpa")  # type: ignore[operator]
    return trainer_step(model, batch, checkpointing=checkpointing)


def trainer_step(
    model: nn.Module, batch: Sequence[Row], *, checkpointing: bool, lr: float = 1e-4
) -> Callable[[], None]:
    """The peer that is always there: transformers' model, padded to the longest row, cross-entropy over all logits, fused AdamW."""
    device = next(model.parameters()).device
    width = max(row.num_tokens for row in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for at, row in enumerate(batch):
        own = torch.tensor(list(row.branches[0].ids))
        ids[at, : len(own)], mask[at, : len(own)] = own, 1
        labels[at, : len(own)] = torch.where(torch.tensor(list(row.branches[0].trains)) > 0, own, -100)
    feed = {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if hasattr(model, "enable_input_require_grads"):
            model.enable_input_require_grads()
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=lr, weight_decay=0.0, fused=True)
    model.train()

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            model(**feed, use_cache=False).loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def trl_case(
    model: nn.Module, batch: Sequence[Row], given: argparse.Namespace, *, checkpointing: bool, lr: float = 1e-4
) -> dict[str, float]:
    """TRL's SFTTrainer over the same rows, a whole step's in one padded batch, Liger's kernels where they are installed."""
    from datasets import Dataset as Table
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    table = Table.from_list(
        [
            {"input_ids": list(row.branches[0].ids), "completion_mask": [int(t > 0) for t in row.branches[0].trains]}
            for row in batch
        ]
        * (WARM + STEPS)
    )
    marks: list[float] = []

    class Marks(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if given.device == "cuda":
                torch.cuda.synchronize()
            marks.append(time.perf_counter())

    liger = given.device == "cuda" and importlib.util.find_spec("liger_kernel") is not None
    with tempfile.TemporaryDirectory() as scratch:
        settings = SFTConfig(
            output_dir=scratch, max_steps=WARM + STEPS, per_device_train_batch_size=len(batch), max_length=None, learning_rate=lr,
            lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0, optim="adamw_torch_fused", bf16=given.device == "cuda",
            use_cpu=given.device == "cpu", gradient_checkpointing=checkpointing, use_liger_kernel=liger, report_to="none",
            gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
            save_strategy="no", logging_strategy="no", disable_tqdm=True, train_sampling_strategy="sequential", eos_token="<eos>",
        )  # fmt: skip
        trainer = SFTTrainer(
            model=model, args=settings, train_dataset=table, processing_class=tokenizer, callbacks=[Marks()]
        )
        if given.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
    middle = statistics.median(b - a for a, b in zip(marks[WARM - 1 :], marks[WARM:]))
    peak = torch.cuda.max_memory_allocated() / 1e9 if given.device == "cuda" else 0.0
    tokens = sum(row.num_tokens for row in batch)
    said = f"TRL {version('trl')}" + (f", Liger {version('liger_kernel')}" if liger else ", no Liger")
    return {"step_s": middle, "tokens_per_s": tokens / middle, "peak_gb": peak, "remark": said}


def peers(given: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    """Peers that run here, and why the others do not."""
    runs, absent = [], {}
    for name in [name for name in given.peers.split(",") if name]:
        if importlib.util.find_spec(PEERS[name]) is None:
            absent[name] = f"untested: no module {PEERS[name]} in this environment"
        elif name in ("hf", "liger", "trl"):
            runs.append(name)
        else:
            absent[name] = "untested: this script has no side for it yet"
    return runs, absent


def peer_case(
    name: str, model: nn.Module, batch: Sequence[Row], given: argparse.Namespace, **how: Any
) -> dict[str, Any]:
    """A peer's numbers, or its error (out of memory is a result)."""
    try:
        model.set_attn_implementation("sdpa")
        if name == "trl":
            return trl_case(model, batch, given, **how)
        if name == "liger":
            from liger_kernel.transformers import apply_liger_kernel_to_llama

            apply_liger_kernel_to_llama(model=causal_model(model))
        step = trainer_step(model, batch, **how)
        return timed(step, given, sum(row.num_tokens for row in batch))
    except torch.cuda.OutOfMemoryError:
        return {"error": "out of memory"}
    except Exception as error:  # noqa: BLE001 - a peer that does not run here is a line of the table, not its end
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"}
