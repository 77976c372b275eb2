"""The loop's settings: a plain dataclass, so that a recipe can be checked before torch is imported.

Left out: what needs the model, the method or the device to be judged (assemble.py).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from bottega.core.errors import UserError

Place = Literal["device", "host", "file"]
MicroTokens = int | Literal["usual", "auto"]
OF_OPTIMIZER: dict[str, dict[str, Any]] = {"lion": {"beta2": 0.99}, "schedule_free": {"schedule": "constant"}}
"""Defaults that are other for an optimizer than for AdamW."""
LR_OF_OPTIMIZER = {"lion": 0.2}
"""Factor on a method's usual learning rate, where an optimizer's steps are of another size than AdamW's."""
CPU_TOKENS = 1024
"""Usual tokens of a micro-batch on a CPU: on one core (AMD EPYC, width 384, vocabulary 8192) as fast as 8192 and faster than 256
(9.1 to 9.9 CPU s against 9.8 to 10.5 and 11.1 to 11.9), with 812 MB against 1,054 (docs/LOG.md, 2026-11-25)."""
CUDA_TOKENS = 8192
"""Usual tokens of a micro-batch on a GPU, which small products leave idle; not measured yet."""
SCORE_TOKENS = 8192
"""Tokens where `micro_tokens: auto` has nothing to count by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopSettings:
    """What the loop itself reads, frozen for the run.

    steps: optimizer steps. micro_tokens: most tokens of a micro-batch, padding counted (usual: what
    suits the device, CPU_TOKENS or CUDA_TOKENS; auto: as many as fit). memory_gb: what this process may hold,
    checked on a CPU before a micro-batch is tried (0: what is free). lr: peak
    learning rate. schedule, warmup (steps), decay (share, for wsd), floor: see schedule.py. optimizer: a name of optim.OPTIMIZERS;
    beta1 (SGD's momentum too), beta2, eps, and momentum (Muon's) are its own. optimizer_states: where they live:
    device, host (memory beside a GPU) or file (a mapped file). step_in_backward: every parameter steps as soon as its
    gradient is complete, and the gradient is freed. clip: largest gradient norm (0: none). eval_every, save_every: in
    steps (0: only at the end). keep: newest checkpoints kept besides the best. pin: steps whose checkpoints are made and stay.
    early_stop: a metric of the evaluation
    ("" for none), which gets better by falling (early_stop_mode min) or rising (max); the run ends after `patience`
    evaluations without a new best. self_check: steps watched by guards.SelfCheck (0: none). on_nonfinite: what a loss
    or gradient that is not finite does: stop the run, skip the batch, or rollback (weights and optimizer go back to the
    last good checkpoint, the data goes on behind the batch). spikes: a loss above mean + 6 sigma of the last 128 steps
    is left out (skip), noted (warn) or not looked for (off). max_skips: batches that may be left out among 128 before
    the run ends.

    checkpointing: keep only the inputs of layers in the forward pass, compute the rest again in the backward pass; of
    every n-th layer (recompute_every), and except for what recompute_keep names: attention, or products (attention
    and matrix products). saved_activations: where what the forward pass saves waits for the backward pass. precision:
    usual (what suits the device and the method: `usual_precision`); fp32; bf16 (matrix products in bfloat16, weights in
    float32); bf16-true (weights and products in bfloat16, the optimizer moves a float32 copy); fp16 (products in float16,
    the loss scaled by loss_scale at first). compile: compile the trunk: true, false, or auto (where it pays: compiled.py).
    stream: the base's frozen layers stay on disk and visit memory one at a time (models/stream.py).
    """

    steps: int
    micro_tokens: MicroTokens = "usual"
    memory_gb: float = 0.0
    lr: float = 1e-3
    schedule: str = "cosine"
    warmup: int = 0
    decay: float = 0.2
    floor: float = 0.0
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    momentum: float = 0.95
    optimizer_states: Place = "device"
    step_in_backward: bool = False
    clip: float = 1.0
    eval_every: int = 0
    save_every: int = 0
    keep: int = 2
    pin: tuple[int, ...] = ()
    early_stop: str = ""
    early_stop_mode: str = "min"
    patience: int = 3
    self_check: int = 5
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    spikes: Literal["skip", "warn", "off"] = "skip"
    max_skips: int = 10
    checkpointing: bool = False
    recompute_every: int = 1
    recompute_keep: Literal["none", "attention", "products"] = "none"
    saved_activations: Place = "device"
    precision: Literal["usual", "fp32", "bf16", "bf16-true", "fp16"] = "usual"
    loss_scale: float = 65536.0
    compile: bool | Literal["auto"] = "auto"
    stream: bool = False

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{spec.name} is {value}, but needs a finite number")

    @property
    def fills_memory(self) -> bool:
        """Whether the run may hold what it once took; not one that was set up to leave memory free."""
        return not self.stream and self.saved_activations == self.optimizer_states == "device"


def most_tokens(micro_tokens: MicroTokens, device: str) -> int:
    """The setting as a number on a device of this kind (cpu or cuda); for `auto`, what it begins with."""
    if micro_tokens == "usual":
        return CPU_TOKENS if device == "cpu" else CUDA_TOKENS
    return SCORE_TOKENS if micro_tokens == "auto" else micro_tokens


def usual_precision(device: str, *, half: bool, frozen: bool, in_backward: bool = False) -> str:
    """What `precision: usual` is on a device of this kind.

    A CPU computes in fp32. A GPU with bfloat16 (`half`) holds a frozen base in it (bf16-true; adapters stay float32), and
    weights that learn in float32 with products in bfloat16 (bf16). One without (T4, V100) multiplies in fp16 with a scaled loss,
    which does not go with steps in the backward pass.
    """
    if device == "cpu":
        return "fp32"
    if half:
        return "bf16-true" if frozen else "bf16"
    return "fp32" if in_backward else "fp16"


def conflicts(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, sentence) for every setting that another one excludes; `given` holds all settings by name."""
    found = []
    if given["step_in_backward"] and given["clip"] > 0:
        reason = "the norm of the whole gradient is known only when the backward pass has ended"
        found.append(("clip", f"clip {given['clip']:g} does not go with step_in_backward, for {reason}: write clip: 0"))
    if given["step_in_backward"] and given["precision"] == "fp16":
        reason = "whether fp16 overflowed is known only when the backward pass has ended"
        found.append(("precision", f"fp16 does not go with step_in_backward, for {reason}: write bf16"))
    for key, harmless in (("on_nonfinite", "stop"), ("spikes", "warn")):
        if given["step_in_backward"] and given[key] in ("skip", "rollback"):
            reason = "the weights have moved before the step can be judged"
            found.append((key, f"{key} {given[key]} does not go with step_in_backward, for {reason}: write {harmless}"))
    if given["optimizer"] == "schedule_free" and given["schedule"] != "constant":
        reason = "its average takes the schedule's place"
        found.append(("schedule", f"optimizer schedule_free takes no schedule, for {reason}: write schedule: constant"))
    if given["optimizer"] == "schedule_free" and not given["beta1"]:
        found.append(("beta1", "optimizer schedule_free averages with beta1, which must be above 0: write beta1: 0.9"))
    if given["optimizer"] == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        remedy = "pip install 'bottega[quant]', or write adamw"
        found.append(("optimizer", f"optimizer adamw8bit needs bitsandbytes, which is not installed: {remedy}"))
    for key in ("recompute_every", "recompute_keep"):
        if given[key] not in (1, "none") and not given["checkpointing"]:
            found.append(
                (key, f"{key} says what checkpointing computes again, and it is off: write checkpointing: true")
            )
    if given["stream"] and given["checkpointing"]:
        found.append(
            ("checkpointing", "stream computes each layer again in the backward pass already: leave checkpointing out")
        )
    if given["stream"] and given["compile"] is True:
        found.append(("compile", "a streamed model cannot be compiled, for its weights come and go: leave compile out"))
    return found
