"""Evaluation while a model trains: scores and sample replies at a step, with the model put back exactly as it was.

Left out: when to evaluate, and early stopping (the loop's). No logits outlive a task.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from bottega.core import devices
from bottega.core.types import Attached, Turn
from bottega.data.chat import Template
from bottega.evals.engine import Engine
from bottega.evals.runner import evaluate
from bottega.evals.tasks import Task, load_task


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside, afterwards modes, random states, active adapters and trainable flags are what they
    were."""
    modes = {module: module.training for module in model.modules()}
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    adapters = getattr(model, "active_adapters", None)
    states = (random.getstate(), np.random.get_state(), devices.random_state())
    try:
        yield
    finally:
        if isinstance(adapters, list) and getattr(model, "active_adapters", None) != adapters:
            model.base_model.set_adapter(adapters)  # type: ignore[union-attr, operator]
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        for module, mode in modes.items():
            module.training = mode
        random.setstate(states[0])
        np.random.set_state(states[1])
        devices.set_random_state(states[2])


def make_hook(
    attached: Attached,
    tokenizer: Any,
    tasks: Sequence[Task | str | Path],
    *,
    seed: int = 0,
    limit: int | None = 100,
    template: Template | None = None,
) -> Callable[[int], Mapping[str, float]]:
    """A function step -> {task: score} for the loop's `validate`; the items are the same at every step."""
    loaded = [task if isinstance(task, Task) else load_task(task) for task in tasks]

    def hook(step: int) -> Mapping[str, float]:
        with undisturbed(attached.model):
            card = evaluate(attached, tokenizer, loaded, seed=seed, limit=limit, template=template)
        return {score.task: score.value for score in card.scores}

    return hook


def make_samples(
    attached: Attached,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_tokens: int = 64,
    template: Template | None = None,
) -> Callable[[int], list[dict[str, Any]]]:
    """A function step -> rows {step, prompt, reply}, greedy, in chat where the tokenizer or `template` has one."""
    engine = Engine(attached.model, tokenizer, template=template, inputs=attached.inputs)
    chat = template is not None or bool(getattr(tokenizer, "chat_template", None))

    def hook(step: int) -> list[dict[str, Any]]:
        ids = [engine.chat([Turn(role="user", content=p)]) if chat else engine.plain(p) for p in prompts]
        with undisturbed(attached.model):
            replies = engine.replies(ids, max_tokens=max_tokens, stop=(), chat=chat)
        return [{"step": step, "prompt": p, "reply": r.text} for p, r in zip(prompts, replies)]

    return hook
