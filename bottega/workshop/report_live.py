"""The report's section on people who were asked while it trained: how many questions and ratings, who agrees, what it changed.

Left out: the ratings themselves (stages/*/live/), and the pages on which they were given (studio/).
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from bottega.workshop import curve
from bottega.workshop.markup import number, section, table
from bottega.workshop.report_files import Run, Stage

WORDS = (
    "Questions go out and nothing waits. Agreement is Krippendorff's alpha where several answered the same; the model's order is "
    "how often the reward at the time ordered a pair as people did; weights are how much each person's word counts, 1 for who is "
    "contradicted by none."
)


def people(run: Run) -> str:
    """The section as HTML; nothing where nobody was asked."""
    told = [
        (stage, [line["live"] for line in stage.rounds if isinstance(line.get("live"), Mapping)])
        for stage in run.stages
    ]
    told = [(stage, rounds) for stage, rounds in told if rounds]
    if not told:
        return ""
    head = ("Stage", "Rounds", "Asked", "Ratings", "People", "Agreement", "Model's order", "Refreshes", "Away")
    shown = table(head, [_row(stage, rounds) for stage, rounds in told], numbers=range(1, 9), stacks=True)
    return section("People in the loop", shown + "".join(_more(stage, rounds) for stage, rounds in told), WORDS)


def _row(stage: Stage, rounds: list[Mapping[str, Any]]) -> list[str]:
    last = rounds[-1]
    pairs = last.get("pairs") or 0
    away = sum(bool(one.get("away")) for one in rounds)
    return [
        escape(stage.name),
        number(len(rounds)),
        number(sum(one.get("asked", 0) for one in rounds)),
        number(last.get("ratings")),
        number(last.get("people")),
        number(last.get("agreement")),
        f"{last.get('model_right', 0):g} of {pairs:,}" if pairs else "–",
        number(sum(bool(one.get("learned")) for one in rounds)),
        f"{away:,} rounds" if away else "never",
    ]


def _more(stage: Stage, rounds: list[Mapping[str, Any]]) -> str:
    """Whose word counts how much, and a curve of what people thought of the answers that were learned from."""
    weights = rounds[-1].get("weights") or {}
    named = ", ".join(f"{who[:12]} {value:.2f}" for who, value in sorted(weights.items()))
    words = f'<p class="soft">{escape(stage.name)}: weights {escape(named)}</p>' if named else ""
    lines = [
        {"step": at + 1, "people": one["people_reward"]}
        for at, one in enumerate(rounds)
        if one.get("people_reward") is not None
    ]
    if len(lines) < 2:
        return words
    series = curve.series_of(lines, "people")
    picture = curve.svg(series, title=f"{stage.name}: people's opinion", y_label="people")
    caption = f"{curve.ends(series)}; by round, from -1 to 1, of the answers that were rated and learned from"
    return f"{words}<figure><h3>{escape(stage.name)}, people</h3>{picture}<figcaption>{escape(caption)}</figcaption></figure>"
