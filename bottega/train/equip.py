"""The optimizer over what a method trains: built after sharding, and again when the set of what learns changes; and what it cannot be.

Left out: update rules (rules.py) and everything that does not depend on the method, the device or the processes (settings.conflicts).
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import torch
from torch import nn

from bottega.core.errors import UserError
from bottega.core.types import Attached, Spec
from bottega.models.heads import causal_model
from bottega.models.methods.groups import make_groups
from bottega.models.score import Scorer
from bottega.models.stream import is_absent, is_streamed
from bottega.train import offload, optim, parallel
from bottega.train.parts import Parts
from bottega.train.rules import Hyper
from bottega.train.settings import LoopSettings, conflicts


def refuse(
    attached: Attached, spec: Spec, settings: LoopSettings, *, packed: bool, world: parallel.World, strategy: str
) -> None:
    """Combinations that a method, a device or this loop cannot do, each with the reason.

    Raises:
        UserError: the first one found.
    """
    sharded = world.size > 1 and strategy == "fsdp"
    if sharded and not attached.shards:
        raise UserError(f"method {attached.name} cannot be sharded: use ddp")
    if attached.inputs is not None and not packed:
        raise UserError(
            f"method {attached.name} puts positions before every sequence, which needs packed rows: use method lora"
        )
    given = {spec.name: getattr(settings, spec.name) for spec in fields(settings)}
    for name, kind in get_type_hints(LoopSettings).items():
        if get_origin(kind) is Literal and given[name] not in get_args(kind):
            raise UserError(f"{name} {given[name]!r} is not known: use one of {', '.join(get_args(kind))}")
    for _, reason in conflicts(given):
        raise UserError(reason)
    if settings.stream or is_streamed(attached.model):
        _refuse_streamed(attached, settings, world)
    parameters = list(attached.model.parameters())
    if settings.precision == "bf16-true" and not any(p.dtype == torch.bfloat16 for p in parameters):
        raise UserError(
            f"precision bf16-true trains a model loaded in bfloat16, and this one is {parameters[0].dtype}: load it with dtype bfloat16"
        )
    for key in ("optimizer_states", "saved_activations"):
        if getattr(settings, key) == "host" and parameters[0].device.type == "cpu":
            raise UserError(
                f"{key}: host is memory beside a GPU, and the model lies in host memory already: write file or device"
            )
        if getattr(settings, key) != "device" and sharded:
            raise UserError(f"{key}: {getattr(settings, key)} does not know shards yet: write device, or use ddp")
    if sharded and settings.optimizer in optim.WHOLE:
        raise UserError(
            f"optimizer {settings.optimizer} looks at whole tensors, not at shards: use ddp, or write adamw"
        )
    if settings.optimizer == "schedule_free" and attached.before_step is not None:
        raise UserError(
            f"optimizer schedule_free averages weights that learn all the time, and those of {attached.name} take turns: write adamw"
        )
    if settings.step_in_backward:
        _refuse_in_backward(attached, spec, world)


def _refuse_streamed(attached: Attached, settings: LoopSettings, world: parallel.World) -> None:
    if settings.stream != is_streamed(attached.model):
        raise UserError(f"stream is {settings.stream}, but the model was loaded otherwise: load it with the same")
    learning = [name for name, p in attached.model.named_parameters() if p.requires_grad and is_absent(p)]
    if learning:
        raise UserError(
            f"method {attached.name} trains {len(learning)} tensors that stream leaves on disk ({learning[0]} ...): use "
            f"lora, qlora or prefix"
        )
    if world.size > 1:
        raise UserError(f"stream works in one process, not in {world.size}: leave stream out, or start one")


def _refuse_in_backward(attached: Attached, spec: Spec, world: parallel.World) -> None:
    reason = ""
    if world.size > 1:
        reason = "gradients of several processes are summed after it"
    elif spec.coupled:
        reason = "the objective goes through the batch twice"
    elif attached.penalty is not None:
        reason = f"the penalty of {attached.name} joins the gradient after it"
    if reason:
        raise UserError(f"step_in_backward steps inside the backward pass, but {reason}: write step_in_backward: false")


def make_optimizer(attached: Attached, scorer: Scorer, settings: LoopSettings, scratch: Path | None) -> optim.Optimizer:
    """The optimizer over the method's groups and the Scorer's own heads.

    Raises:
        UserError: the method leaves nothing to train.
    """
    named = dict(scorer.named_parameters())  # sharding has put other objects in the places of those the method named
    groups = []
    for group in attached.groups:
        members = [named[name] if name in named else named[f"model.{name}"] for name in group["names"]]
        groups.append({**group, "params": [p for p in members if p.requires_grad]})
    for head in (scorer.value, scorer.reward):
        if head is not None:
            groups += make_groups(head.named_parameters())
    if not groups:
        raise UserError(f"method {attached.name} leaves nothing to train: check its targets")
    return optim.make(
        settings.optimizer,
        groups,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        hyper=Hyper(beta1=settings.beta1, beta2=settings.beta2, eps=settings.eps, momentum=settings.momentum),
        hidden=hidden_matrices(attached, scorer),
        store=offload.make_store(settings.optimizer_states, scratch),
        in_backward=settings.step_in_backward,
    )


def hidden_matrices(attached: Attached, scorer: Scorer) -> set[int]:
    """ids of the matrices between the embeddings and the heads; adapters' matrices count, those on embeddings do not."""
    outside = {id(m.weight) for m in scorer.modules() if isinstance(m, nn.Embedding)}
    head = causal_model(attached.model).get_output_embeddings()
    for module in (head, scorer.value):
        outside |= {id(p) for p in module.parameters()} if module is not None else set()
    return {
        id(p)
        for name, p in scorer.named_parameters()
        if p.ndim == 2 and id(p) not in outside and "lora_embedding" not in name
    }


def rebuild(parts: Parts, settings: LoopSettings, scratch: Path | None) -> None:
    """After the set of trainable parameters changed (LISA): a new optimizer that keeps the states of those that stay, and a
    new process wrapper, for DDP reduces only what was trainable when it was made."""
    kept = dict(parts.optimizer.state)
    parts.optimizer.close()
    parts.optimizer = make_optimizer(parts.attached, parts.scorer, settings, scratch)
    for group in parts.optimizer.param_groups:
        for parameter in group["params"]:
            if parameter in kept:
                parts.optimizer.state[parameter] = kept[parameter]
    if isinstance(parts.wrapped, nn.parallel.DistributedDataParallel):
        parts.wrapped = parallel.wrap(parts.scorer, parts.world, "ddp")
