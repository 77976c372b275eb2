"""One order of building, in one function: method attached, Scorer, checkpointing, processes, optimizer, then the loop.

Left out: loading the base (models/load.py) and reading recipes (workshop/build.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from bottega.core.errors import UserError
from bottega.core.types import Attached, Source, Spec
from bottega.models.heads import causal_model
from bottega.models.methods.groups import make_groups
from bottega.models.score import Scorer
from bottega.train import optim, parallel
from bottega.train.parts import Parts
from bottega.train.settings import LoopSettings


def assemble(
    attached: Attached,
    spec: Spec,
    source: Source,
    settings: LoopSettings,
    *,
    vocabulary: int,
    pad_id: int,
    packed: bool,
    save_model: Callable[[str], None] | None = None,
    world: parallel.World | None = None,
    strategy: str = "ddp",
    reference: nn.Module | None = None,
) -> Parts:
    """Everything the loop needs, built in the one right order.

    Args:
        packed: what the numeric probe at load said; a method that cannot pack wins over it.
        save_model: writes a checkpoint's model folder; the method's own `save` when None.
        world, strategy: the processes, and how they share the work: ddp (a replica each) or fsdp (sharded; the caller saves).
        reference: a frozen copy for objectives that score with the reference while training.

    Raises:
        UserError: a combination that the method or the architecture cannot do, with the reason.
    """
    world = world or parallel.World()
    packed = packed and attached.packs
    _refuse(attached, settings, packed, sharded=world.size > 1 and strategy == "fsdp")
    if not {"nll", "logp", "entropy"} & set(spec.needs):
        _rest_head(attached)
    if settings.checkpointing:
        _checkpoint(causal_model(attached.model))
    scorer = Scorer(
        attached,
        vocabulary=vocabulary,
        precision=settings.precision,
        compiled=settings.compile,
        value="value" in spec.needs,
        reference=reference,
    )
    parts = Parts(
        attached=attached,
        spec=spec,
        source=source,
        scorer=scorer,
        wrapped=parallel.wrap(scorer, world, strategy),
        optimizer=None,  # type: ignore[arg-type]  # built below, over what wrapping left
        rebuild=lambda: None,
        world=world,
        packed=packed,
        pad_id=pad_id,
        save_model=save_model or attached.save,
    )
    parts.optimizer = _optimizer(attached, scorer, settings)
    parts.rebuild = lambda: _rebuild(parts, settings)
    return parts


def _refuse(attached: Attached, settings: LoopSettings, packed: bool, *, sharded: bool) -> None:
    """Combinations that a method or this loop cannot do, each with the reason."""
    if sharded and not attached.shards:
        raise UserError(f"method {attached.name} cannot be sharded: use ddp")
    if attached.inputs is not None and not packed:
        raise UserError(
            f"method {attached.name} puts positions before every sequence, which needs packed rows: use method lora"
        )
    if settings.precision not in ("fp32", "bf16"):
        raise UserError(f"precision {settings.precision!r} is not known: use fp32 or bf16")


def _checkpoint(model: Any) -> None:
    """Keep only layer inputs in the forward pass and compute the rest again in the backward pass."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()


def _rest_head(attached: Attached) -> None:
    """An objective that reads no logits leaves an untied head out of the training: the loss would not reach it."""
    model = causal_model(attached.model)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is not embeddings.weight:
        head.requires_grad_(False)


def _optimizer(attached: Attached, scorer: Scorer, settings: LoopSettings):
    """The optimizer over the method's groups and the Scorer's own heads."""
    named = dict(scorer.named_parameters())  # sharding has put other objects in the places of those the method named
    groups = []
    for group in attached.groups:
        members = [named[name] if name in named else named[f"model.{name}"] for name in group["names"]]
        groups.append({**group, "params": [p for p in members if p.requires_grad]})
    if scorer.value is not None:
        groups += make_groups(scorer.value.named_parameters())
    if not groups:
        raise UserError(f"method {attached.name} leaves nothing to train: check its targets")
    return optim.make(
        settings.optimizer,
        groups,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        beta1=settings.beta1,
        beta2=settings.beta2,
        eps=settings.eps,
    )


def _rebuild(parts: Parts, settings: LoopSettings) -> None:
    """After the set of trainable parameters changed (LISA): a new optimizer that keeps the states of those that stay, and a
    new process wrapper, for DDP reduces only what was trainable when it was made."""
    kept = dict(parts.optimizer.state)
    parts.optimizer = _optimizer(parts.attached, parts.scorer, settings)
    for group in parts.optimizer.param_groups:
        for parameter in group["params"]:
            if parameter in kept:
                parts.optimizer.state[parameter] = kept[parameter]
    if isinstance(parts.wrapped, nn.parallel.DistributedDataParallel):
        parts.wrapped = parallel.wrap(parts.scorer, parts.world, "ddp")
