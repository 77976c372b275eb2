"""`bottega compare A B`: two models on the same items, or two scorecards that were written before.

Left out: the statistics (evals/compare.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.core.textio import printable
from bottega.workshop.endpoints import Reach, is_endpoint, need_local

if TYPE_CHECKING:
    from bottega.evals.compare import Changed, Comparison, Report
    from bottega.evals.runner import Scorecard

SHOWN = 5
"""Items of each direction that the text shows; JSON has twenty."""


def compare(
    a: str,
    b: str,
    *,
    tasks: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    template: str | None = None,
    out: str | None = None,
    quiet: bool = False,
    reach: Reach | None = None,
    answers: str | None = None,
    device: str = "auto",
    **judging: str,
) -> Report:
    """What changes from A to B: paired differences with 95 percent intervals, corrected by Holm over the tasks.

    Args:
        a, b: models, or scorecards that `bottega eval --out` wrote (*.json). tasks: on which models are scored; with
            two scorecards, only these are compared. limit, seed, template: as in `bottega eval`. out: also write the
            report there. reach: how endpoints are reached. answers: as in `bottega eval`. device: where models lie.
        judging: judge, judge_key_env and base, as in `bottega eval`.

    Raises:
        UserError: no task for a model. Mismatch: the two were not scored on the same items.
    """
    from bottega.evals import compare as pairs

    if any(judging.values()) and all(_is_card(one) for one in (a, b)):
        raise UserError(f"{a} and {b} are scorecards, which are compared as they are: leave --judge and --base out")
    judge_away = is_endpoint(judging.get("judge", ""))
    if not (is_endpoint(a) or is_endpoint(b) or judge_away):
        need_local(a, reach, answers)
    how = {"limit": limit, "seed": seed, "template": template, "quiet": quiet, **judging}
    cards = []
    for one in (a, b):
        away = {"reach": reach, "answers": answers} if is_endpoint(one) or judge_away else {}
        cards.append(_card(one, tasks, **away, **({} if is_endpoint(one) else {"device": device}), **how))
    report = pairs.compare(cards[0], cards[1], seed=seed)
    if not report.tasks:
        raise UserError(f"{a} and {b} have no task in common ({', '.join(report.missing)}); score both on the same")
    if out is not None:
        rundir.write_json(out, report.to_json())
    return report


def _is_card(model: str) -> bool:
    return Path(model).suffix == ".json" and Path(model).is_file()


def _card(model: str, tasks: Sequence[str], **how: Any) -> Scorecard:
    from bottega.evals.runner import Scorecard
    from bottega.workshop.evaluating import evaluate

    if _is_card(model):
        card = Scorecard.from_json(rundir.read_json(model))
        if not tasks:
            return card
        return Scorecard(model=card.model, seed=card.seed, scores=tuple(card.score(task) for task in tasks))
    if not tasks:
        raise UserError(f"{model} is a model: say on which tasks to score it, --tasks T")
    return evaluate(model, tasks, **how)


def compare_text(report: Report) -> str:
    """Markdown: a table of the tasks, then the items that changed."""
    lines = [f"# {printable(report.before)} -> {printable(report.after)}", ""]
    lines += ["| task | metric | before | after | difference | 95% interval | p (Holm) | effect | n | verdict |"]
    lines += ["|---|---|---|---|---|---|---|---|---|---|", *(_row(one) for one in report.tasks)]
    for one in report.tasks:
        lines += _by_group(one)
        for name, count, changed in (
            ("improved", one.difference.improved, one.improved),
            ("regressed", one.difference.regressed, one.regressed),
        ):
            if count:
                lines += ["", f"## {_cell(one.task)}: {count} of {one.difference.n} {name}", ""]
                lines += [_changed(item) for item in changed[:SHOWN]]
    lines += [f"\n{_cell(name)}: only in one of the two" for name in report.missing]
    return "\n".join(lines)


def _by_group(one: Comparison) -> list[str]:
    """A table of the groups of a task, worst difference first."""
    if not one.groups:
        return []
    counts = {
        word: sum(group.verdict == word for group in one.groups) for word in ("improved", "regressed", "unchanged")
    }
    lines = ["", f"## {_cell(one.task)}, told apart: " + ", ".join(f"{n} {word}" for word, n in counts.items()), ""]
    lines += ["| group | before | after | difference | 95% interval | p (Holm) | n | verdict |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for group in sorted(one.groups, key=lambda group: group.difference.value):
        d = group.difference
        lines.append(
            f"| {_cell(group.name)} | {group.before:.3f} | {group.after:.3f} | {d.value:+.3f} | {d.low:+.3f} to {d.high:+.3f} "
            f"| {group.p_corrected:.2g} | {d.n} | {group.verdict} |"
        )
    return lines


def _row(one: Comparison) -> str:
    d = one.difference
    bounds = f"{d.low:+.3f} to {d.high:+.3f}"
    cells = (
        _cell(one.task), one.metric, f"{one.before:.3f}", f"{one.after:.3f}", f"{d.value:+.3f}", bounds,
        f"{one.p_corrected:.2g}", f"{d.effect:+.2f}", str(d.n), one.verdict,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _changed(item: Changed) -> str:
    said = f"{_cell(item.before)} -> {_cell(item.after)}" if item.before != item.after else _cell(item.after)
    return f"- {_cell(item.prompt)}: {said} (wanted {_cell(item.truth)}, {item.change:+.3f})"


def _cell(text: str) -> str:
    """A text on one line that neither ends a cell nor moves a terminal's cursor."""
    short = " ".join(str(printable(text)).split())
    return (short if len(short) <= 80 else f"{short[:77]}...").replace("|", "\\|")
