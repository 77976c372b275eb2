"""A recipe: what `bottega run` reads, as frozen dataclasses; every mistake is found before torch is imported.

Left out: reading the file, `base:`, overrides (recipe_file.py); mixtures by temperature, curricula, search spaces,
audits, which come with the rooms that read them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from bottega.core import table
from bottega.core.config import Marks, Secret, build, closest, convert, option, plain
from bottega.core.errors import UserError
from bottega.core.strictyaml import Path as Keys
from bottega.models.methods import METHODS, method
from bottega.train.objectives import OBJECTIVES
from bottega.train.schedule import SCHEDULES
from bottega.train.settings import LoopSettings
from bottega.workshop import recipe_file

NAME_LETTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
OBJECTIVES_HERE = ("pretrain", "sft", "dpo")
"""Objectives that learn from files; the others need a source of their own (rollouts, pairs of texts)."""
LR = {"full": 2e-5, "lisa": 2e-5, "lora": 2e-4, "prefix": 1e-2}
PREFERENCE_LR = 0.1
"""Usual peak learning rates by method, and the factor on them for preference objectives."""
BOUNDS: dict[str, tuple[float, float | None]] = {
    "micro_tokens": (1, None),
    "decay": (0, 1),
    "floor": (0, 1),
    "weight_decay": (0, None),
    "beta1": (0, 1),
    "beta2": (0, 1),
    "eps": (0, None),
    "clip": (0, None),
    "keep": (1, None),
    "self_check": (0, None),
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
    "parallel",
)
LOOP = {f.name: f.default for f in dataclasses.fields(LoopSettings) if f.name not in STAGE_SETS}
"""Settings that a stage hands to the loop as they are, with their defaults; the others have fields of their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """An entry of a table and its options: `dpo`, or `{name: dpo, beta: 0.1}`."""

    name: str
    options: dict[str, Any] = option(factory=dict)

    @staticmethod
    def shorthand(value: Any) -> Any:
        """`dpo` -> {name: dpo}; {name: dpo, beta: 0.1} -> {name: dpo, options: {beta: 0.1}}."""
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and "options" not in value:
            rest = {key: item for key, item in value.items() if key != "name"}
            return {**({"name": value["name"]} if "name" in value else {}), "options": rest}
        return value


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One source of rows: a file or a folder, its share in the mixture, and how to read it."""

    path: str = option(help="a file or a folder")
    weight: float | None = option(None, "share of the rows drawn from this source", above=0)
    format: str | None = option(None, "the format's name; default: found by looking")
    columns: dict[str, str] | None = option(None, "which column plays which part, for plain tables")

    @staticmethod
    def shorthand(value: Any) -> Any:
        """`chats.jsonl` -> {path: chats.jsonl}."""
        return {"path": value} if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """Rows kept out of training: a share split off (no near duplicate across), or files of their own."""

    share: float | None = option(None, "share of the rows to keep out", above=0, high=0.5)
    data: tuple[Part, ...] = option((), "files of their own")

    @staticmethod
    def shorthand(value: Any) -> Any:
        """`0.1` -> {share: 0.1}; `held.jsonl` or a list -> {data: [...]}."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"share": value}
        if isinstance(value, str) or (isinstance(value, Mapping) and "path" in value):
            return {"data": [value]}
        return {"data": value} if isinstance(value, list) else value

    def __post_init__(self) -> None:
        if (self.share is None) == (not self.data):
            raise UserError("validation needs either a share (such as 0.1) or data, and not both")


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlyStop:
    """End when a metric of the evaluation was not better `patience` times in a row; the best checkpoint stays."""

    metric: str = option("loss", "a metric of the evaluation")
    mode: Literal["min", "max"] = option("min", "better is smaller, or larger")
    patience: int = option(3, "evaluations without a new best", low=1)

    @staticmethod
    def shorthand(value: Any) -> Any:
        """`loss` -> {metric: loss}."""
        return {"metric": value} if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """Prompts that the model answers at every evaluation, to read along (samples.jsonl in the stage's folder)."""

    prompts: tuple[str, ...]
    max_tokens: int = option(64, "longest answer", low=1)

    @staticmethod
    def shorthand(value: Any) -> Any:
        """[`Who are you?`] -> {prompts: [...]}."""
        return {"prompts": value} if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One training: an objective, a method, data, and the loop's settings."""

    name: str
    objective: Choice = option(help="pretrain, sft, or dpo")
    data: tuple[Part, ...] = option(help="what to learn from")
    method: Choice = option(Choice(name="lora"), "how the model is tuned: full, lora, ...")
    then: Literal["merge", "continue", "stack"] | None = option(
        None, "what the next stage starts from; default: merge if there is one, else the adapter is kept apart"
    )
    validation: Validation | None = option(None, "rows kept out of training: a share or files")
    template: str | None = option(None, "chat template: a name or a file; default: the tokenizer's own")
    mask: str = option("assistant", "which tokens are trained in chats: assistant, last, all, from:N")
    thinking: Literal["keep", "mask", "drop"] = option("keep", "what becomes of thinking blocks")
    max_tokens: int | None = option(None, "longest row in tokens; default: 2048 or the model's own limit", low=8)
    over_length: Literal["error", "drop", "split", "truncate"] | None = option(
        None, "what becomes of longer rows; default: split for pretrain, else error"
    )
    allow_loss: int | None = option(
        None, "bad rows that may be left out; default: 1 percent of files over 1,000 rows, none of smaller ones", low=0
    )
    steps: int | None = option(None, "optimizer steps; or give epochs", low=1)
    epochs: float | None = option(None, "times through the data; default: 1", above=0)
    batch: int = option(8, "rows a step", low=1)
    lr: float | None = option(None, "peak learning rate; default: what is usual for the method", above=0)
    warmup: float = option(0.0, "steps of warm-up, or below 1 a share of the steps", low=0)
    eval_every: int | None = option(None, "steps between evaluations; default: ten in a run", low=1)
    save_every: int | None = option(None, "steps between checkpoints; default: five in a run", low=1)
    early_stop: EarlyStop | None = option(None, "end when it stops getting better")
    samples: Samples | None = option(None, "prompts answered at every evaluation")
    loop: dict[str, Any] = option(factory=dict)

    @property
    def keeps_adapter(self) -> bool:
        """Whether the stage's result is an adapter folder rather than a whole model."""
        return self.then in ("continue", "stack") and self.method.name in ("lora", "prefix")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluate:
    """What is measured before the first stage and after the last."""

    tasks: tuple[str, ...] = option(help="task files or names")
    before: bool = option(True, "measure the base model too")
    limit: int | None = option(None, "at most so many items a task", low=1)
    gate: dict[str, float] = option(factory=dict, help="forgetting: largest fall allowed; a task's name: least score")


@dataclass(frozen=True, kw_only=True, slots=True)
class Notify:
    """A POST with the result's numbers when the run ends."""

    url: str
    token: Secret | None = option(None, "sent as a bearer token; write ${env:NAME}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What `bottega run` does."""

    name: str = option(help="names the run folder")
    model: str = option(help="a Hub id, a folder, or garzone")
    stages: tuple[Stage, ...] = option(help="one training each, in order")
    schema: Literal[1] = 1
    revision: str | None = option(None, "a Hub revision (40 hex digits repeat a run exactly)")
    seed: int = option(0, "of everything that is drawn", low=0, high=2**32 - 1)
    evaluate: Evaluate | None = option(None, "measured before and after")
    notify: Notify | None = option(None, "whom to tell at the end")


STAGE_KEYS = frozenset(f.name for f in dataclasses.fields(Stage)) - {"loop", "name"} | frozenset(LOOP)
TOP_KEYS = frozenset(f.name for f in dataclasses.fields(Recipe))


def load(source: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe (a file, or the same as a mapping), apply `key=value` overrides, check everything.

    Raises:
        UserError: all mistakes, one a line, each with its file:line:column.
    """
    data, marks = recipe_file.read(source, overrides, top_keys=TOP_KEYS, stage_keys=STAGE_KEYS)
    mistakes = []
    for i, stage in enumerate(data["stages"]):
        unknown = [key for key in stage if key not in STAGE_KEYS | {"name"}]
        place: Keys = ("stages", i)
        mistakes += [f"{marks.at_key((*place, k))}: unknown key {k!r}{closest(str(k), STAGE_KEYS)}" for k in unknown]
        own = {key: value for key, value in stage.items() if key not in LOOP and key not in unknown}
        own["loop"] = {key: stage[key] for key in LOOP if key in stage}
        if "data" in own and not isinstance(own["data"], list):
            own["data"] = [own["data"]]
        mistakes += _check_loop(own["loop"], marks, place)
        mistakes += _check_choices(own, marks, place)
        data["stages"][i] = own
    try:
        recipe = build(Recipe, data, marks=marks)
    except UserError as error:
        raise UserError("\n".join([line.removeprefix(": ") for line in mistakes] + [str(error)])) from None
    mistakes += _check(recipe, marks)
    if mistakes:
        raise UserError("\n".join(line.removeprefix(": ") for line in mistakes))
    return _complete(recipe)


def to_plain(recipe: Recipe, folder: Path | None = None) -> dict[str, Any]:
    """The recipe as data that `load` reads to the same recipe; with `folder`, paths are written relative to it."""
    data = plain(recipe)
    stages = []
    for stage in data.pop("stages"):
        stage |= stage.pop("loop")
        for key in ("objective", "method"):
            stage[key] = {"name": stage[key]["name"], **stage[key]["options"]}
        stages.append({stage.pop("name"): without_none(stage)})
    data = without_none({**data, "stages": stages})
    return recipe_file.relative(data, folder) if folder else data


def without_none(data: Any) -> Any:
    """Mappings without the keys that hold null, all the way down."""
    if isinstance(data, dict):
        return {key: without_none(value) for key, value in data.items() if value is not None}
    return [without_none(item) for item in data] if isinstance(data, list) else data


def _check_loop(given: dict[str, Any], marks: Marks, place: Keys) -> list[str]:
    """Types, bounds and names of the settings that go to the loop as they are."""
    hints = get_type_hints(LoopSettings)
    choices = {
        "schedule": list(SCHEDULES),
        "optimizer": table.keys("bottega.train.optim:OPTIMIZERS"),
        "precision": ["fp32", "bf16"],
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
        if low is not None and converted < low or high is not None and converted > high:
            mistakes.append(
                f"{at}: {key} is {converted}, but must be " + (f"{low} to {high}" if high else f"at least {low}")
            )
        if key in choices and converted not in choices[key]:
            mistakes.append(f"{at}: there is no {key} {converted!r}{closest(converted, choices[key])}")
    return mistakes


def _check(recipe: Recipe, marks: Marks) -> list[str]:
    """Mistakes that only the whole recipe shows."""
    mistakes = []
    if not recipe.stages:
        mistakes.append(f"{marks.at(('stages',))}: there is no stage; write at least one")
    for label, path in ((recipe.name, ("name",)), *((s.name, ("stages", i)) for i, s in enumerate(recipe.stages))):
        if not label or set(label) - NAME_LETTERS or label.startswith("."):
            mistakes.append(
                f"{marks.at(path)}: the name {label!r} names a folder: letters, digits, - _ . and no dot in front"
            )
    for i, stage in enumerate(recipe.stages):
        following = recipe.stages[i + 1] if i + 1 < len(recipe.stages) else None
        mistakes += _check_stage(stage, following, marks, ("stages", i))
    for i, task in enumerate(recipe.evaluate.tasks if recipe.evaluate else ()):
        if task.endswith((".yaml", ".yml")) and not Path(task).is_file():
            mistakes.append(f"{marks.at(('evaluate', 'tasks', i))}: there is no task file {recipe_file.short(task)}")
    return mistakes


def _check_stage(stage: Stage, following: Stage | None, marks: Marks, place: Keys) -> list[str]:
    mistakes = []

    def fail(key: str, message: str) -> None:
        mistakes.append(f"{marks.at((*place, key))}: {message}")

    if not stage.data:
        fail("data", f"the stage {stage.name} has no data")
    for key, parts in (("data", stage.data), ("validation", stage.validation.data if stage.validation else ())):
        for part in parts:
            if "://" in part.path:
                fail(key, f"{part.path} is remote; only local files and folders are read so far: download it first")
            elif not Path(part.path).exists():
                fail(key, f"there is no file or folder {recipe_file.short(part.path)}")
    weights = [part.weight for part in stage.data]
    if None in weights and any(weight is not None for weight in weights):
        fail("data", "some sources have a weight and some have none; give each a weight, or none")
    if stage.validation and any(part.weight is not None for part in stage.validation.data):
        fail("validation", "weights mix training rows; validation rows are all used: leave the weight out")
    if stage.steps is not None and stage.epochs is not None:
        fail("epochs", "steps and epochs say the same twice; give one of them")
    for key in ("eval_every", "early_stop"):
        if getattr(stage, key) is not None and stage.validation is None:
            fail(key, f"{key} needs rows to evaluate on: add `validation: 0.1` or a file")
    if stage.then in ("continue", "stack") and stage.method.name not in ("lora", "prefix"):
        fail("then", f"`then: {stage.then}` passes an adapter on, and {stage.method.name} has none; write merge")
    if stage.then == "continue" and following and following.method != stage.method:
        fail("then", f"`then: continue` needs the same method in the stage {following.name}; write merge")
    return mistakes


def _check_choices(stage: Mapping[str, Any], marks: Marks, place: Keys) -> list[str]:
    """Mistakes in a stage's objective and method, options and their ranges included."""
    functions = {name: OBJECTIVES[name].function for name in OBJECTIVES_HERE}
    mistakes = []
    for key, entries in (("objective", functions), ("method", METHODS)):
        choice, wrong = convert(Choice, stage[key]) if key in stage else (None, ["absent"])
        if wrong:  # `build` says what
            continue
        found = check_choice(choice, entries, key, marks, (*place, key))
        if key == "method" and not found:
            try:
                method(choice.name, **choice.options)
            except UserError as error:
                found = [f"{marks.at((*place, key))}: {error}"]
        mistakes += found
    return mistakes


def check_choice(choice: Choice, entries: Mapping[str, str], kind: str, marks: Marks, path: Keys) -> list[str]:
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
            mistakes += convert(known[name].kind, value, marks=marks, path=(*path, name))[1]
    missing = [o.name for o in known.values() if o.default is table.REQUIRED and o.name not in choice.options]
    return mistakes + [f"{place}: {choice.name} needs the option {name!r}" for name in missing]


def _complete(recipe: Recipe) -> Recipe:
    """Defaults that depend on other fields, written out, so that the resolved recipe says everything."""
    stages = []
    for i, stage in enumerate(recipe.stages):
        factor = PREFERENCE_LR if OBJECTIVES[stage.objective.name].data == "preference" else 1.0
        last = i + 1 == len(recipe.stages)
        adapter = stage.method.name in ("lora", "prefix")
        stages.append(
            dataclasses.replace(
                stage,
                over_length=stage.over_length or ("split" if stage.objective.name == "pretrain" else "error"),
                lr=stage.lr or LR[stage.method.name] * factor,
                epochs=1.0 if stage.steps is None and stage.epochs is None else stage.epochs,
                then=stage.then or ("continue" if last and adapter else "merge"),
                objective=_with_defaults(stage.objective, OBJECTIVES[stage.objective.name].function),
                method=_with_defaults(stage.method, METHODS[stage.method.name]),
                loop={**LOOP, **stage.loop},
            )
        )
    return dataclasses.replace(recipe, stages=tuple(stages))


def _with_defaults(choice: Choice, target: str) -> Choice:
    known = table.options(target)
    defaults = {o.name: plain(o.default) for o in known.values() if o.default is not table.REQUIRED}
    given = {name: convert(known[name].kind, value)[0] for name, value in choice.options.items()}
    return Choice(name=choice.name, options={**defaults, **plain(given)})
