"""`bottega search RECIPE`: try settings or compare methods at an equal budget on the user's own data; each trial a run of its own.

Left out: running trials (search_trials.py), the settings drawn (search_space.py), the tables (search_table.py); searches spread
over machines.

OUT holds search.json (what was asked, every trial, what came out), trials/NAME (run folders), logs/NAME.txt and
scorecards/NAME.json. The same command goes on where it was stopped; more trials, seeds and minutes may be asked for later.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bottega.core import rundir
from bottega.core.config import closest, dump_yaml, plain
from bottega.core.errors import Mismatch, UserError
from bottega.core.textio import progress
from bottega.workshop import recipe as recipes
from bottega.workshop.measure import check_tasks
from bottega.workshop.recipe import Recipe, Stage
from bottega.workshop.search_space import Axis, Way, axis, draws, ways
from bottega.workshop.search_table import compared, report, search_text
from bottega.workshop.search_trials import Metric, Runner, Trial, command
from bottega.workshop.stage import folder_of

__all__ = ["search", "search_text"]
GROWS = ("trials", "seeds")
"""What may be larger when a search goes on."""


def search(
    recipe: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    over: Sequence[str] = (),
    methods: str | None = None,
    stage: str | None = None,
    metric: str | None = None,
    trials: int | None = None,
    seeds: Sequence[int] = (),
    minutes: float | None = None,
    prune: bool = True,
    out: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Search hyper-parameters of a recipe, or compare methods, or both (each method then gets as many trials).

    Args:
        over: `KEY=VALUES` each: lr=1e-5..1e-3, lr=x0.3..x3 (times the method's usual one), method.rank=4,8,16. methods: names,
            or `{name: lora, rank: 8}`, separated by commas; all see the same rows in the same order.
        stage: the stage that is varied; default: the last. metric: of its evaluation, with `:max` where more is better; default: what
            it stops early by, else loss.
        trials: random settings for each method; None: every combination. seeds: of the final runs; default: the recipe's.
        minutes: after which this command stops (exit code 9); the same command goes on. prune: end bad trials early.

    Returns:
        {"folder", "metric", "groups", "trials", "tasks", "baseline", "complete", "exit_code"}; exit code 9 where a trial failed or the
        budget ended.

    Raises:
        UserError: a mistake in what was asked, found before anything runs. Mismatch: `out` holds another search.
    """
    plan = recipes.load(recipe, overrides)
    asked = _asked(plan, over, methods, stage, metric, trials, seeds)
    folder = Path(out) if out is not None else Path("runs") / f"{plan.name}-search"
    with rundir.lock(folder), rundir.disk_errors(folder):
        path = _recipe_file(recipe, folder)
        this = Search(plan=plan, folder=folder, asked=asked, recipe=path, overrides=tuple(overrides), prune=prune)
        this.open(until=math.inf if minutes is None else time.monotonic() + 60 * minutes)
        shown = progress(None, folder.name, quiet=quiet)
        try:
            this.go(shown.note)
        finally:
            shown.close()
            this.save()
        return this.result


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What was asked, checked. draws: the settings each way tries; axes: by which `times` is known."""

    stage: Stage
    number: int
    ways: tuple[Way, ...]
    axes: tuple[Axis, ...]
    draws: tuple[dict[str, Any], ...]
    metric: Metric
    seeds: tuple[int, ...]
    recorded: dict[str, Any]


def _asked(
    plan: Recipe,
    over: Sequence[str],
    methods: str | None,
    stage: str | None,
    metric: str | None,
    trials: int | None,
    seeds: Sequence[int],
) -> Asked:
    names = [one.name for one in plan.stages]
    if stage is not None and stage not in names:
        raise UserError(
            f"--stage {stage!r} is no stage of this recipe{closest(stage, names)}; it has {', '.join(names)}"
        )
    number = names.index(stage) if stage is not None else len(names) - 1
    chosen = plan.stages[number]
    if not over and methods is None:
        raise UserError("say what to try: --over lr=1e-5..1e-3 --trials 12, or --methods lora,full, or both")
    if chosen.validation is None:
        raise UserError(
            f"trials are compared on rows that none of them learns from: give stage {chosen.name} `validation: 0.1`, or its own file"
        )
    axes = tuple(axis(one) for one in over)
    for one in axes:
        if one.key == "seed" or (one.key.split(".")[-1] == "method" and methods is not None):
            raise UserError(f"--over {one.key}: use --{'seeds' if one.key == 'seed' else 'methods'} alone for that")
    if trials is not None and not axes:
        raise UserError(f"--trials {trials} draws from ranges, and there is none: add --over lr=x0.3..x3")
    check_tasks(plan)
    found = _metric(chosen, metric)
    used = tuple(dict.fromkeys(seeds)) or (plan.seed,)
    recorded = {"over": list(over), "methods": methods, "stage": chosen.name, "metric": found.name, "sign": found.sign}
    return Asked(
        stage=chosen,
        number=number,
        ways=tuple(ways(methods, chosen.method.name)),
        axes=axes,
        draws=tuple(draws(axes, trials=trials, seed=plan.seed)) if axes else ({},),
        metric=found,
        seeds=used,
        recorded={**recorded, "grid": trials is None, "trials": trials, "seeds": list(used)},
    )


def _metric(stage: Stage, said: str | None) -> Metric:
    early = stage.early_stop
    if said is None:
        name, mode = ("loss", "min") if early is None else (early.metric, str(early.mode))
    else:
        name, _, mode = said.removeprefix("eval.").partition(":")
        if mode not in ("", "min", "max"):
            raise UserError(f"--metric {said!r}: write NAME, NAME:min or NAME:max")
    best = early is not None and early.metric == name
    return Metric(name=name, sign=-1 if mode == "max" else 1, best=best)


def _recipe_file(recipe: str | os.PathLike[str] | Mapping[str, Any], folder: Path) -> str:
    """The recipe as a file that a trial's process can read."""
    if not isinstance(recipe, Mapping):
        return str(recipe)
    path = folder / "given.yaml"
    rundir.atomic_write(path, dump_yaml(plain(recipe)))
    return str(path)


@dataclass(kw_only=True)
class Search:
    """One search in its folder. trials: all that it knows; asked_for: those of them that this command asks for."""

    plan: Recipe
    folder: Path
    asked: Asked
    recipe: str
    overrides: tuple[str, ...]
    prune: bool
    trials: dict[str, Trial] = field(default_factory=dict)
    asked_for: dict[str, Trial] = field(default_factory=dict)
    candidates: list[Trial] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    ended: str = ""

    def open(self, *, until: float) -> None:
        """Take up what the folder holds, and check every setting before anything runs.

        Raises:
            Mismatch: it holds a search for something else. UserError: settings that make no recipe.
        """
        self._take_up()
        self.candidates = [
            self._trial(way, number, settings, self.asked.seeds[0])
            for number, settings in enumerate(self.asked.draws)
            for way in self.asked.ways
        ]
        stage = folder_of(Path(), self.asked.number, self.asked.stage)
        self.runner = Runner(self.folder, self.asked.stage.name, str(stage), self.asked.metric, self.save, until)

    def go(self, note: Any) -> None:
        """Trials, then the best of each group with every seed, then the tasks."""
        if len(self.asked.draws) > 1:
            for trial in self.candidates:
                self._run(trial, note, others=[one for one in self.candidates if one.group == trial.group])
                if self.runner.over:
                    break
        finals: dict[str, list[Trial]] = {way.label: [] for way in self.asked.ways}
        if not self.runner.over:
            for seed in self.asked.seeds:
                for way in self.asked.ways:
                    best = self._best(way)
                    if best is not None and not self.runner.over:
                        number = self.candidates.index(best) // len(self.asked.ways)
                        final = best if seed == best.seed else self._trial(way, number, best.settings, seed)
                        self._run(final, note)
                        finals[way.label] += [final] if final.state == "done" else []
        self.ended = "the budget ended; the same command goes on" if self.runner.over else ""
        tasks = {} if self.ended else self._measure(finals, note)
        self.result = report(self, finals, tasks)

    def _run(self, trial: Trial, note: Any, others: Sequence[Trial] = ()) -> None:
        if trial.state in ("done", "pruned") or (trial.state == "failed" and trial.exit_code == 5) or self.runner.over:
            return
        self.runner.run(trial, others if self.prune else ())
        what = f"{self.asked.metric.name} {trial.value:.4g}" if trial.value is not None else trial.reason
        note(f"{trial.name}: {_said(trial.settings)} {trial.state}, {what}")

    def _best(self, way: Way) -> Trial | None:
        """The one setting there is, or the best that ended."""
        own = [one for one in self.candidates if one.group == way.label]
        if len(self.asked.draws) == 1:
            return own[0]
        done = [one for one in own if one.state == "done"]
        return min(done, key=lambda one: self.asked.metric.sign * (one.value or 0.0), default=None)

    def _trial(self, way: Way, number: int, drawn: Mapping[str, Any], seed: int) -> Trial:
        """The trial of this name, as it was recorded or new; `drawn` may hold factors of the usual rate."""
        words = self._words(way, drawn, seed)
        parts = [f"{number + 1:03d}", *([way.label.partition("(")[0]] if way.label else []), f"seed{seed}"]
        if "(" in way.label:
            parts.insert(2, hashlib.sha256(way.label.encode()).hexdigest()[:6])
        name = "-".join(parts)
        recipes.load(self.recipe, words)
        known = self.trials.get(name)
        place = self.folder / "trials" / name
        run = command(self.recipe, words, place)
        if known is None:
            known = self.trials[name] = Trial(name=name, group=way.label, settings=dict(drawn), seed=seed, command=run)
        known.command = run
        self.asked_for[name] = known
        return known

    def _words(self, way: Way, drawn: Mapping[str, Any], seed: int) -> list[str]:
        """The overrides that make the trial of the recipe."""
        here = f"stages.{self.asked.stage.name}"
        words = [
            *self.overrides,
            *(f"{key}=null" for key in ("evaluate", "notify") if getattr(self.plan, key) is not None),
        ]
        if way.options is not None:
            words += [f"{here}.method={json.dumps({'name': way.name, **way.options})}", f"{here}.lr=null"]
        if way.name and self.asked.stage is self.plan.stages[-1]:
            words.append(f"{here}.then=null")  # an adapter is kept as it is, so that its size shows
        if seed != self.plan.seed:
            words.append(f"seed={seed}")
        factors = {one.key for one in self.asked.axes if one.times}
        for key, value in drawn.items():
            place = self._place(key)
            if key in factors:
                usual = recipes.load(self.recipe, words).stages[self.asked.number].lr
                assert usual is not None, "a recipe that was loaded has its rates"
                value = float(f"{usual * value:.4g}")
            words.append(f"{place}={json.dumps(value)}")
        return words

    def _place(self, key: str) -> str:
        """`lr` is the searched stage's, `align.lr` another one's, `evaluate.limit` the recipe's."""
        first = key.split(".")[0]
        names = [one.name for one in self.plan.stages]
        if first in names and "." in key:
            return f"stages.{key}"
        return key if first in recipes.TOP_KEYS else f"stages.{self.asked.stage.name}.{key}"

    def _measure(self, finals: Mapping[str, Sequence[Trial]], note: Any) -> dict[str, Any]:
        """Scorecards of the final runs and of the model before training, on the recipe's tasks."""
        return compared(self.plan, self.folder, {key: [one.name for one in runs] for key, runs in finals.items()}, note)

    def _take_up(self) -> None:
        path = self.folder / "search.json"
        self.asked.recorded["recipe"] = recipes.to_plain(self.plan, self.folder.absolute())
        if not path.is_file():
            return
        known = rundir.read_json(path)
        old, new = known["asked"], self.asked.recorded
        changed = [key for key in new if key not in GROWS and old.get(key) != json.loads(json.dumps(new[key]))]
        if changed:
            raise Mismatch(
                f"{self.folder} holds a search with another {', '.join(changed)}; choose another --out, or put it back"
            )
        self.trials = {one["name"]: Trial(**one) for one in known["trials"]}

    def save(self) -> None:
        """Write search.json."""
        facts = {"schema": 1, "asked": self.asked.recorded, "trials": [one.to_json() for one in self.trials.values()]}
        rundir.write_json(self.folder / "search.json", {**facts, "result": self.result})


def _said(settings: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())
