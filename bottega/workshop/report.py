"""One page a run: report.html, made from the run folder's JSON files alone, and curve.png beside it.

Left out: scripts and anything from outside the file (a strict content policy says so); every text from a run is
escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from bottega.core import rundir
from bottega.core.errors import Mismatch
from bottega.evals.compare import Comparison, Report, compare
from bottega.evals.runner import Score
from bottega.workshop import curve, report_answers, report_audits, report_live
from bottega.workshop.markup import (
    bounds,
    chip,
    clip,
    duration,
    file_size,
    number,
    plain_name,
    section,
    small,
    table,
    whisker,
)
from bottega.workshop.report_files import Run, Stage, read, use_of

CSS = Path(__file__).with_name("report.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
MAX_SAMPLES = 40
SECOND = ("accuracy", "margin", "kl", "reward")  # the metrics worth a curve of their own beside the loss
MARKS = {
    "better": ("good", "▲ better"),
    "worse": ("bad", "▼ worse"),
    "no difference": ("flat", "● no clear difference"),
}
GROUP_MARKS = {
    "improved": ("good", "▲ improved"),
    "regressed": ("bad", "▼ regressed"),
    "unchanged": ("flat", "● unchanged"),
}


def write(run_folder: str | Path, *, note: Callable[[str], None] | None = None) -> Path:
    """Write report.html (and curve.png, where matplotlib is installed) into a run folder.

    Args:
        note: told how to get the PNG where it cannot be drawn.

    Returns:
        The path of report.html.

    Raises:
        UserError: the folder is no run folder. DiskFull: it cannot be written.
    """
    run = read(run_folder)
    drawn = (
        curve.png({stage.name: stage.metrics for stage in run.stages}, run.folder / "curve.png") if run.stages else True
    )
    if not drawn and note is not None:
        note("curve.png was not drawn, since matplotlib is not installed: pip install 'bottega[report]'")
    path = run.folder / "report.html"
    rundir.atomic_write(path, page(run))
    return path


def page(run: Run) -> str:
    """The whole document."""
    title = str(run.run.get("title") or run.run.get("name") or run.folder.name)
    sections = [
        _plan(run),
        _checks(run),
        _scores(run),
        report_audits.audits(run),
        _curves(run),
        report_live.people(run),
        _samples(run),
        report_answers.answers(run),
        _costs(run),
        _intake(run),
        _commands(run),
        _recipe(run),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(title)} · Bottega</title><style>{CSS.read_text(encoding='utf-8')}</style></head><body><main>"
        f"{_header(run, title)}{''.join(sections)}{_footer(run)}</main></body></html>\n"
    )


def _header(run: Run, title: str) -> str:
    passed = sum(bool(check.get("passed")) for check in run.checks)
    seconds = sum(_seconds(run, stage) for stage in run.stages)
    facts = {
        "Model": run.run.get("model"),
        "Stages": _order(run),
        "Seed": run.run.get("seed"),
        "Checks passed": f"{passed} of {len(run.checks)}" if run.checks else None,
        "Training time": duration(seconds) if seconds else None,
        "Tokens seen": curve.label(sum(_tokens(stage) for stage in run.stages)) if run.stages else None,
    }
    cells = "".join(
        f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in facts.items() if v not in (None, "")
    )
    about = run.run.get("description")
    words = f"<p>{escape(str(about))}</p>" if about else ""
    top = f'<div class="eyebrow">Bottega run</div><h1>{escape(title)}</h1>'
    return f'<header>{top}{words}<dl class="facts">{cells}</dl></header>'


def _order(run: Run) -> str:
    """The stages in order; one that starts from another than the one before says so."""
    recorded = run.run.get("stages")
    known = recorded if isinstance(recorded, Mapping) else {}
    starts = {name: one.get("start") for name, one in known.items() if isinstance(one, Mapping)}
    if not any(starts.values()):
        return " → ".join(stage.name for stage in run.stages)
    return ", ".join(f"{s.name} (from {starts[s.name]})" if starts.get(s.name) else s.name for s in run.stages)


def _plan(run: Run) -> str:
    """What was run and on what: the stages as they were recorded."""
    recorded = run.run.get("stages")
    rows = []
    for name, stage in (recorded if isinstance(recorded, Mapping) else {}).items():
        data = [part for part in stage.get("data", ()) if isinstance(part, Mapping)]
        files = [file for part in data for file in part.get("files", ())]
        shown = ", ".join(str(file.get("name")) for file in files[:3]) + (
            f" and {len(files) - 3} more" if files[3:] else ""
        )
        sizes = file_size(sum(file.get("bytes", 0) for file in files))
        length = f"{stage['steps']:,} steps" if stage.get("steps") else f"{stage.get('epochs') or 1:g} epochs"
        what = " with ".join(_named(stage.get(key)) for key in ("objective", "method"))
        how = f"{length} of {number(stage.get('batch'))} rows, lr {stage.get('lr') or 0:g}"
        rows.append([escape(str(name)), escape(what), f"{escape(shown)}{small(sizes)}", escape(how)])
    return section("What was run", table(("Stage", "Training", "Data", "Length"), rows, stacks=True))


def _named(choice: Any) -> str:
    """`lora (rank 16)` from a recorded choice; options that are defaults of no interest stay out."""
    if not isinstance(choice, Mapping):
        return str(choice)
    options = choice.get("options") or {}
    told = ", ".join(f"{key} {options[key]}" for key in ("rank", "length", "beta") if key in options)
    return f"{choice.get('name')} ({told})" if told else str(choice.get("name"))


def _checks(run: Run) -> str:
    rows = []
    for check in run.checks:
        value, low, high = (check.get(name) for name in ("value", "low", "high"))
        mark = chip("good", "✓ passed") if check.get("passed") else chip("bad", "✗ failed")
        bound = check.get("bound")
        rows.append(
            [
                escape(plain_name(str(check.get("stage", "")))),
                escape(str(check.get("check", ""))),
                f"{number(value)}{bounds(low, high)}{whisker(value, low, high)}",
                number(bound) if isinstance(bound, int | float) else escape(_signs(bound)),
                number(check.get("n")),
                mark,
            ]
        )
    head = ("Stage", "Check", "Measured", "Bound", "n", "Verdict")
    words = "Measured on held-out questions; the small numbers are 95 percent intervals."
    return section("Checks", table(head, rows, numbers=(2, 3, 4), stacks=True), words)


def _signs(bound: Any) -> str:
    """>= 0.8 as it is printed: ≥ 0.8."""
    return "–" if bound is None else str(bound).replace(">=", "≥").replace("<=", "≤")


def _scores(run: Run) -> str:
    names = list(run.cards)
    tasks = list(dict.fromkeys(score.task for card in run.cards.values() for score in card.scores))
    report = _compared(run)
    verdicts = _verdicts(run, report)
    rows = []
    for task in tasks:
        scores = {name: score for name, card in run.cards.items() for score in card.scores if score.task == task}
        any_score = next(iter(scores.values()))
        arrow = "" if any_score.higher_is_better else " (lower is better)"
        guess = f"; guessing {number(any_score.random)}" if any_score.random else ""
        counts = sorted({score.n for score in scores.values()})
        n = f"n = {counts[0]:,}" if len(counts) == 1 else f"n = {counts[0]:,} to {counts[-1]:,}"
        words = f'{escape(task)}<span class="bounds">{escape(any_score.metric)}{arrow}, {n}{guess}</span>'
        cells = [_score_cell(scores.get(name)) for name in names]
        rows.append([words, *cells, verdicts.get(task, "")])
    head = ("Task", *names, f"{names[0]} to {names[-1]}" if len(names) > 1 else "")
    columns = range(1, len(names) + 1)
    words = (
        "With 95 percent intervals. The mark compares the first and the last column item by item "
        "(paired bootstrap and McNemar, corrected)."
    )
    shown = table(head, rows, numbers=tuple(columns), stacks=True)
    if isinstance(report, Report):
        shown += "".join(_groups(one) for one in report.tasks if one.groups)
    return section("Before and after", shown, words)


def _groups(one: Comparison) -> str:
    """One task's items told apart by its column, what fell first."""
    rows = []
    for group in sorted(one.groups, key=lambda group: group.difference.value):
        d = group.difference
        gap = f"{d.value:+.3f}{bounds(d.low, d.high)}"
        mark = chip(*GROUP_MARKS[group.verdict])
        rows.append([escape(group.name), number(group.before), number(group.after), gap, f"{d.n:,}", mark])
    head = (f"{one.task}, told apart", "before", "after", "difference", "n", "")
    return table(head, rows, numbers=(1, 2, 3, 4), stacks=True)


def _score_cell(score: Score | None) -> str:
    if score is None:
        return "–"
    rail = whisker(score.value, score.low, score.high) if score.higher_is_better else ""
    return f"{number(score.value)}{bounds(score.low, score.high)}{rail}"


def _compared(run: Run) -> Report | str | None:
    """The first scorecard against the last; why not, where they cannot be compared; None where there is one."""
    cards = list(run.cards.values())
    if len(cards) < 2:
        return None
    try:
        return compare(cards[0], cards[-1], seed=cards[0].seed)
    except Mismatch as error:
        return str(error)


def _verdicts(run: Run, report: Report | str | None) -> dict[str, str]:
    if report is None:
        return {}
    if isinstance(report, str):
        said = f"{chip('flat', 'not compared')}<span class='bounds'>{escape(report)}</span>"
        return {score.task: said for score in next(iter(run.cards.values())).scores}
    return {one.task: _verdict(one) for one in report.tasks}


def _verdict(one: Comparison) -> str:
    kind, words = MARKS[one.verdict]
    d = one.difference
    moved = f'<span class="bounds">{d.improved:,} items better, {d.regressed:,} worse</span>'
    return chip(kind, words) + moved


def _curves(run: Run) -> str:
    figures = []
    for stage in run.stages:
        for metric in (
            "loss",
            *[name for name in SECOND if any(name in line or f"eval.{name}" in line for line in stage.metrics)][:1],
        ):
            lines = curve.series_of(stage.metrics, metric)
            picture = curve.svg(lines, title=f"{stage.name}: {metric}", y_label=metric)
            if picture:
                counts = f"{len(stage.metrics):,} steps, {curve.label(_tokens(stage))} tokens"
                caption = f"{curve.ends(lines)}; {counts}"
                name = escape(stage.name if metric == "loss" else f"{stage.name}, {metric}")
                figures.append(f"<figure><h3>{name}</h3>{picture}<figcaption>{escape(caption)}</figcaption></figure>")
    return section("Curves", f'<div class="curves">{"".join(figures)}</div>' if figures else "")


def _samples(run: Run) -> str:
    cards = []
    for sample in run.samples[:MAX_SAMPLES]:
        answers = sample.get("stages")
        if not isinstance(answers, Mapping):
            continue
        right = sample.get("right") or ()
        cells = "".join(
            f"<div><b>{escape(plain_name(str(name)))}{' ✓' if name in right else ''}</b>"
            f"<span>{clip(answer) or '(nothing)'}</span></div>"
            for name, answer in answers.items()
        )
        truth = sample.get("truth")
        wanted = (
            f'<p class="soft wanted">expected:{chr(10) if chr(10) in str(truth) else " "}{clip(truth)}</p>'
            if truth
            else ""
        )
        cards.append(
            f'<div class="sample"><p class="prompt">{clip(sample.get("prompt", ""))}</p>{wanted}'
            f'<div class="answers">{cells}</div></div>'
        )
    more = len(run.samples) - MAX_SAMPLES
    words = f"The first {MAX_SAMPLES} of {len(run.samples)}; the others are in samples.json." if more > 0 else ""
    return section("Answers side by side", "".join(cards), words)


def _host(run: Run, stage: Stage) -> Mapping[str, Any]:
    stages = run.host.get("stages")
    if isinstance(stages, list):
        stages = {str(one.get("name", one.get("stage"))): one for one in stages if isinstance(one, Mapping)}
    if not isinstance(stages, Mapping):
        return {}
    return next(
        (one for name, one in stages.items() if plain_name(str(name)) == stage.name and isinstance(one, Mapping)), {}
    )


def _seconds(run: Run, stage: Stage) -> float:
    told = _host(run, stage).get("seconds")
    return float(told) if isinstance(told, int | float) else sum(line.get("seconds", 0.0) for line in stage.timing)


def _tokens(stage: Stage) -> float:
    return sum(line.get("tokens", 0) for line in stage.metrics)


def _costs(run: Run) -> str:
    rows = []
    for stage in run.stages:
        host, seconds = _host(run, stage), _seconds(run, stage)
        cpu = host.get("cpu_s", sum(line.get("cpu_s", 0.0) for line in stage.timing))
        training = sum(line.get("seconds", 0.0) for line in stage.timing) or seconds
        rate = f"{_tokens(stage) / training:,.0f}" if training and _tokens(stage) else "–"
        peak = host.get("peak_mb")
        rows.append(
            [
                escape(stage.name),
                f"{len(stage.metrics):,}",
                f"{_tokens(stage):,.0f}",
                duration(seconds) if seconds else "–",
                duration(cpu) if cpu else "–",
                rate,
                f"{peak:,.0f} MB" if isinstance(peak, int | float) else "–",
            ]
        )
    head = ("Stage", "Steps", "Tokens", "Time", "CPU time", "Tokens/s", "Peak memory")
    sessions = run.host.get("sessions")
    told = {**run.host, **(sessions[-1] if isinstance(sessions, list) and sessions else {})}
    words = " · ".join(f"{name}: {told[name]}" for name in ("host", "began", "started") if name in told)
    return section("Time and memory", table(head, rows, numbers=range(1, 7)), words)


def _intake(run: Run) -> str:
    rows, notes = [], []
    for stage in run.stages:
        intake = stage.intake
        if not intake:
            continue
        bad, dropped = (intake.get(name) or {} for name in ("bad", "dropped"))
        counts = (sum(bad.values()), sum(dropped.values()))
        numbers = [intake.get(name, 0) for name in ("read", "taken")] + [
            *counts,
            *[intake.get(n, 0) for n in ("cut", "tokens", "trained")],
        ]
        rows.append([escape(stage.name), *(number(one) for one in numbers)])
        for words, reasons in (("not usable", bad), ("dropped", dropped)):
            notes += [f"{stage.name}: {count:,} {words}: {reason}" for reason, count in reasons.items()]
        if intake.get("tokens_lost") or intake.get("answers_cut"):
            notes.append(
                f"{stage.name}: {intake.get('tokens_lost', 0):,} tokens lost, "
                f"{intake.get('answers_cut', 0):,} answers cut"
            )
        notes += [f"{stage.name}: {note}" for note in intake.get("notes", ())]
    head = ("Stage", "Read", "Kept", "Not usable", "Dropped", "Cut", "Tokens", "Trained on")
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return section(
        "What came in", table(head, rows, numbers=range(1, 8)) + (f'<ul class="soft">{listed}</ul>' if listed else "")
    )


def _commands(run: Run) -> str:
    commands = run.run.get("commands")
    if not isinstance(commands, list) or not commands:
        commands = [
            use_of(run.folder),
            f"bottega runs show {run.folder}",
            f"bottega runs verify {run.folder}",
        ]
    lines = "\n".join(escape(str(command)) for command in commands)
    return section("To go on", f"<pre>{lines}</pre>")


def _recipe(run: Run) -> str:
    if not run.recipe:
        return ""
    inside = f"<summary>The recipe as it was run</summary><pre>{escape(run.recipe)}</pre>"
    return section("Recipe", f"<details>{inside}</details>")


def _footer(run: Run) -> str:
    versions = run.environment.get("packages") or run.environment.get("versions") or run.environment
    words = " · ".join(
        f"{name} {value}"
        for name, value in versions.items()
        if isinstance(value, str | int | float) and len(str(value)) < 60
    )
    return f"<footer>Made from the files in {escape(str(run.folder))}. {escape(words)}</footer>"
