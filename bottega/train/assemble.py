"""One order of building, in one function: method attached, Scorer, checkpointing, processes, optimizer, then the loop.

Left out: loading the base (models/load.py) and reading recipes (workshop/build.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from bottega.core import devices
from bottega.core.types import Attached, Source, Spec
from bottega.models import kinds
from bottega.models.heads import causal_model
from bottega.models.place import place_of
from bottega.models.score import Scorer
from bottega.train import compiled, equip, offload, parallel, recompute
from bottega.train.parts import Parts
from bottega.train.precision import LossScale
from bottega.train.settings import LoopSettings, usual_precision

LOOK_AHEAD = 8
"""Steps whose rows show whether all have one length."""


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
    scratch: Path | None = None,
) -> Parts:
    """Everything the loop needs, built in the one right order.

    Args:
        packed: what the numeric probe at load said; a method that cannot pack wins over it.
        save_model: writes a checkpoint's model folder; the method's own `save` when None.
        world, strategy: the processes, and how they share the work: ddp (a replica each) or fsdp (sharded).
        reference: a frozen copy for objectives that score with the reference while training.
        scratch: the folder of nameless files for what the settings keep in files (default: the system's temporary one).

    Raises:
        UserError: a combination that the method or the architecture cannot do, with the reason.
    """
    world = world or parallel.World()
    settings = _settled(attached, settings)
    packed = packed and attached.packs
    equip.refuse(attached, spec, settings, packed=packed, world=world, strategy=strategy)
    _prepare(attached, spec, settings)
    compiles, why = _choose_compile(attached, source, settings)
    scorer = Scorer(
        attached,
        vocabulary=vocabulary,
        precision=settings.precision,
        compiled=compiles,
        value="value" in spec.needs,
        reference=reference,
        saving=offload.activations(settings.saved_activations, scratch, attached.model.parameters()),
    )
    parts = Parts(
        attached=attached,
        spec=spec,
        source=source,
        scorer=scorer,
        wrapped=parallel.wrap(scorer, world, strategy, precision=settings.precision),
        optimizer=None,  # type: ignore[arg-type]  # built below, over what wrapping left
        rebuild=lambda: None,
        world=world,
        packed=packed,
        pad_id=pad_id,
        save_model=save_model or attached.save,
        loss_scale=LossScale(value=settings.loss_scale) if settings.precision == "fp16" else None,
        notes=[why],
    )
    parts.optimizer = equip.make_optimizer(attached, scorer, settings, scratch)
    parts.rebuild = lambda: equip.rebuild(parts, settings, scratch)
    return parts


def _settled(attached: Attached, settings: LoopSettings) -> LoopSettings:
    """The settings with `precision: usual` as what it is for a model that lies where and as it does."""
    if settings.precision != "usual":
        return settings
    place, half = place_of(attached.model), any(p.dtype == torch.bfloat16 for p in attached.model.parameters())
    chosen = usual_precision(
        place.type, half=devices.has_bf16(str(place)), frozen=half, in_backward=settings.step_in_backward
    )
    return dataclasses.replace(settings, precision=cast(Any, chosen))


def _choose_compile(attached: Attached, source: Source, settings: LoopSettings) -> tuple[bool, str]:
    """Whether to compile, judged by the first batches: their lengths, and how much work the run is."""
    if settings.stream:
        return False, "compile: off, the layers' weights come and go"
    seen = [row for rows in source.ahead(min(settings.steps, LOOK_AHEAD)) for row in rows]
    tokens = sum(row.num_tokens for row in seen) / max(1, min(settings.steps, LOOK_AHEAD)) * settings.steps
    parameters = list(attached.model.parameters())
    return compiled.decide(
        settings.compile,
        device=parameters[0].device.type,
        precision=settings.precision,
        grid=len({row.num_tokens for row in seen}) == 1 and all(len(row.branches) == 1 for row in seen),
        flops=6.0 * sum(p.numel() for p in parameters) * tokens,
    )


def _prepare(attached: Attached, spec: Spec, settings: LoopSettings) -> None:
    if not {"nll", "logp", "entropy"} & set(spec.needs):
        _rest_head(attached)
    if settings.checkpointing:
        recompute.enable(causal_model(attached.model), settings)


def _rest_head(attached: Attached) -> None:
    """An objective that reads no logits leaves an untied head out of the training: the loss would not reach it."""
    model = causal_model(attached.model)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is not embeddings.weight:
        head.requires_grad_(False)
    for name in kinds.unread(model):
        model.get_submodule(name).requires_grad_(False)
