"""How feedback stands: progress, agreement between people, gold questions, time; for the verb and for the pages of a lead.

Left out: the numbers' definitions (grade/agreement.py) and what is kept (store/).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import asdict
from itertools import combinations
from statistics import median
from typing import Any

from bottega.core.textio import table
from bottega.grade.agreement import cohen, fleiss, krippendorff
from bottega.grade.intervals import wilson
from bottega.store import people, queue
from bottega.store.database import Database
from bottega.store.feedback import Judgement, judgements, progress
from bottega.store.kinds import core, word_tags
from bottega.store.queue import Project
from bottega.store.rows import gold_scores
from bottega.store.schema import open_store

LEVELS = {"compare": "nominal", "rate": "ordinal", "class": "nominal", "span": "nominal"}
"""Kind -> level of measurement for Krippendorff's alpha; free text has none."""
MAX_PAIRS = 10
GOLD_BAR = 0.7
"""Below this share of right gold answers a person is named."""


def _units(of: Project, said: Sequence[Judgement]) -> list[dict[str, Hashable]]:
    """Annotator -> answer for each thing that is answered: an item, or each word of one."""
    items: dict[str, dict[str, Judgement]] = defaultdict(dict)
    for one in said:
        items[one.item][one.annotator] = one
    units: list[dict[str, Hashable]] = []
    for votes in items.values():
        if of.kind == "span":
            tags = {who: word_tags(one.body, one.answer) for who, one in votes.items()}
            units += [dict(zip(tags, word)) for word in zip(*tags.values())]
        else:
            units.append({who: core(of.kind, one.answer) for who, one in votes.items()})
    return units


def agreement(of: Project, said: Sequence[Judgement]) -> dict[str, Any]:
    """Agreement on the questions that several people answered; None where a coefficient is not defined.

    `fleiss` is over the items with the most usual number of answers (`fleiss_items` of them), `cohen` for each pair of people who share
    items (the ten with the most), `alpha` (Krippendorff) over all.
    """
    if of.kind not in LEVELS:
        return {"level": None, "shared": 0, "alpha": None, "fleiss": None, "fleiss_items": 0, "cohen": []}
    units = [unit for unit in _units(of, said) if len(unit) > 1]
    sizes = Counter(len(unit) for unit in units)
    usual = max(sizes, key=lambda size: (sizes[size], size)) if sizes else 0
    alike = [list(unit.values()) for unit in units if len(unit) == usual]
    shared: dict[tuple[str, str], list[tuple[Hashable, Hashable]]] = defaultdict(list)
    for unit in units:
        for a, b in combinations(sorted(unit), 2):
            shared[a, b].append((unit[a], unit[b]))
    most = sorted(shared.items(), key=lambda pair: -len(pair[1]))[:MAX_PAIRS]
    return {
        "level": LEVELS[of.kind],
        "shared": len(units),
        "alpha": krippendorff([list(unit.values()) for unit in units], level=LEVELS[of.kind]),
        "fleiss": fleiss(alike),
        "fleiss_items": len(alike),
        "cohen": [
            {"pair": list(pair), "kappa": cohen([a for a, _ in both], [b for _, b in both]), "n": len(both)}
            for pair, both in most
        ],
    }


def project_stats(db: Database, of: Project) -> dict[str, Any]:
    """Everything a lead wants to know of one project, people by name."""
    said = judgements(db, of)
    names = {one.id: one.name for one in people.everybody(db)}
    gold = gold_scores(of.kind, said)
    open_answers = [one for one in said if one.gold is None]
    found = agreement(of, open_answers)
    for pair in found["cohen"]:
        pair["pair"] = [names.get(who, who) for who in pair["pair"]]
    staff = []
    for who in dict.fromkeys(one.annotator for one in said):
        own = [one for one in said if one.annotator == who]
        times = [one.answer["seconds"] for one in own if "seconds" in one.answer]
        right, asked = gold.get(who, (0, 0))
        share = wilson(right, asked)
        staff.append(
            {
                "name": names.get(who, who),
                "answers": len(own),
                "seconds": round(median(times), 1) if times else None,
                "gold_right": right,
                "gold_asked": asked,
                "gold_low": round(share.low, 3) if asked else None,
                "gold_high": round(share.high, 3) if asked else None,
                "below_bar": bool(asked) and right / asked < GOLD_BAR,
            }
        )
    counts = Counter(_said(of, one) for one in open_answers)
    return {
        "project": of.name,
        "kind": of.kind,
        **{key: value for key, value in asdict(progress(db, of)).items() if key != "mine"},
        "choices": dict(counts.most_common(20)),
        "reasons": dict(Counter(tag for one in open_answers for tag in one.answer.get("tags", ())).most_common()),
        "agreement": found,
        "people": staff,
    }


def _said(of: Project, one: Judgement) -> str:
    """An answer in a word or two, for counts; a choice by the source it preferred, where sources have names."""
    if of.kind == "compare" and isinstance(one.answer["choice"], int):
        return one.body["answers"][one.answer["choice"]]["source"] or f"answer {one.answer['choice'] + 1}"
    if of.kind == "span":
        return f"{len(one.answer['spans'])} spans"
    found = core(of.kind, one.answer)
    return "a text" if found is None else ", ".join(found) if isinstance(found, tuple) else str(found)


def stats(*, store: str = "feedback.db", project: str | None = None) -> dict[str, Any]:
    """Progress, agreement and gold questions of one project, or of all."""
    db = open_store(store)
    try:
        chosen = [queue.project(db, project)] if project else queue.projects(db)
        return {"store": db.name, "projects": [project_stats(db, one) for one in chosen]}
    finally:
        db.close()


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def stats_text(result: dict[str, Any]) -> str:
    """For people: a block a project."""
    lines = [f"{result['store']}: {len(result['projects'])} projects"]
    for one in result["projects"]:
        lines.append(
            f"\n{one['project']} ({one['kind']}): {one['done']} of {one['items']} items have all their answers"
        )
        lines.append(f"  {one['answers']} answers, {one['skips']} skipped")
        if one["choices"]:
            lines.append("  " + ", ".join(f"{name}: {number}" for name, number in one["choices"].items()))
        found = one["agreement"]
        if found["shared"]:
            lines.append(
                f"  agreement on {found['shared']} shared questions: Krippendorff's alpha {_number(found['alpha'])}, "
                f"Fleiss' kappa {_number(found['fleiss'])} on {found['fleiss_items']}"
            )
            lines += [
                f"  Cohen's kappa {_number(p['kappa'])}  {' and '.join(p['pair'])} (n = {p['n']})"
                for p in found["cohen"]
            ]
        if one["people"]:
            rows = [
                [
                    p["name"],
                    p["answers"],
                    p["seconds"],
                    f"{p['gold_right']}/{p['gold_asked']}",
                    "low" if p["below_bar"] else "",
                ]
                for p in one["people"]
            ]
            lines.append(table(rows, ("annotator", "answers", "seconds each", "gold", "")))
    return "\n".join(lines)
