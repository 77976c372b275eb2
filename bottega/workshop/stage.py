"""One stage of a run: what it starts from, training it, its result; taken as it is where it has ended already.

Left out: the order of stages and what surrounds them (stages.py), how the loop is built (build.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core import rundir
from bottega.core.textio import progress
from bottega.workshop import recipe_order
from bottega.workshop.cleaning import HELD, write_held
from bottega.workshop.interrupt import REASON, Watched
from bottega.workshop.origins import origins
from bottega.workshop.ranks import Ranks
from bottega.workshop.recipe_online import ONLINE
from bottega.workshop.record import Record, stage_record

if TYPE_CHECKING:
    from bottega.models.load import Loaded
    from bottega.workshop.recipe import Recipe, Stage
    from bottega.workshop.rows import StageRows


@dataclass(kw_only=True, slots=True)
class Session:
    """What the stages of one run share."""

    recipe: Recipe
    folder: Path
    record: Record
    trust: str | None
    quiet: bool
    note: Callable[[str], None]
    ranks: Ranks
    device: str = "cpu"
    spent: dict[str, Any] = field(default_factory=dict)


def folder_of(run_folder: Path, number: int, stage: Stage) -> Path:
    """stages/01-adapt, stages/02-instruct ..."""
    return run_folder / "stages" / f"{number + 1:02d}-{stage.name}"


def is_done(folder: Path) -> bool:
    """Whether the stage in `folder` has ended and its result is whole."""
    return (folder / "stage.json").is_file() and not rundir.verify_manifest(folder / "result")


def has_begun(folder: Path) -> bool:
    """Whether the stage in `folder` has made anything that other inputs would make differently."""
    return (folder / "result").is_dir() or any((folder / "checkpoints").glob("step-*"))


def run_stage(this: Session, number: int) -> dict[str, Any]:
    """Run one stage, or take its result from the folder if it has ended."""
    stage = this.recipe.stages[number]
    folder = folder_of(this.folder, number, stage)
    if this.ranks.decide(lambda: is_done(folder)):
        this.note(f"{stage.name}: done already")
        return dict(rundir.read_json(folder / "stage.json"))
    this.ranks.interrupts.check()
    began, cpu = time.time(), time.process_time()
    this.note(f"{stage.name}: {stage.objective.name} with {stage.method.name}")
    try:
        facts = _train(this, number, folder)
        if this.ranks.leads:
            rundir.write_json(folder / "stage.json", facts)
    finally:
        peak = (rundir.peak_memory_bytes() or 0) / 1e6
        spent = {"seconds": time.time() - began, "cpu_s": time.process_time() - cpu, "peak_mb": round(peak)}
        this.spent[stage.name] = spent
    return facts


def _train(this: Session, number: int, folder: Path) -> dict[str, Any]:
    from bottega.train.trackers import Tracked
    from bottega.workshop import build, result
    from bottega.workshop.labels import answers_of
    from bottega.workshop.shard_cache import tokenizer_identity

    plan, stage, leads = this.recipe, this.recipe.stages[number], this.ranks.leads
    opened, start, goes_on = _start(this, number)
    loaded = opened()
    for line in loaded.notes:
        this.note(f"{stage.name}: {line}")
    template = build.template_of(loaded, stage.template)
    identities = {"tokenizer": tokenizer_identity(loaded.tokenizer), "template": template.sha256}
    if leads:
        known = stage_record(stage, plan.seed)
        this.record.check(stage.name, {**known, "base": loaded.identity, **identities})
    setup = build.Setup(
        stage=recipe_order.with_paths(plan, stage, lambda at: folder_of(this.folder, at, plan.stages[at])),
        loaded=loaded,
        template=template,
        seed=plan.seed,
        folder=folder,
        start=start,
        again=opened,
        goes_on=goes_on,
        note=this.note,
        answers=answers_of(loaded.purpose, stage),
    )
    shown: list[Watched] = []

    def show(steps: int) -> Watched:
        inner: Any = progress(steps, stage.name, quiet=this.quiet)
        if plan.track and leads:
            inner = Tracked(inner, plan.track, folder=this.folder, run=plan.name, stage=stage.name)
        shown.append(Watched(inner, this.ranks.interrupts, this.ranks.beat))
        return shown[-1]

    try:
        bench = _assembler(stage)(setup, show, lambda: this.ranks.join(this.device))
        shown[-1].loop = bench.loop
        bench.parts.stopping = lambda: this.ranks.interrupts.received is not None
        if leads:
            told = bench.rows.to_json() | origins(stage.data)
            rundir.write_json(folder / "intake.json", seen_from(this.folder, told))
            held_out = stage.validation.data if stage.validation else ()
            write_held(folder / HELD, bench.rows.held, (*stage.data, *held_out))
        for line in _account(bench.rows, stage.batch):
            shown[-1].note(line)
        this.ranks.interrupts.check()
        with this.ranks.watched(plan.step_timeout_s):
            outcome = bench.loop.run()
        if outcome.reason == REASON:
            this.ranks.interrupts.check()
        result.restore_best(bench, outcome, folder)
        merged = result.write_result(setup, bench)
        this.ranks.leave()
    finally:
        for one in shown:
            one.close()
    return _how_sure(_facts(outcome, merged, bench.parts.attached.facts), len(bench.rows.held_out), this.note)


def _assembler(stage: Stage) -> Callable[..., Any]:
    """What wires the stage: rows that are there, or answers of its own."""
    from bottega.workshop import build, build_online

    return build_online.assemble_stage if stage.objective.name in ONLINE else build.assemble_stage


def _facts(outcome: Any, merged: dict[str, float], known: dict[str, Any]) -> dict[str, Any]:
    """What the stage's file says of it."""
    best = {"best": outcome.best, "best_step": outcome.best_step} if outcome.best is not None else {}
    method = {key: value for key, value in known.items() if isinstance(value, int | float | str)}
    return {"steps": outcome.step, "ended": outcome.reason, **best, **outcome.last, **merged, "method": method}


def _how_sure(facts: dict[str, Any], count: int, note: Callable[[str], None]) -> dict[str, Any]:
    """The facts, with the interval of a share of held-out pairs, which is said too."""
    from bottega.grade.intervals import wilson

    share = facts.get("eval.accuracy")
    if share is None or not {"eval.margin", "eval.lead"} & set(facts):
        return facts
    known = wilson(share * count, count)
    note(f"accuracy on {count} held-out pairs: {share:.3f} ({known.low:.3f} to {known.high:.3f}, 95 percent)")
    return facts | {"eval.accuracy_low": known.low, "eval.accuracy_high": known.high}


def _start(this: Session, number: int) -> tuple[Callable[[], Loaded], str, bool]:
    """How the model that a stage starts from is opened, what it is called, and whether its adapter is trained on."""
    from bottega.workshop import build

    plan, stage = this.recipe, this.recipe.stages[number]
    place = recipe_order.before(plan, number)
    before = None if place is None else plan.stages[place]
    start = str(folder_of(this.folder, place, before) / "result") if before and place is not None else plan.model
    goes_on = before is not None and before.then == "continue"
    revision, kept = None if before else plan.revision, folder_of(this.folder, number, stage) / "cache"

    def opened() -> Loaded:
        how: dict[str, Any] = {"revision": revision, "trust": this.trust, "stage": stage, "device": this.device}
        return build.open_model(start, goes_on=goes_on, cache=kept, **how)

    return opened, start, goes_on


def _account(rows: StageRows, batch: int) -> list[str]:
    """What became of the rows that were read, held-out ones too; that they are fewer than a step's, if they are."""
    from bottega.data.clean.account import render

    lines = [line for intake in rows.intakes for line in intake.render().splitlines()]
    for intake in rows.held_out_intakes:
        first, *more = intake.render().splitlines()
        lines += [f"validation {first}", *more]
    lines += [f"clean: {line}" for account in rows.cleaned for line in render(account.to_json())]
    if (
        len(rows.intakes) == 1 and 0 < rows.intakes[0].taken < batch
    ):  # of several sources a step is drawn with their weights
        lines.append(f"note: a step takes all {rows.intakes[0].taken} rows: there are fewer than batch: {batch}")
    return [*lines, *(f"note: {note}" for note in rows.notes)]


def seen_from(folder: Path, facts: Any) -> Any:
    """`facts` with the paths in its texts relative to `folder`: equal runs write equal files wherever they lie."""
    if isinstance(facts, dict):
        return {seen_from(folder, key): seen_from(folder, value) for key, value in facts.items()}
    if isinstance(facts, list):
        return [seen_from(folder, value) for value in facts]
    if not isinstance(facts, str):
        return facts
    place, colon, rest = facts.partition(":")
    known = os.path.isabs(place) or Path(place).is_relative_to(folder)
    return os.path.relpath(place, folder) + colon + rest if known else facts
