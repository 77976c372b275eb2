"""`bottega data clean`, the cleaning steps of a recipe, and which runs hold a row that is to be erased.

Left out: what the steps do (the data room).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core.config import load_yaml
from bottega.core.errors import UserError
from bottega.core.textio import printable

if TYPE_CHECKING:
    from bottega.data.clean.account import Account, Item, Rejected
    from bottega.data.clean.held import Keys
    from bottega.data.intake import Intake
    from bottega.workshop.recipe_choice import Choice
    from bottega.workshop.recipe_parts import Part

DEFAULT_STEPS = ("exact", "near")
HELD = "rows.keys"
"""The file of a stage's folder with the hashes of the rows that it was trained and measured on."""


def clean(
    paths: Sequence[str],
    *,
    out: str,
    steps: Sequence[str] = (),
    settings: Sequence[str] = (),
    seed: int = 0,
    format: str | None = None,
    columns: Sequence[str] = (),
    allow_loss: int | None = None,
    erase: Sequence[str] = (),
    runs: str = "runs",
) -> dict[str, Any]:
    """Files through cleaning steps into a folder.

    Args:
        steps: names in order; none: exact and near, or nothing but erasing. settings: STEP.OPTION=VALUE texts.
        erase: rows to leave out first: a hash, a file of rows, or a text that they hold. runs: the folder of run folders in
            which those that hold an erased row are looked for.

    Raises:
        UserError: a mistake in a step or its options, or in the data.
    """
    from bottega.data.clean.files import clean as clean_files
    from bottega.data.clean.held import erase as Erase
    from bottega.workshop.data_verbs import pairs

    given = steps or (() if erase else DEFAULT_STEPS)
    choices = [(name, resolved(name, options)) for name, options in chosen(given, settings)]
    options: dict[str, Any] = {"format": format, "columns": pairs(columns), "allow_loss": allow_loss}
    if not erase:
        return clean_files(list(paths), choices, out=out, seed=seed, **options)
    if not Path(runs).is_dir():
        raise UserError(f"there is no folder {runs} to look for runs in; name it with --runs")
    erasing = Erase(erase)
    result = clean_files(list(paths), choices, out=out, seed=seed, erasing=erasing, **options)
    result["runs"] = runs_that_hold(Path(runs), erasing.keys, paths)
    return result


def clean_text(result: dict[str, Any]) -> str:
    """Each step with its counts and examples, and what was written."""
    from bottega.data.clean.account import render

    lines = [f"{result['read']:,} rows read, {result['kept']:,} kept"]
    lines += [f"  not usable {count:,}  {reason}" for reason, count in result["not_usable"].items()]
    lines += [line for account in result["steps"] for line in render(account)]
    lines += [_run_line(run) for run in result.get("runs", ())]
    if "runs" in result and not any(run["state"] != "no" for run in result["runs"]):
        lines.append(f"none of {len(result['runs']):,} stages of runs holds an erased row")
    lines += [f"written: {result['out']}/cleaned.jsonl, rejects.jsonl, clean.json"]
    return "\n".join(map(printable, lines))


def _run_line(run: Mapping[str, Any]) -> str:
    said = {
        "holds": f"holds {len(run['rows']):,} of the erased rows: retrain it without them, or delete it",
        "file": "was trained on the very file that held the rows, before runs recorded their rows",
        "unknown": "was made before runs recorded their rows: whether it holds one is not known",
        "no": "holds none of the erased rows",
    }
    return f"{run['run']} ({run['stage']}): {said[run['state']]}"


def runs_that_hold(root: Path, wanted: Mapping[bytes, str], paths: Sequence[str]) -> list[dict[str, Any]]:
    """What each stage of each run below `root` has to do with rows: holds, no, file (by the file's hash), unknown.

    Args:
        wanted: hash of a row or text -> what it is. paths: the files in which the rows lay.
    """
    from bottega.core.rundir import read_json, sha256
    from bottega.data.clean.held import holds

    hashes = {sha256(path) for path in paths if Path(path).is_file()}
    answers = []
    for record_file in sorted(root.rglob("run.json")):
        folder = record_file.parent
        for number, (name, known) in enumerate(read_json(record_file)["stages"].items(), 1):
            held = folder / "stages" / f"{number:02d}-{name}" / HELD
            answer: dict[str, Any] = {"run": str(folder), "stage": name, "state": "unknown", "rows": {}}
            if held.is_file():
                found = holds(held, wanted)
                answer |= {"state": "holds" if found else "no", "rows": {key.hex(): wanted[key] for key in found}}
            elif hashes & {file["sha256"] for part in _parts(known) for file in part.get("files", ())}:
                answer["state"] = "file"
            answers.append(answer)
    return answers


def _parts(known: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*known.get("data", ()), *known.get("validation", ())]


def chosen(steps: Sequence[str], settings: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Steps with their options from `near.threshold=0.7` texts.

    Raises:
        UserError: a text of another form, or for a step that is not among them.
    """
    options: dict[str, dict[str, Any]] = {name: {} for name in steps}
    for text in settings:
        key, equals, value = text.partition("=")
        name, dot, option = key.partition(".")
        if not (equals and dot and option):
            raise UserError(f"--set {text!r} is not STEP.OPTION=VALUE, such as near.threshold=0.7")
        if name not in options:
            raise UserError(f"--set {text!r} is for the step {name!r}, which is not among {', '.join(steps)}")
        parsed, _ = load_yaml(value, file=f"--set {text}")
        options[name][option] = parsed
    return [(name, options[name]) for name in steps]


def resolved(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A step's options with the names of bundled benchmarks (`gsm8k=FILE` too) turned into files."""
    against = options.get("against")
    if name != "decontaminate" or against is None:
        return dict(options)
    given = [against] if isinstance(against, str) else against
    return {**options, "against": [_evaluation(one) if isinstance(one, str) else one for one in given]}


def _evaluation(spec: str) -> str:
    from bottega.evals.tasks import builtin

    if Path(spec).exists():
        return spec
    task, equals, data = spec.partition("=")
    return data if equals and task in builtin() else str(builtin().get(spec, spec))


def check(choices: Iterable[Choice] | None) -> list[str]:
    """What is wrong with a recipe's cleaning steps; extras and evaluation files that are missing too."""
    from bottega.data.clean.steps import step

    mistakes = []
    for choice in choices or ():
        try:
            step(choice.name, resolved(choice.name, choice.options))
        except UserError as error:
            mistakes.append(str(error))
    return mistakes


def record(choices: Iterable[Choice] | None) -> list[dict[str, Any]] | None:
    """Cleaning steps as a run's record has them: evaluation files by their content, since a file that moved has not changed."""
    from bottega.core.rundir import sha256

    if choices is None:
        return None
    steps = []
    for choice in choices:
        options = resolved(choice.name, choice.options)
        if "against" in options:
            options["against"] = [sha256(path) for path in options["against"] if Path(path).is_file()]
        steps.append({"name": choice.name, **options})
    return steps


@dataclass(kw_only=True, slots=True)
class Sources:
    """The rows of a stage's sources after cleaning: what stays, what went by reason, and each step's account."""

    found: list[list[Any]]
    gone: list[Counter[str]]
    held: Keys
    accounts: list[Account] = field(default_factory=list)

    def told(self, source: int, intake: Intake) -> Intake:
        """The account of a source's rows with those that cleaning left out."""
        gone = self.gone[source]
        dropped = {**intake.dropped, **{f"clean: {reason}": count for reason, count in sorted(gone.items())}}
        return replace(intake, read=intake.read + gone.total(), dropped=dropped) if gone else intake


def read_sources(
    parts: Sequence[Part], together: Sequence[Choice] | None, *, seed: int, held: Keys, keep: bool = True
) -> Sources:
    """Read the sources of a stage, each through its own steps, then all of them together through the stage's.

    Args:
        held: hears of every row that stays. keep: False: that is all that is wanted.

    Raises:
        UserError: a source of which no row is left, or as the data room's `samples` and `cleaned`.
    """
    from bottega.data.clean.steps import cleaned
    from bottega.data.sources import Problem

    sources = Sources(found=[[] for _ in parts], gone=[Counter() for _ in parts], held=held)

    def reject(rejected: Rejected) -> None:
        sources.gone[rejected.item.source][rejected.reason] += 1

    def items() -> Iterator[Item]:
        for number, part in enumerate(parts):
            stream, accounts = cleaned(_items(number, part, sources), _pairs(part.clean), seed=seed, sink=reject)
            sources.accounts += accounts
            yield from stream

    stream, accounts = cleaned(items(), _pairs(together), seed=seed, sink=reject)
    for item in stream:
        held.add(item.sample, item.origin)
        if keep:
            sources.found[item.source].append(item.sample)
    sources.accounts += accounts
    for part, found, gone in zip(parts, sources.found, sources.gone):
        if gone and all(isinstance(row, Problem) for row in found):
            went = ", ".join(f"{reason} {count:,}" for reason, count in gone.items())
            raise UserError(f"no row of {part.source} is left after cleaning ({went}); loosen a step or leave it out")
    return sources


def write_held(path: Path, held: Keys | None, parts: Sequence[Part]) -> None:
    """Write the hashes of a stage's rows, once; sources whose rows lie in shards are read again for it."""
    from bottega.data.clean.held import Keys

    if held is None:
        if path.is_file():
            return
        held = Keys()
        read_sources(parts, None, seed=0, held=held, keep=False)
    held.write(path)


def _pairs(choices: Iterable[Choice] | None) -> list[tuple[str, dict[str, Any]]]:
    return [(choice.name, resolved(choice.name, choice.options)) for choice in choices or ()]


def _items(number: int, part: Part, sources: Sources) -> Iterator[Item]:
    """The samples of a source; what cannot be used goes by all steps to where it is counted."""
    from bottega.data.clean.account import Item
    from bottega.data.formats import samples
    from bottega.data.pieces import row_key
    from bottega.data.sources import Problem

    for sample in samples(part.source, format=part.format, columns=part.columns):
        if isinstance(sample, Problem):
            sources.found[number].append(sample)
        else:
            yield Item(number, sample, row_key(sample))
