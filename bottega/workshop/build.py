"""The only wiring: from a stage of a recipe to rows, a model with its method, the loop, and the result's folder.

Left out: which stages run and what is recorded (stages.py). Below this file nobody sees a recipe.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.core.types import Attached, Progress, Row
from bottega.data.chat import Template
from bottega.data.corrupt import Corrupt, corruption
from bottega.evals.engine import end_of_turn
from bottega.evals.hook import make_samples
from bottega.models.load import Loaded, load, packs
from bottega.models.methods import method
from bottega.models.place import place_of
from bottega.models.purpose import LABELLED
from bottega.models.reward import BY_REPLY, BY_STEPS, has_head, load_head, new_head, rest_language_head, save_head
from bottega.train import objectives, parallel
from bottega.train.assemble import assemble
from bottega.train.corrupted import Corrupted, hidden_once
from bottega.train.loop import Loop, Parts
from bottega.train.scoring import validation, with_reference
from bottega.train.settings import LoopSettings, most_tokens
from bottega.workshop.labels import Answers, options_of, purpose_of
from bottega.workshop.launch import refuse_uneven
from bottega.workshop.recipe import Stage
from bottega.workshop.rows import StageRows, hides, marks_of, read_rows, rows_key
from bottega.workshop.sources import StageSource, source_of, steps_of

SAVES, EVALUATIONS = 5, 10
"""Checkpoints and evaluations of a run that does not say how many."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Setup:
    """A stage and what it starts from (`start`: what that is called). goes_on: the adapter loaded is trained on.
    again: load the same once more (a merge needs the whole of a model that was trained in shards). note: is told what a person
    should read while the stage is made ready.
    """

    stage: Stage
    loaded: Loaded
    template: Template
    seed: int
    folder: Path
    start: str
    again: Callable[[], Loaded]
    goes_on: bool = False
    note: Callable[[str], None] = print
    answers: Answers | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class Bench:
    """A stage ready to run: the loop, what it trains, its rows, and how its model folder is written."""

    loop: Loop
    parts: Parts
    settings: LoopSettings
    rows: StageRows
    save: Callable[[str], None]
    measure: Callable[[], Mapping[str, float]] = dict


def open_model(
    name: str,
    *,
    revision: str | None,
    trust: str | None,
    stage: Stage | None = None,
    goes_on: bool = False,
    cache: Path | None = None,
    device: str = "cpu",
) -> Loaded:
    """Load a model; for a stage, as its method and its settings want it.

    Args:
        trust: the 40-hex revision at which the model's own code may run. goes_on: its adapter is to be trained on.
        cache: where quantised layer files of a streamed base are kept. device: where it is to lie.
    """
    options: dict[str, Any] = method(stage.method.name, **stage.method.options).load_options() if stage else {}
    return load(
        name,
        dtype="bfloat16" if stage and stage.loop.get("precision") == "bf16-true" else "float32",
        revision=trust or revision,
        trust=trust is not None,
        trainable=goes_on,
        purpose=purpose_of(stage) if stage else None,
        stream=bool(stage and stage.loop.get("stream")),
        cache=cache,
        device=device,
        **options,
    )


def attach(setup: Setup) -> Attached:
    """The stage's method on what was loaded: anew, or going on with the adapter that was loaded.

    Raises:
        UserError: the method does not fit the model, or an adapter that cannot be merged lies under it.
    """
    loaded, stage = setup.loaded, setup.stage
    if setup.goes_on and loaded.adapter is not None:
        assert loaded.attached is not None
        return loaded.attached
    module: Any = loaded.model
    if loaded.attached is not None:
        if loaded.attached.merge is None:
            raise UserError(
                f"{loaded.folder} is a {loaded.attached.name} adapter, which cannot be merged; name its base"
            )
        module = loaded.attached.merge()
    return method(stage.method.name, **stage.method.options).attach(module)


def settings_of(stage: Stage, steps_per_epoch: int) -> LoopSettings:
    """The loop's settings, in steps."""
    steps = steps_of(stage, steps_per_epoch)
    stop = stage.early_stop
    assert stage.lr is not None
    return LoopSettings(
        steps=steps,
        lr=stage.lr,
        warmup=round(stage.warmup * steps) if stage.warmup < 1 else int(stage.warmup),
        eval_every=stage.eval_every or (max(1, steps // EVALUATIONS) if stage.validation or stage.samples else 0),
        save_every=stage.save_every or max(1, steps // SAVES),
        early_stop=stop.metric if stop else "",
        early_stop_mode=stop.mode if stop else "min",
        patience=stop.patience if stop else 1,
        **stage.loop,
    )


def assemble_stage(
    setup: Setup, progress: Callable[[int], Progress], join: Callable[[], parallel.World] = parallel.World
) -> Bench:
    """Read the rows, attach the method, join the other processes, and build the loop in the stage's folder.

    Args:
        progress: number of steps -> where the loop shows how it goes. join: forms the process group; called when the rows
            are there, so that reading and tokenising happen outside of any.

    Raises:
        UserError: rows that cannot be used, or a method or setting that does not fit the model.
    """
    import torch

    torch.manual_seed(setup.seed)
    stage, tokenizer = setup.stage, setup.loaded.tokenizer
    rows = read_rows(stage, setup.loaded, setup.template, seed=setup.seed, note=setup.note)
    attached = attach(setup)
    _reward_head(setup, attached)
    packed = packs(setup.loaded, branches=objectives.OBJECTIVES[stage.objective.name].layout == "branches")
    packed = join_teacher(setup, attached) and packed
    save = saver(setup, attached)
    source = _source(setup, rows)
    settings = settings_of(stage, source.steps_per_epoch)
    refuse_uneven(stage.name, stage.batch, parallel.size_here())
    shown = progress(settings.steps)
    parts = assemble(
        attached,
        objectives.spec(stage.objective.name, **options_of(stage, rows.train, setup.loaded.purpose)),
        source,
        settings,
        vocabulary=vocabulary(setup.loaded),
        pad_id=tokenizer.pad_token_id or 0,
        packed=packed,
        save_model=save,
        scratch=setup.folder,
        world=join(),
        strategy=stage.parallel,
    )
    micro_tokens = most_tokens(settings.micro_tokens, parts.device)
    if (corrupt := _corrupt(setup)) is not None:
        rows = dataclasses.replace(rows, held_out=hidden_once(rows.held_out, corrupt, seed=setup.seed))
    if any(need.startswith("ref.") for need in parts.spec.needs):
        visited = _visited(source, settings.steps, rows)
        rows = _with_references(setup, parts, rows, visited, micro_tokens, shown.note)
        parts.source = _source(setup, rows)
    parts.validate = _validate(setup, parts, rows.held_out, micro_tokens)
    loop = Loop(parts, settings, setup.folder, shown)
    measure = _measure(setup, parts, rows.held_out, micro_tokens)
    return Bench(loop=loop, parts=parts, settings=settings, rows=rows, save=save, measure=measure)


def vocabulary(loaded: Loaded) -> int:
    """How many token ids the model knows."""
    embeddings: Any = loaded.model.get_input_embeddings()  # type: ignore[operator]
    return int(embeddings.weight.shape[0])


def _source(setup: Setup, rows: StageRows) -> Any:
    source = source_of(setup.stage, rows.train, seed=setup.seed)
    corrupt = _corrupt(setup)
    return source if corrupt is None else Corrupted(source, corrupt, seed=setup.seed)


def _corrupt(setup: Setup) -> Corrupt | None:
    """How texts are hidden where that is what is learned.

    Raises:
        UserError: `noise` for a stage that hides nothing, or a tokenizer without a mask.
    """
    stage, loaded = setup.stage, setup.loaded
    if hides(stage, loaded):
        return corruption(loaded.kind, marks_of(loaded), stage.noise)
    if stage.noise is not None:
        raise UserError(
            f"noise is {stage.noise}, but {stage.objective.name} of this {loaded.kind} hides nothing; leave noise out"
        )
    return None


def _visited(source: StageSource, steps: int, rows: StageRows) -> set[int]:
    """The rows that so many steps will ever see."""
    if steps > source.steps_per_epoch:  # later epochs bring the same rows in another order
        return {row.index for one in rows.train for row in one}
    return {row.index for batch in source.ahead(steps) for row in batch}


def _with_references(
    setup: Setup, parts: Parts, rows: StageRows, visited: set[int], micro_tokens: int, note: Callable[[str], None]
) -> StageRows:
    """The visited rows with what the model at the stage's start thinks of them, computed once and cached."""

    def scored(flat: list[Row], name: str) -> list[Row]:
        cache, key = setup.folder / "cache" / name, rows_key(flat, setup.loaded.identity)
        return with_reference(parts, flat, micro_tokens=micro_tokens, cache=cache, key=key, note=note) if flat else []

    flat = scored([row for one in rows.train for row in one if row.index in visited], "reference.safetensors")
    known = {row.index: row for row in flat}
    train = [[known.get(row.index, row) for row in one] for one in rows.train]
    held_out = scored(list(rows.held_out), "reference-validation.safetensors")
    return dataclasses.replace(rows, train=train, held_out=held_out)


def _validate(
    setup: Setup, parts: Parts, held_out: Sequence[Row], micro_tokens: int
) -> Callable[[int], Mapping[str, float]] | None:
    """The evaluation of a stage: its loss on held-out rows, and sample replies written down to read along."""
    leads = parts.world.rank == 0
    losses = validation(parts, held_out, micro_tokens=micro_tokens) if held_out else None
    measure = _measure(setup, parts, held_out, micro_tokens)
    samples = setup.stage.samples
    if losses is None and samples is None:
        return None

    path = setup.folder / "samples.jsonl"
    answer = None
    if samples is not None:
        tokenizer, longest = setup.loaded.tokenizer, samples.max_tokens
        answer = make_samples(parts.attached, tokenizer, samples.prompts, max_tokens=longest, template=setup.template)

    def validate(step: int) -> Mapping[str, float]:
        if answer is not None and leads:
            rundir.trim_jsonl(path, lambda line: line["step"] < step)
            with rundir.append_jsonl(path) as log:
                for row in answer(step):
                    log.write(row)
        return {**(losses(step) if losses is not None else {}), **measure()}

    return validate


def _measure(
    setup: Setup, parts: Parts, held_out: Sequence[Row], micro_tokens: int
) -> Callable[[], Mapping[str, float]]:
    """What held-out rows say of labels; the thresholds that are saved with the model are chosen meanwhile."""
    answers = setup.answers
    if answers is None or not held_out or answers.purpose.kind not in LABELLED:
        return dict
    return lambda: answers.judge(parts, held_out, micro_tokens=micro_tokens)


def _reward_head(setup: Setup, attached: Attached) -> None:
    """A reward model gets its head: the one of the model that the stage starts from, else a new one."""
    if {"reward", "step_reward"} & set(objectives.OBJECTIVES[setup.stage.objective.name].needs):
        known = setup.loaded.folder
        head = load_head(known, attached.model) if has_head(known) else new_head(attached.model)
        head.reads = BY_STEPS if setup.stage.objective.name == "process_reward" else BY_REPLY
        attached.reward = head.to(place_of(attached.model))
        if setup.loaded.kind == "encoder":
            rest_language_head(attached)


def join_teacher(setup: Setup, attached: Attached) -> bool:
    """Distillation gets its teacher; whether rows may be packed for it too."""
    name = setup.stage.teacher
    if name is None:
        return True
    from bottega.models.teacher import Teacher

    options = setup.stage.objective.options
    known = {key: options[key] for key in ("beta", "temperature")}
    loaded = load(name, device=str(place_of(attached.model)))
    module = loaded.attached.model if loaded.attached else loaded.model
    attached.teacher = Teacher.of(module, loaded.tokenizer, setup.loaded.tokenizer, name=name, **known)
    return loaded.packs


def saver(setup: Setup, attached: Attached) -> Callable[[str], None]:
    """Writes a model folder: weights or adapter, and beside them what `beside` writes."""

    def save(folder: str) -> None:
        attached.save(folder)
        beside(Path(folder), setup.loaded, setup.template, setup.answers)
        save_head(attached, folder)
        config = Path(folder) / "adapter_config.json"
        if config.is_file():
            known = {**rundir.read_json(config), "base_model_name_or_path": base_name(setup, Path(folder))}
            for key, value in known.items():
                if isinstance(value, list) and all(isinstance(item, str) for item in value):
                    known[key] = sorted(value)  # PEFT writes sets, whose order changes from process to process
            rundir.write_json(config, known)

    return save


def base_name(setup: Setup, folder: Path) -> str:
    """What an adapter in `folder` says it lies on: a Hub id as it was named, a stage of the same run by a relative path
    (so that the run folder can move), any other folder by its full path."""
    loaded, run_folder = setup.loaded, setup.folder.parent.parent.resolve()
    below = Path(loaded.folder)
    if setup.goes_on and loaded.adapter is not None:
        name = str(rundir.read_json(Path(loaded.adapter) / "adapter_config.json")["base_model_name_or_path"])
        below = Path(loaded.adapter) / name
        if not below.is_dir():
            return name
    elif not Path(setup.start).expanduser().is_dir():
        return setup.start
    below = below.resolve()
    return os.path.relpath(below, folder.resolve()) if below.is_relative_to(run_folder) else str(below)


def template_of(loaded: Loaded, name: str | None) -> Template:
    """The chat template that was named, else the tokenizer's own; an encoder-decoder without one reads what is asked as it is."""
    bare = loaded.kind == "encoder-decoder" and not loaded.tokenizer.chat_template
    return Template.find(name or ("concat" if bare else None), loaded.tokenizer)


def beside(folder: Path, loaded: Loaded, template: Template, answers: Answers | None = None) -> None:
    """The tokenizer with the template that trained the model, and the tokens that end a reply under it; or what its head
    answers (`answers`: with the thresholds just chosen, else as it was loaded)."""
    tokenizer, purpose = loaded.tokenizer, answers.purpose if answers is not None else loaded.purpose
    if purpose is not None:
        purpose.save(folder)
    if purpose is not None or loaded.kind == "encoder":
        tokenizer.save_pretrained(str(folder))
        return
    tokenizer.chat_template = template.source
    tokenizer.save_pretrained(str(folder))
    path = folder / "generation_config.json"
    config = rundir.read_json(path) if path.is_file() else {}
    own = config.get("eos_token_id", tokenizer.eos_token_id)
    known = [i for i in (own if isinstance(own, list) else [own]) if i is not None]
    config["eos_token_id"] = sorted({*known, *end_of_turn(tokenizer, template)[0]})
    rundir.write_json(path, config)
