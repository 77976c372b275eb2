"""What is wrong with a recipe, found before torch is imported; every mistake is one line with its file:line:column.

Left out: types and unknown keys of the dataclasses (core/config.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from bottega.core import devices, table
from bottega.core.config import Marks, closest, convert
from bottega.core.errors import UserError
from bottega.core.strictyaml import Path as Keys
from bottega.data.chat import Template, starting
from bottega.data.remote import check as check_remote
from bottega.data.remote import holds_password, is_remote, masked
from bottega.models.methods import METHODS, method
from bottega.models.shape import shape
from bottega.train import trackers
from bottega.train.objectives import OBJECTIVES
from bottega.train.schedule import SCHEDULES
from bottega.train.settings import OF_OPTIMIZER, LoopSettings, conflicts
from bottega.workshop import cleaning, recipe_file, recipe_mixtures, recipe_online, recipe_order
from bottega.workshop.recipe_choice import Choice
from bottega.workshop.recipe_limits import outside
from bottega.workshop.recipe_parts import ADAPTERS, MERGING, STREAMING, Part, Recipe, Stage

NAME_LETTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
TAUGHT = ("distil", "gkd")
LABELS = ("classification", "multilabel", "regression", "tagging")
OBJECTIVES_HERE = tuple(OBJECTIVES)
BOUNDS: dict[str, tuple[float, float | None]] = {
    "micro_tokens": (1, None),
    "memory_gb": (0, None),
    "decay": (0, 1),
    "floor": (0, 1),
    "weight_decay": (0, None),
    "beta1": (0, 1),
    "beta2": (0, 1),
    "eps": (0, None),
    "momentum": (0, 1),
    "recompute_every": (1, None),
    "loss_scale": (1, None),
    "clip": (0, None),
    "keep": (1, None),
    "self_check": (0, None),
    "max_skips": (0, None),
}
STAGE_SETS = (
    "steps",
    "lr",
    "warmup",
    "eval_every",
    "save_every",
    "early_stop",
    "early_stop_mode",
    "patience",
)
LOOP = {f.name: f.default for f in dataclasses.fields(LoopSettings) if f.name not in STAGE_SETS}
"""Settings that a stage hands to the loop as they are, with their defaults; the others have fields of their own."""


def check_loop(given: dict[str, Any], marks: Marks, place: Keys) -> list[str]:
    """Types, bounds and names of the settings that go to the loop as they are."""
    hints = get_type_hints(LoopSettings)
    choices = {
        "schedule": list(SCHEDULES),
        "optimizer": table.keys("bottega.train.optim:OPTIMIZERS"),
    }
    mistakes = []
    for key, value in given.items():
        converted, wrong = convert(hints[key], value, marks=marks, path=(*place, key))
        mistakes += wrong
        if wrong:
            continue
        given[key] = converted
        at = marks.at((*place, key))
        low, high = BOUNDS.get(key, (None, None))
        if isinstance(converted, str):
            low = high = None  # a word in a number's place, such as auto
        if low is not None and converted < low or high is not None and converted > high:
            mistakes.append(
                f"{at}: {key} is {converted}, but must be " + (f"{low} to {high}" if high else f"at least {low}")
            )
        if key in choices and converted not in choices[key]:
            mistakes.append(f"{at}: there is no {key} {converted!r}{closest(converted, choices[key])}")
    if not mistakes:
        whole = {**LOOP, **OF_OPTIMIZER.get(given.get("optimizer", ""), {}), **given}
        mistakes += [f"{marks.at((*place, key))}: {reason}" for key, reason in conflicts(whole)]
    return mistakes


def check(recipe: Recipe, marks: Marks) -> list[str]:
    """Mistakes that only the whole recipe shows."""
    mistakes = []
    if not recipe.stages:
        mistakes.append(f"{marks.at(('stages',))}: there is no stage; write at least one")
    for label, path in ((recipe.name, ("name",)), *((s.name, ("stages", i)) for i, s in enumerate(recipe.stages))):
        if not label or set(label) - NAME_LETTERS or label.startswith("."):
            mistakes.append(
                f"{marks.at(path)}: the name {label!r} names a folder: letters, digits, - _ . and no dot in front"
            )
    mistakes += _check_start(recipe, marks)
    for i, stage in enumerate(recipe.stages):
        if stage.objective.name not in OBJECTIVES or stage.method.name not in METHODS:
            continue  # check_choices has said so, and nothing else about the stage can be known
        mistakes += _check_stage(stage, marks, ("stages", i))
        mistakes += _check_then(stage, recipe_order.followers(recipe, i), marks, ("stages", i))
        mistakes += _check_text(stage, marks, ("stages", i))
        mistakes += _check_clean(stage, marks, ("stages", i))
        mistakes += recipe_mixtures.check(stage, marks, ("stages", i))
        mistakes += recipe_online.check(stage, marks, ("stages", i))
    mistakes += recipe_order.check(recipe, marks)
    try:
        devices.check(recipe.device)
    except UserError as error:
        mistakes.append(f"{marks.at(('device',))}: {error}")
    try:
        trackers.check(recipe.track)
    except UserError as error:
        mistakes.append(f"{marks.at(('track',))}: {error}")
    for i, task in enumerate(recipe.evaluate.tasks if recipe.evaluate else ()):
        if task.endswith((".yaml", ".yml")) and not Path(task).is_file():
            mistakes.append(f"{marks.at(('evaluate', 'tasks', i))}: there is no task file {recipe_file.short(task)}")
    return mistakes


def _check_start(recipe: Recipe, marks: Marks) -> list[str]:
    """Mistakes in what the recipe starts from."""
    if recipe.init is None:
        missing = f"{marks.at(())}: the key 'model' is missing (a Hub id, a folder or garzone), or `init` to start from nothing"
        return [] if recipe.model else [missing]
    place, mistakes = marks.at(("init",)), []
    if recipe.model:
        mistakes.append(
            f"{place}: init starts from random weights, and model from those of {recipe.model}: give one of them"
        )
    try:
        shape(recipe.init.preset, recipe.init.config)
    except UserError as error:
        mistakes.append(f"{place}: {error}")
    if "vocab_size" in recipe.init.config:
        mistakes.append(f"{place}: vocab_size comes from the tokenizer: write tokenizer: {{vocab: ...}}")
    if recipe.stages and recipe.stages[0].method.name != "full":
        mistakes.append(f"{place}: random weights need method: full, not {recipe.stages[0].method.name}")
    return mistakes


def _check_stage(stage: Stage, marks: Marks, place: Keys) -> list[str]:
    mistakes = []

    def fail(key: str, message: str) -> None:
        mistakes.append(f"{marks.at((*place, key))}: {message}")

    if not stage.data:
        fail("data", f"the stage {stage.name} has no data")
    for key, parts in (("data", stage.data), ("validation", stage.validation.data if stage.validation else ())):
        for part in parts:
            if is_remote(part.path):
                for said in _check_remote(part):
                    fail(key, said)
            elif part.query is not None or part.password is not None:
                fail(
                    key,
                    f"query and password are for a database, and {recipe_file.short(part.path)} is none; leave them out",
                )
            elif not Path(part.path).exists():
                fail(key, f"there is no file or folder {recipe_file.short(part.path)}")
    if stage.validation and any(part.weight is not None or part.epochs is not None for part in stage.validation.data):
        fail("validation", "weight and epochs mix training rows; validation rows are all used: leave them out")
    pins = stage.loop.get("pin", ())
    if pins and (min(pins) < 1 or (stage.steps is not None and max(pins) > stage.steps)):
        fail(
            "pin", f"pin {list(pins)} names steps that are not taken; write steps from 1 to {stage.steps or 'the last'}"
        )
    if stage.steps is not None and stage.epochs is not None:
        fail("epochs", "steps and epochs say the same twice; give one of them")
    for key in ("eval_every", "early_stop"):
        if getattr(stage, key) is not None and stage.validation is None:
            fail(key, f"{key} needs rows to evaluate on: add `validation: 0.1` or a file")
    if stage.parallel == "fsdp" and stage.samples is not None:
        fail(
            "samples", "no process holds the whole model under parallel: fsdp; leave samples out, or use parallel: ddp"
        )
    if stage.parallel == "fsdp" and stage.loop.get("compile"):
        fail("compile", "compile: true with parallel: fsdp is not built; use one of them")
    mistakes += [f"{marks.at((*place, key))}: {message}" for key, message in _check_answers(stage)]
    mistakes += [f"{marks.at((*place, key))}: {message}" for key, message in _check_labels(stage)]
    return mistakes


def _check_then(stage: Stage, following: Sequence[Stage], marks: Marks, place: Keys) -> list[str]:
    """Mistakes in what a stage passes on to those that start from its result."""
    mistakes = []

    def fail(key: str, message: str) -> None:
        mistakes.append(f"{marks.at((*place, key))}: {message}")

    if stage.loop.get("stream"):
        mistakes += [f"{marks.at((*place, key))}: {message}" for key, message in _check_stream(stage, bool(following))]
    if stage.then in ("continue", "stack") and stage.method.name not in ADAPTERS:
        fail("then", f"`then: {stage.then}` passes an adapter on, and {stage.method.name} has none; write merge")
    if following and stage.then in (None, "merge", "stack") and stage.method.name in ADAPTERS:
        if stage.method.name not in MERGING:
            name = stage.method.name
            fail(
                "then",
                f"{name} cannot be merged, which {following[0].name} needs; write then: continue, or make it the last",
            )
    if stage.then == "merge" and not following and stage.method.name in ADAPTERS and stage.method.name not in MERGING:
        fail("then", f"{stage.method.name} cannot be merged into the weights; leave `then` out to keep the adapter")
    other = next((one for one in following if one.method != stage.method), None)
    if stage.then == "continue" and other is not None:
        fail("then", f"`then: continue` needs the same method in the stage {other.name}; write merge")
    return mistakes


def _check_remote(part: Part) -> list[str]:
    """Mistakes in a remote source that show without opening it."""
    if holds_password(part.path):
        return [
            f"{masked(part.path)} holds a password; take it out and write `password: ${{env:NAME}}` beside the path"
        ]
    try:
        check_remote(part.source)
    except UserError as error:
        return [str(error)]
    return []


def _check_clean(stage: Stage, marks: Marks, place: Keys) -> list[str]:
    """Mistakes in the cleaning steps of a stage and of its sources."""
    mistakes = [f"{marks.at((*place, 'clean'))}: {said}" for said in cleaning.check(stage.clean)]
    for key, parts in (("data", stage.data), ("validation", stage.validation.data if stage.validation else ())):
        for part in parts:
            mistakes += [f"{marks.at((*place, key))}: {said}" for said in cleaning.check(part.clean)]
    return mistakes


def _check_text(stage: Stage, marks: Marks, place: Keys) -> list[str]:
    """Mistakes in how samples become tokens: the mask, the template, blocks."""
    mistakes = []

    def fail(key: str, message: str) -> None:
        mistakes.append(f"{marks.at((*place, key))}: {message}")

    try:
        starting(stage.mask)
        if OBJECTIVES[stage.objective.name].data == "preference" and stage.mask not in ("assistant", "last"):
            fail("mask", f"the mask {stage.mask} would train the prompt of preferences; write assistant or last")
    except UserError as error:
        fail("mask", str(error))
    name = stage.template
    try:
        if name is not None and Path(name).is_file():
            Template.from_file(name)
        elif name not in (None, "tokenizer"):
            Template.named(name)
    except UserError as error:
        fail("template", str(error))
    if stage.blocks and stage.objective.name != "pretrain":
        fail("blocks", f"blocks: true is for pretrain, not {stage.objective.name}; leave it out")
    return mistakes


def _check_answers(stage: Stage) -> list[tuple[str, str]]:
    """What a stage that learns from preferences or from a teacher cannot do: (key, reason)."""
    kind, wrong = OBJECTIVES[stage.objective.name].data, []
    taught = stage.objective.name in TAUGHT
    if (stage.teacher is None) == taught:
        told = (
            f"{stage.objective.name} has no teacher; leave it out"
            if stage.teacher
            else f"{stage.objective.name} needs a teacher: name a model"
        )
        wrong.append(("teacher", told))
    if taught and (stage.parallel == "fsdp" or stage.loop.get("stream")):
        wrong.append(("teacher", "a teacher is held whole in each process; use parallel: ddp, and no stream"))
    if kind in ("preference", "unpaired") and stage.over_length == "split":
        wrong.append(("over_length", "pairs cannot be split into windows; write drop or truncate"))
    if kind == "unpaired" and stage.shards:
        wrong.append(("shards", "each answer is read beside another row's, in memory; leave shards out"))
    return wrong


def _check_labels(stage: Stage) -> list[tuple[str, str]]:
    """What a stage for labels or vectors cannot do: (key, reason)."""
    name, wrong = stage.objective.name, []
    if stage.false_positives is not None and name not in ("classification", "multilabel"):
        wrong.append(("false_positives", f"{name} has no threshold to choose; leave false_positives out"))
    elif stage.false_positives is not None and stage.validation is None:
        wrong.append(("false_positives", "the threshold is chosen on rows kept out: add `validation: 0.1` or a file"))
    if name not in (*LABELS, "contrastive"):
        return wrong
    if stage.over_length == "split":
        wrong.append(("over_length", "a text with a label cannot be split into windows; write drop or truncate"))
    if stage.method.name not in ("full", "lora"):
        wrong.append(
            ("method", f"{name} trains a head of its own, which {stage.method.name} does not; use lora or full")
        )
    if stage.samples is not None:
        wrong.append(("samples", f"{name} gives labels or vectors, not replies; leave samples out"))
    if stage.parallel == "fsdp":
        wrong.append(("parallel", f"{name} is measured with whole models; use parallel: ddp"))
    if stage.shards:
        wrong.append(("shards", "rows with labels are held in memory; leave shards out"))
    return wrong


def _check_stream(stage: Stage, following: bool) -> list[tuple[str, str]]:
    """What a streamed stage cannot do: (key, reason)."""
    name, options, wrong = stage.method.name, stage.method.options, []
    if name not in STREAMING:
        wrong.append(("stream", f"stream leaves the base on disk, and {name} trains it; use {', '.join(STREAMING)}"))
    if options.get("dora") or options.get("init") in ("pissa", "olora"):
        what = "dora" if options.get("dora") else f"init {options['init']}"
        wrong.append(("stream", f"{what} reads or changes the base's matrices, which stream leaves on disk; drop one"))
    if stage.then in ("merge", "stack") or (following and stage.then is None):
        wrong.append(
            ("then", "a streamed stage keeps its adapter: merging holds the whole model; write then: continue")
        )
    return wrong


def check_choices(stage: Mapping[str, Any], marks: Marks, place: Keys) -> list[str]:
    """Mistakes in a stage's objective and method, options and their ranges included."""
    functions = {name: OBJECTIVES[name].function for name in OBJECTIVES_HERE}
    mistakes = []
    for key, entries in (("objective", functions), ("method", METHODS)):
        choice, wrong = convert(Choice, stage[key]) if key in stage else (None, ["absent"])
        if wrong or choice is None:  # `build` says what
            continue
        found = _check_choice(choice, entries, key, marks, (*place, key))
        if key == "method" and not found:
            try:
                method(choice.name, **choice.options)
            except UserError as error:
                found = [f"{marks.at((*place, key))}: {error}"]
        mistakes += found
    return mistakes


def _check_choice(choice: Choice, entries: Mapping[str, str], kind: str, marks: Marks, path: Keys) -> list[str]:
    """Mistakes in the name and the options of an objective or method, found without importing it."""
    place = marks.at(path)
    if choice.name not in entries:
        return [f"{place}: there is no {kind} {choice.name!r}{closest(choice.name, entries)}"]
    known = table.options(entries[choice.name])
    mistakes = []
    for name, value in choice.options.items():
        if name not in known:
            mistakes.append(
                f"{marks.at_key((*path, name))}: {choice.name} has no option {name!r}{closest(name, known)}"
            )
        else:
            made, wrong = convert(known[name].kind, value, marks=marks, path=(*path, name))
            said = "" if wrong else outside(choice.name, name, made)
            mistakes += [*wrong, *([f"{marks.at((*path, name))}: {said}"] if said else [])]
    missing = [o.name for o in known.values() if o.default is table.REQUIRED and o.name not in choice.options]
    return mistakes + [f"{place}: {choice.name} needs the option {name!r}" for name in missing]
