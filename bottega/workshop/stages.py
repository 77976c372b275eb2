"""`bottega run`: the stages of a recipe one after the other in a run folder that can be left and entered at any time.

Left out: how a stage is built (build.py), what is recorded and compared (record.py), the report's looks (report.py).

runs/NAME/ holds recipe.yaml (resolved), run.json (what it was made of), environment.json, stages/NN-name/
(intake.json, metrics.jsonl, checkpoints/, result/, stage.json), scorecards/, report.html; clock, host and cost lie
apart in host.json.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core import devices, rundir
from bottega.core.config import dump_yaml
from bottega.core.errors import UserError
from bottega.core.textio import progress, table
from bottega.models import locate, safety
from bottega.models.methods import method
from bottega.workshop import launch, plan_brief, recipe_live, scratch
from bottega.workshop import recipe as recipes
from bottega.workshop.measure import check_tasks, gates, measure
from bottega.workshop.ranks import Ranks
from bottega.workshop.recipe_parts import ADAPTERS
from bottega.workshop.record import Record, git_commit, stage_record
from bottega.workshop.stage import Session, folder_of, has_begun, is_done, run_stage, seen_from

if TYPE_CHECKING:
    from bottega.workshop.recipe import Recipe

Source = str | os.PathLike[str] | Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """How a run ended. model: the folder to use; stages: each one's numbers; gates: failed ones (exit code 1)."""

    name: str
    folder: Path
    model: Path
    stages: dict[str, dict[str, Any]]
    scorecards: dict[str, str] = field(default_factory=dict)
    gates: tuple[str, ...] = ()
    report: str | None = None

    @property
    def exit_code(self) -> int:
        return 1 if self.gates else 0

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunResult:
        """What `to_json` gave."""
        kept = {name: data[name] for name in ("name", "stages", "scorecards", "report")}
        return cls(**kept, folder=Path(data["folder"]), model=Path(data["model"]), gates=tuple(data["gates"]))

    def to_json(self) -> dict[str, Any]:
        """As printed by `run --json`."""
        return {
            "name": self.name,
            "folder": str(self.folder),
            "model": str(self.model),
            "stages": self.stages,
            "scorecards": self.scorecards,
            "gates": list(self.gates),
            "report": self.report,
            "exit_code": self.exit_code,
        }


def run(
    recipe: Source | None,
    overrides: Sequence[str] = (),
    *,
    out: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    allow_change: Iterable[str] = (),
    allow_loss: int | None = None,
    trust_code: str | None = None,
    update: str | None = None,
    quiet: bool = False,
    print_launch: bool = False,
) -> RunResult | dict[str, Any]:
    """Run a recipe, or go on with the run that lies in `out` (default: runs/NAME); under torchrun, all processes together.

    Args:
        recipe: a file, or the same as a mapping. overrides: `key=value` texts.
        allow_change: recorded inputs that may differ now, such as `adapt.data`. allow_loss: bad rows that each source
            may lose.
        trust_code: a 40-hex revision at which the model's own code may run.
        print_launch: only say which torchrun commands run this recipe as several processes.
        update: a finished run that learns new data (update.py) instead of a recipe.

    Returns:
        The result; with dry_run, the plan; with print_launch, the commands.

    Raises:
        UserError: see core/errors.py for each kind and its exit code.
    """
    if update is not None:
        if print_launch:
            raise UserError("run --update works in one process; leave --print-launch out")
        from bottega.workshop.update import update as bring_up_to_date

        options = {"dry_run": dry_run, "allow_change": allow_change, "allow_loss": allow_loss, "trust_code": trust_code}
        return bring_up_to_date(update, overrides, out=out, quiet=quiet, **options)
    if recipe is None:
        raise UserError("run needs a RECIPE, or a finished run and new data: bottega run --update RUN data=NEW")
    with Ranks() as ranks:
        plan = recipes.load(recipe, overrides)
        if allow_loss is not None:
            plan = recipes.allow_loss(plan, allow_loss)
        folder = ranks.folder = Path(out) if out is not None else Path("runs") / plan.name
        check_tasks(plan)
        if plan.init is not None:
            plan = dataclasses.replace(plan, model=str(folder / scratch.START))
        else:
            _check_base(plan.model, trust_code)
        if (folder / "stages").is_dir():
            safety.refuse_pickles(folder / "stages")
        if print_launch:
            return launch.launch(plan, recipe, overrides, folder)
        if dry_run:
            return _plan(plan, folder, allow_change)
        for stage in plan.stages:
            launch.refuse_uneven(stage.name, stage.batch, ranks.size)
        return _together(plan, folder, ranks, allow_change=allow_change, trust=trust_code, quiet=quiet)


def _together(
    plan: Recipe, folder: Path, ranks: Ranks, *, allow_change: Iterable[str], trust: str | None, quiet: bool
) -> RunResult:
    """The run itself: the first of several processes holds the folder, writes and speaks; the others train with it."""
    holding = rundir.lock(folder) if ranks.leads else nullcontext()
    with holding, rundir.disk_errors(folder), ranks.listening():
        if ranks.leads:
            rundir.sweep(folder)
        shown = progress(None, plan.name, quiet=quiet or not ranks.leads)
        record = Record(folder, plan, allow_change)
        device = _device(plan, shown.note)
        devices.repeatable(device.partition(":")[0])
        plan = record.settled(plan, device.partition(":")[0], half=devices.has_bf16(device))
        this = Session(
            recipe=plan,
            folder=folder,
            record=record,
            trust=trust,
            quiet=quiet or not ranks.leads,
            note=shown.note,
            ranks=ranks,
            device=device,
        )
        shown.close()
        if plan.init is not None:
            ranks.decide(lambda: scratch.begin(plan, folder, this.note))
        if ranks.leads:
            return RunResult.from_json(ranks.decide(_run(this).to_json))
        for number in range(len(plan.stages)):
            run_stage(this, number)
        return RunResult.from_json(ranks.decide(dict))


def _device(plan: Recipe, note: Callable[[str], None]) -> str:
    """Where the run's models lie; the first stage says how its base is held."""
    from bottega.models.place import choose_for

    stage = plan.stages[0]
    weights = str(method(stage.method.name, **stage.method.options).load_options().get("weights", "full"))
    narrow = stage.loop["precision"] == "bf16-true" or (
        stage.loop["precision"] == "usual" and stage.method.name in ADAPTERS
    )
    how: dict[str, Any] = {
        "weights": weights,
        "stream": bool(stage.loop.get("stream")),
        "num_bytes": 2 if narrow else 4,
    }
    return choose_for(plan.model, plan.device, **how, note=note)


def run_text(result: RunResult | dict[str, Any]) -> str:
    """What a run or a plan comes to, for people."""
    from bottega.workshop.report_files import use_of

    if isinstance(result, dict):
        return launch.launch_text(result) if "launch" in result else _plan_text(result)
    rows = [
        (name, facts.get("steps"), facts.get("loss"), facts.get("eval.loss")) for name, facts in result.stages.items()
    ]
    lines = [table(rows, ("stage", "steps", "loss", "validation loss"))]
    lines += [f"gate not passed: {gate}" for gate in result.gates]
    lines += [f"model   {result.model}", f"report  {result.report}" if result.report else ""]
    use = use_of(result.folder)
    lines.append(f"next    {use}")
    if use.startswith("bottega chat"):
        lines.append(f"        bottega eval {shlex.quote(str(result.folder))} --tasks TASK")
    return "\n".join(line for line in lines if line)


def _check_base(model: str, trust: str | None) -> None:
    """A local model that is not there, or not safe to open, is refused before anything heavy is imported."""
    if model in locate.BUNDLED or Path(model).expanduser().is_dir() or model.startswith((".", "/", "~")):
        place = locate.locate(model)
        safety.check_configs(place.base, trust=trust is not None)
        safety.weight_files(place.base)


def _run(this: Session) -> RunResult:
    began, cpu = time.time(), time.process_time()
    plan, folder = this.recipe, this.folder
    made = {stage.name for i, stage in enumerate(plan.stages) if has_begun(folder_of(folder, i, stage))}
    this.record.check_order([stage.name for stage in plan.stages], made)
    for stage in plan.stages:
        if stage.name in this.record.data["stages"]:
            this.record.check(stage.name, stage_record(stage, plan.seed))
    rundir.atomic_write(folder / "recipe.yaml", dump_yaml(recipes.to_plain(plan, folder.absolute())))
    _write_environment(folder)
    cards: dict[str, Any] = {}
    try:
        if plan.evaluate is not None and plan.evaluate.before:
            cards["0-before"] = _measured(this, "0-before", plan.model)
        results = {stage.name: run_stage(this, number) for number, stage in enumerate(plan.stages)}
        last = folder_of(folder, len(plan.stages) - 1, plan.stages[-1]) / "result"
        if plan.evaluate is not None:
            cards["1-after"] = _measured(this, "1-after", str(last))
    finally:
        _write_host(this, began, time.process_time() - cpu)
    _write_environment(folder)
    checks = gates(plan, cards)
    rundir.write_json(folder / "checks.json", checks)
    result = RunResult(
        name=plan.name,
        folder=folder,
        model=last,
        stages=results,
        scorecards={name: str(folder / "scorecards" / f"{name}.json") for name in cards},
        gates=tuple(check["said"] for check in checks if not check["passed"]),
        report=_report(this),
    )
    rundir.write_json(folder / "result.json", seen_from(folder, result.to_json()))
    if plan.notify is not None:
        from bottega.workshop.notify import notify

        notify(plan.notify, result.to_json(), this.note)
    return result


def _write_environment(folder: Path) -> None:
    """environment.json: packages, the code's commit, and torch's threads where this session has trained."""
    path = folder / "environment.json"
    old = rundir.read_json(path) if path.is_file() else {}
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch is not None else old.get("torch_threads")
    rundir.write_json(path, {**rundir.environment(), **git_commit(), "torch_threads": threads})


def _measured(this: Session, label: str, model: str) -> dict[str, Any]:
    return measure(this.recipe, this.folder, label, model=model, trust=this.trust, device=this.device, note=this.note)


def _write_host(this: Session, began: float, cpu_s: float) -> None:
    """Clock, host and cost, the only file of a run that differs between two equal runs; entries add up over resumes."""
    path = this.folder / "host.json"
    old = rundir.read_json(path) if path.is_file() else {"sessions": []}
    totals = {name: dict(facts) for name, facts in old.get("stages", {}).items()}
    for name, facts in this.spent.items():
        known = totals.get(name, {})
        both = {key: round(known.get(key, 0) + facts[key], 3) for key in ("seconds", "cpu_s")}
        totals[name] = {**both, "peak_mb": max(known.get("peak_mb", 0), facts["peak_mb"])}
    session = {
        "host": socket.gethostname(),
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(began)),
        "seconds": round(time.time() - began, 3),
        "cpu_seconds": round(cpu_s, 3),
    }
    rundir.write_json(path, {"stages": totals, "sessions": [*old["sessions"], session]})


def _report(this: Session) -> str:
    """report.html and the curve's picture."""
    from bottega.workshop import report

    return str(report.write(this.folder, note=this.note))


def _plan(plan: Recipe, folder: Path, allow_change: Iterable[str]) -> dict[str, Any]:
    """What a run would do, without doing it."""
    record = Record(folder, plan, allow_change)
    plan = record.settled(plan, None)
    stages = []
    for number, stage in enumerate(plan.stages):
        place = folder_of(folder, number, stage)
        known = stage_record(stage, plan.seed)
        state = "done" if is_done(place) else "begun" if stage.name in record.data["stages"] else "new"
        if state != "new":
            record.compare(stage.name, known)
        files = [file for part in known["data"] for file in part["files"]]
        stages.append(
            {
                "name": stage.name,
                "objective": stage.objective.name,
                "method": stage.method.name,
                "steps": stage.steps,
                "epochs": stage.epochs,
                "batch": stage.batch,
                "lr": stage.lr,
                "start": stage.start,
                "then": stage.then,
                "files": [file["name"] for file in files],
                "bytes": sum(file["bytes"] for file in files),
                "state": state,
                "people": recipe_live.sentence(stage.feedback),
            }
        )
    tasks = list(plan.evaluate.tasks) if plan.evaluate else []
    needs = plan_brief.brief(plan)
    disk = shutil.disk_usage(folder if folder.exists() else Path.cwd()).free
    return {
        "name": plan.name,
        "folder": str(folder),
        "model": plan.model,
        "stages": stages,
        "tasks": tasks,
        "disk_free": disk,
        "needs": needs,
        "exit_code": needs["exit_code"],
    }


def _plan_text(plan: dict[str, Any]) -> str:
    rows = []
    for stage in plan["stages"]:
        length = f"{stage['steps']} steps" if stage["steps"] else f"{stage['epochs']:g} epochs"
        what = f"{stage['objective']}, {stage['method']}, lr {stage['lr']:g}"
        size = f"{len(stage['files'])} files, {stage['bytes'] / 1e6:.1f} MB"
        name = stage["name"] + (f" (from {stage['start']})" if stage["start"] else "")
        rows.append((name, what, length, size, stage["then"], stage["state"]))
    lines = [f"{plan['name']}: {plan['model']} -> {plan['folder']}"]
    lines.append(table(rows, ("stage", "what", "length", "data", "then", "state")))
    lines += [f"{stage['name']}: {stage['people']}" for stage in plan["stages"] if stage["people"]]
    lines += [f"measured: {', '.join(plan['tasks'])}"] if plan["tasks"] else []
    return "\n".join([*lines, *plan_brief.brief_text(plan["needs"]), "nothing was done: this was a dry run"])
