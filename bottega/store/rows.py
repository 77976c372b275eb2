"""What people said as rows to train on, in the formats that the data room reads; what gives no row is counted with its reason.

Left out: writing files (the verb does) and reading them back (the data room).

project   rows
compare   {prompt, chosen, rejected}: preference
rate      {prompt, completion, label}: unpaired, good above the middle of the scale; `pairs`: best against lower of one prompt
edit      {prompt, chosen, rejected}: the edited answer against what it was; `texts`: {messages} with the edited answer
class     {text, label}: labelled
span      {tokens, tags}: tagged
write     {messages}
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bottega.core.errors import UserError
from bottega.store.feedback import Judgement
from bottega.store.kinds import Json, core, word_tags
from bottega.store.queue import Project

WAYS = ("each", "majority")
SHAPES = ("default", "pairs", "texts")


@dataclass(kw_only=True, slots=True)
class Export:
    """Rows, and how many judgements gave none, by reason."""

    rows: list[Json] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def gold_scores(kind: str, said: Iterable[Judgement]) -> dict[str, tuple[int, int]]:
    """Annotator -> (right, asked) on questions with a known answer. For free text equal words (spaces apart) are right."""
    marks: dict[str, list[bool]] = defaultdict(list)
    for one in said:
        if one.gold is not None:
            marks[one.annotator].append(_essence(kind, one.answer) == _essence(kind, one.gold))
    return {who: (sum(right), len(right)) for who, right in marks.items()}


def _essence(kind: str, answer: Json) -> Hashable:
    found: Hashable = core(kind, answer)
    return " ".join(answer["text"].split()) if found is None else found


def export(
    of: Project, said: Sequence[Judgement], *, by: str = "each", shape: str = "default", min_gold: float = 0.0
) -> Export:
    """Training rows from judgements.

    Args:
        by: `each` judgement is a row, or one row an item where a `majority` (more than half) says the same.
        shape: `pairs` for ratings, `texts` for edits; see above.
        min_gold: leave out annotators whose share of right answers on gold questions is lower.

    Raises:
        UserError: an unknown way or shape, or one that this kind does not have.
    """
    if by not in WAYS or by == "majority" and of.kind in ("edit", "write"):
        raise UserError(f"by {by!r} does not fit the kind {of.kind}; use each" + ("" if by in WAYS else " or majority"))
    fits = {"default", *(["pairs"] if of.kind == "rate" else []), *(["texts"] if of.kind == "edit" else [])}
    if shape not in fits:
        raise UserError(f"the shape {shape!r} does not fit the kind {of.kind}; it has {', '.join(sorted(fits))}")
    made = Export()
    marks = gold_scores(of.kind, said)
    kept = []
    for one in said:
        right, asked = marks.get(one.annotator, (0, 0))
        if one.gold is not None:
            made.left_out["gold question"] += 1
        elif asked and right / asked < min_gold:
            made.left_out["annotator below min_gold"] += 1
        else:
            kept.append(one)
    if of.kind == "rate" and shape == "pairs":
        _rated_pairs(kept, by, made)
        return made
    for one, share in _agreed(of.kind, kept, made) if by == "majority" else ((one, None) for one in kept):
        name = f"{of.kind} texts" if shape == "texts" else of.kind
        row = _ROWS[name](of, one)
        if isinstance(row, str):
            made.left_out[row] += 1
            continue
        row |= {"item": one.item} | ({"annotator": one.annotator} if share is None else {"share": round(share, 4)})
        made.rows.append(row | _reasons(one.answer))
    return made


def _reasons(answer: Json) -> Json:
    named = {"reasons": answer.get("tags"), "reason": answer.get("reason")}
    return {name: value for name, value in named.items() if value}


def _agreed(kind: str, said: Sequence[Judgement], made: Export) -> Iterable[tuple[Judgement, float]]:
    """One judgement of each item where more than half say the same, and their share."""
    items: dict[str, list[Judgement]] = defaultdict(list)
    for one in said:
        items[one.item].append(one)
    for votes in items.values():
        answer, number = Counter(core(kind, one.answer) for one in votes).most_common(1)[0]
        if 2 * number <= len(votes):
            made.left_out["no majority"] += len(votes)
            continue
        yield next(one for one in votes if core(kind, one.answer) == answer), number / len(votes)


def _rated_pairs(said: Sequence[Judgement], by: str, made: Export) -> None:
    """The best rated answer of a prompt against each that is rated lower; by each person, or by mean over them."""
    groups: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in said:
        who = one.annotator if by == "each" else ""
        prompt = json.dumps(one.body["prompt"])
        groups[who, prompt][one.body["answers"][0]["text"]].append(one.answer["score"])
    for (who, prompt), ratings in groups.items():
        means = sorted(((sum(scores) / len(scores), text) for text, scores in ratings.items()), key=lambda m: -m[0])
        lower = [pair for pair in means if pair[0] < means[0][0]]
        if not lower:
            made.left_out["no answer rated higher than another of its prompt"] += len(means)
        for score, text in lower:
            row = _pair(json.loads(prompt), means[0][1], text) | {"margin": round(means[0][0] - score, 4)}
            made.rows.append(row | ({"annotator": who} if who else {}))


def _pair(prompt: list[Json], chosen: str, rejected: str) -> Json:
    """Sides as messages: a text that looks like a transcript would be read as one."""
    return {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def _compared(of: Project, one: Judgement) -> Json | str:
    choice, answers = one.answer["choice"], one.body["answers"]
    if not isinstance(choice, int):
        return f"said {choice}"
    better, worse = answers[choice], answers[1 - choice]
    sources = {"chosen_source": better["source"], "rejected_source": worse["source"]} if better["source"] else {}
    return _pair(one.body["prompt"], better["text"], worse["text"]) | sources


def _rated(of: Project, one: Judgement) -> Json | str:
    score, middle = one.answer["score"], (1 + of.settings.scale) / 2
    if score == middle:
        return "rated in the middle"
    completion = [{"role": "assistant", "content": one.body["answers"][0]["text"]}]
    return {"prompt": one.body["prompt"], "completion": completion, "label": score > middle, "rating": score}


def _edited(of: Project, one: Judgement) -> Json | str:
    was, now = one.body["answers"][0]["text"], one.answer["text"]
    return "left as it was" if was.strip() == now.strip() else _pair(one.body["prompt"], now, was)


def _edited_text(of: Project, one: Judgement) -> Json | str:
    return {"messages": [*one.body["prompt"], {"role": "assistant", "content": one.answer["text"]}]}


def _classed(of: Project, one: Judgement) -> Json | str:
    labels = one.answer["labels"]
    return {"text": one.body["text"], "label": labels if of.settings.several else labels[0]}


def _marked(of: Project, one: Judgement) -> Json | str:
    return {"tokens": one.body["words"], "tags": word_tags(one.body, one.answer)}


def _wrote(of: Project, one: Judgement) -> Json | str:
    prompt = one.body["prompt"] or [{"role": "user", "content": one.body["text"]}]
    return {"messages": [*prompt, {"role": "assistant", "content": one.answer["text"]}]}


_ROWS: dict[str, Callable[[Project, Judgement], Any]] = {
    "compare": _compared,
    "rate": _rated,
    "edit": _edited,
    "edit texts": _edited_text,
    "class": _classed,
    "span": _marked,
    "write": _wrote,
}
