"""Wiring of a stage that learns from its own answers: prompts, sampler, rewards, rounds, the loop.

Left out: stages whose rows are there before they begin (build.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from bottega.core import rundir, table
from bottega.core.errors import UserError
from bottega.core.types import Attached, Progress, Row, Sampler, Tokens
from bottega.data.clean.held import Keys
from bottega.data.holdout import hold_out
from bottega.data.prompts import Prompt, prompts
from bottega.evals.engine import end_of_turn
from bottega.evals.hook import undisturbed
from bottega.grade import rewards
from bottega.models.dropout import still
from bottega.models.generate import Generator
from bottega.models.reference import frozen_copy
from bottega.train import advantages, objectives, parallel
from bottega.train.answers import held_out, held_out_divergence
from bottega.train.assemble import assemble
from bottega.train.bounds import Bounds, Memory, over_optimised
from bottega.train.experience import Experience, Rounds
from bottega.train.loop import Loop
from bottega.train.parts import Parts
from bottega.train.rewards import Composition, Weighed
from bottega.train.rollout import Collector, Plan
from bottega.train.settings import most_tokens
from bottega.workshop.build import Bench, Setup, attach, join_teacher, saver, settings_of, vocabulary
from bottega.workshop.build_live import people_in
from bottega.workshop.cleaning import read_sources
from bottega.workshop.recipe import Stage
from bottega.workshop.recipe_online import ASKED, UNREWARDED, Graded, Rollout, refuse_processes
from bottega.workshop.reward_models import RewardModels
from bottega.workshop.rows import StageRows, row_limit


def assemble_stage(
    setup: Setup, progress: Callable[[int], Progress], join: Callable[[], parallel.World] = parallel.World
) -> Bench:
    """As build.assemble_stage, for objectives that learn from their own answers."""
    import torch

    torch.manual_seed(setup.seed)
    stage = setup.stage
    rollout = stage.rollout
    assert rollout is not None and rollout.prompts is not None, "the recipe's defaults are written out"
    refuse_processes(stage.objective.name, parallel.size_here())
    asked, kept_out, rows = _prompts(setup, rollout)
    attached = attach(setup)
    packed = join_teacher(setup, attached) and setup.loaded.packs
    save = saver(setup, attached)
    spec = objectives.spec(stage.objective.name, **stage.objective.options)
    needs = _needs(stage, rollout, spec.needs)
    steps_a_round = rollout.epochs * -(-rollout.prompts // stage.batch)
    settings = settings_of(stage, -(-len(asked) // rollout.prompts) * steps_a_round)
    shown = progress(settings.steps)
    generator = _generator(setup, attached, shown.note)
    stops = _stops(setup, generator)
    sampler = _sampler(setup, rollout, generator, save)
    assert rollout.advantage is not None
    memory = Memory(bounds=_bounds(stage, rollout), note=shown.note, kl=float(rollout.advantage.options.get("kl", 0.0)))
    models = RewardModels(setup, attached)
    judges = _judges(setup, models) if kept_out else {}
    rewards, people = compose(stage.rewards or (), models), None
    if stage.feedback is not None:
        people, rewards = people_in(setup, attached, models, rewards)
    collector = Collector(
        asked,
        sampler,
        rewards,
        _advantage(rollout),
        _plan(rollout, setup.seed, needs, stops),
        memory=memory,
        micro_tokens=most_tokens(settings.micro_tokens, setup.loaded.model.device.type),
        log=setup.folder / "rounds.jsonl",
        people=people,
    )
    parts = assemble(
        attached,
        spec,
        _experience(setup, rollout, collector, memory),
        settings,
        vocabulary=vocabulary(setup.loaded),
        pad_id=setup.loaded.tokenizer.pad_token_id or 0,
        packed=packed,
        save_model=save,
        scratch=setup.folder,
        world=join(),
        strategy=stage.parallel,
        reference=frozen_copy(attached) if "reference" in needs else None,
    )
    parts.scorer.sampled_at(rollout.temperature)
    collector.parts = parts
    parts.validate = _validate(setup, kept_out, sampler, judges, stops, parts, shown.note)
    models.join(parts)
    return Bench(loop=Loop(parts, settings, setup.folder, shown), parts=parts, settings=settings, rows=rows, save=save)


def _generator(setup: Setup, attached: Attached, note: Callable[[str], None]) -> Generator:
    """The policy as a sampler, its dropout off: the policy that answers is the one that learns."""
    if dropouts := still(attached.model):
        note(f"dropout is off here ({dropouts} places): answers are sampled and learned from by one policy")
    return Generator(attached.model, setup.loaded.tokenizer, inputs=attached.inputs)


def _experience(setup: Setup, rollout: Rollout, collector: Collector, memory: Memory) -> Experience:
    return Experience(
        collector,
        minibatch=setup.stage.batch,
        epochs=rollout.epochs,
        seed=setup.seed,
        max_kl=rollout.stop_kl,
        rounds=Rounds(setup.folder / "rounds", setup.folder / "checkpoints"),
        memory=memory,
        resumed=(lambda number: None) if (people := collector.people) is None else people.resume,
    )


def _prompts(setup: Setup, rollout: Rollout) -> tuple[list[Prompt], list[Prompt], StageRows]:
    """Prompts to learn from, those kept out, and the account of both."""
    stage, held = setup.stage, Keys()
    sources = read_sources(stage.data, stage.clean, seed=setup.seed, held=held)
    found, apart, notes = sources.found, [], ()  # type: Any, Any, Any
    if stage.validation and stage.validation.share:
        split = hold_out(found, share=stage.validation.share, seed=setup.seed, passages=False)
        found, apart, notes = split.train, [split.held_out], split.notes
    elif stage.validation:
        apart = read_sources(stage.validation.data, None, seed=setup.seed, held=held).found
    limit = row_limit(stage, setup.loaded)
    room = limit - rollout.max_tokens
    if room < 1:
        raise UserError(
            f"rollout.max_tokens {rollout.max_tokens:,} leaves a prompt no room in a row of {limit:,} tokens; lower it"
        )

    def made(samples: Any) -> Any:
        return prompts(
            samples,
            setup.loaded.tokenizer,
            setup.template,
            max_tokens=room,
            over_length=stage.over_length or "error",
            allow_loss=stage.allow_loss,
        )

    train = [made(samples) for samples in found]
    kept_out = [made(samples) for samples in apart if samples]
    number = 0
    rows = []
    for own, _ in train:
        rows.append([_as_row(number + i, prompt) for i, prompt in enumerate(own)])
        number += len(own)
    account = StageRows(
        train=rows,
        held_out=[_as_row(i, prompt) for i, prompt in enumerate(p for own, _ in kept_out for p in own)],
        intakes=tuple(sources.told(i, intake) for i, (_, intake) in enumerate(train)),
        held_out_intakes=tuple(intake for _, intake in kept_out),
        notes=tuple(notes),
        cleaned=tuple(sources.accounts),
        held=held,
    )
    return [p for own, _ in train for p in own], [p for own, _ in kept_out for p in own], account


def _as_row(index: int, prompt: Prompt) -> Row:
    """A prompt as a row of context alone: what stands in the account, and what a merge is measured on."""
    return Row(index=index, branches=(Tokens(prompt.ids, [0.0] * len(prompt.ids)),))


def _needs(stage: Stage, rollout: Rollout, needs: tuple[str, ...]) -> tuple[str, ...]:
    """What the trainer scores of a round before it learns from it."""
    assert rollout.advantage is not None
    wanted = ["logp"] if rollout.rescore else []
    wanted += ["value"] if "value" in needs else []
    return (*wanted, "reference") if stage.objective.name not in UNREWARDED else tuple(wanted)


def _stops(setup: Setup, generator: Generator) -> dict[str, Any]:
    """What ends an answer: the model's own end tokens, and the end of a turn in this template."""
    ids, strings = end_of_turn(setup.loaded.tokenizer, setup.template)
    return {"stop_ids": tuple(sorted({*generator.stop_ids(), *ids})), "stop": strings}


def _sampler(setup: Setup, rollout: Rollout, generator: Generator, save: Callable[[str], None]) -> Sampler:
    """Who samples: this process, or a server that is handed the adapter before it is asked.

    Raises:
        UserError: --offline and another machine's address.
    """
    if rollout.server is None:
        return generator
    from bottega.models.served import Served
    from bottega.workshop.endpoints import refuse_offline

    refuse_offline(rollout.server)
    folder = setup.folder / "serving"
    folder.mkdir(parents=True, exist_ok=True)
    setup.note(f"answers are sampled by {rollout.server}, which loads the adapter from {folder.resolve()}")
    return Served(
        rollout.server,
        save,
        folder,
        tokenizer=setup.loaded.tokenizer,
        stop_ids=generator.stop_ids(),
        name=f"bottega-{setup.folder.resolve().parents[1].name}-{setup.folder.name}",
        key=os.environ.get(rollout.server_key_env, "") if rollout.server_key_env else "",
    )


def _bounds(stage: Stage, rollout: Rollout) -> Bounds:
    return Bounds(
        max_kl=rollout.max_kl,
        max_drift=rollout.max_drift,
        flat_steps=sys.maxsize if stage.objective.name in UNREWARDED else rollout.flat_steps,
        cut_steps=rollout.cut_steps,
    )


def _advantage(rollout: Rollout) -> advantages.Advantage:
    assert rollout.advantage is not None
    return advantages.find(rollout.advantage.name, **rollout.advantage.options)


def _plan(rollout: Rollout, seed: int, needs: tuple[str, ...], stops: Mapping[str, Any]) -> Plan:
    assert rollout.prompts is not None and rollout.group is not None
    return Plan(
        prompts=rollout.prompts,
        group=rollout.group,
        max_tokens=rollout.max_tokens,
        temperature=rollout.temperature,
        seed=seed,
        needs=needs,
        cut=rollout.cut,
        cut_penalty=rollout.cut_penalty,
        resample=rollout.resample,
        keep=rollout.keep,
        pair=rollout.pair,
        kl_target=rollout.kl_target,
        stops=stops,
    )


def compose(parts: tuple[Graded, ...], models: RewardModels) -> Composition:
    """The rewards of a recipe as one.

    Raises:
        UserError: a reward that is not there, or a file that cannot be used.
    """
    found = []
    for part in parts:
        own: Any
        if part.name == "model":
            own = models.open(**part.options)
        elif part.name in ASKED:
            own = table.resolve(ASKED[part.name])(**part.options)
        else:
            own = rewards.find(part.name, part.options)
        found.append(Weighed(name=part.name, weight=part.weight, reward=own))
    return Composition(found)


def _judges(setup: Setup, models: RewardModels) -> dict[str, Composition]:
    """What answers to held-out prompts are judged by; opened before the parts are built, for a reward model may join the policy."""
    judges = {"reward": compose(setup.stage.rewards, models)} if setup.stage.rewards else {}
    if setup.stage.judge:
        judges["judge"] = compose(setup.stage.judge, models)
    return judges


def _validate(
    setup: Setup,
    kept_out: list[Prompt],
    sampler: Sampler,
    judges: Mapping[str, Composition],
    stops: Mapping[str, Any],
    parts: Parts,
    note: Callable[[str], None],
) -> Callable[[int], Mapping[str, float]] | None:
    if not kept_out:
        return None
    assert setup.stage.rollout is not None
    how: Any = {"max_tokens": setup.stage.rollout.max_tokens, "stops": stops}
    inner, far = held_out(kept_out, sampler, judges, **how), None
    if setup.stage.teacher is not None:
        far = held_out_divergence(kept_out, sampler, parts, micro_tokens=4096, **how)

    def validate(step: int) -> Mapping[str, float]:
        with undisturbed(parts.attached.model):
            found = {**inner(step), **(far(step) if far is not None else {})}
        log = setup.folder / "metrics.jsonl"
        earlier = [line for line in rundir.read_jsonl(log) if "eval.judge" in line] if log.is_file() else []
        seen = [(line["eval.reward"], line["eval.judge"]) for line in earlier if line["step"] < step]
        if "judge" in found and (said := over_optimised([*seen, (found["reward"], found["judge"])])):
            note(f"step {step}: {said}")
        return found

    return validate
