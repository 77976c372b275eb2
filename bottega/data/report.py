"""What is in the files: `check` names what cannot be used and what would be lost, `stats` describes the rest.

Left out: cleaning (clean/); nothing here changes a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bottega.core.errors import UserError
from bottega.core.types import Conversation, Document, Labelled, Preference, Sample, Where
from bottega.data.chat import Template
from bottega.data.formats import format_of, samples
from bottega.data.intake import BIG_FILE, SHARE, Ledger
from bottega.data.near import groups
from bottega.data.prepare import Plan, encoded, fitted, unfit
from bottega.data.sources import Problem, places
from bottega.data.split import text_of

MAX_PROBLEMS = 50
_KINDS = {Document: "text", Conversation: "chat", Preference: "preference"}
Paths = str | Path | Iterable[str | Path]


def check(
    paths: Paths,
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    tokenizer: Any = None,
    template: Template | None = None,
    mask: str = "assistant",
    max_tokens: int | None = None,
) -> dict[str, Any]:
    """What a run would make of the files: formats, each row that cannot be used, and what a length limit would cost.

    Args:
        tokenizer: with it, rows are rendered and tokenized too, so that a template's refusals show.
        max_tokens: with a tokenizer, adds a table of what each over-length policy loses.

    Returns:
        A JSON-able dict: files [{file, rows, format, bad}], rows, kinds, problems [{file, row, column, reason}] (the
        first 50), reasons, over_length {policy: {...}}, ok (a run would start), verdict (one sentence).

    Raises:
        UserError: a file is missing, empty, or in no known format.
    """
    good, problems = _read(paths, format, columns, mask=mask)
    account: dict[str, Any] = {}
    if tokenizer is not None and good:
        account = _lengths(good, problems, tokenizer, template, mask, max_tokens)
    rows, bad = _per_file(good, problems)
    by_name = {str(place): place for place in places(paths)}
    files = [
        {
            "file": file,
            "rows": rows[file],
            "format": format or _format(by_name.get(file, file), columns),
            "bad": bad[file],
        }
        for file in rows
    ]
    stopping = [file for file in rows if bad[file] and (rows[file] <= BIG_FILE or bad[file] > SHARE * rows[file])]
    problems.sort(key=lambda problem: (list(rows).index(problem.where.file), problem.where.row))
    return {
        "files": files,
        "rows": sum(rows.values()),
        "kinds": dict(Counter(type(sample).__name__.lower() for sample in good)),
        "problems": [{**problem.where._asdict(), "reason": problem.reason} for problem in problems[:MAX_PROBLEMS]],
        "num_problems": len(problems),
        "reasons": dict(Counter(problem.reason for problem in problems).most_common()),
        **account,
        "ok": not stopping and not account.get("longer"),
        "verdict": _verdict(problems, stopping, account.get("longer", 0), max_tokens),
    }


def _read(
    paths: Paths, format: str | None, columns: Mapping[str, str] | None, *, mask: str = "assistant"
) -> tuple[list[Sample], list[Problem]]:
    good: list[Sample] = []
    problems: list[Problem] = []
    plans = {kind: Plan(kind=kind, max_tokens=2, mask=mask) for kind in _KINDS.values()}
    for sample in _file_by_file(paths, format, columns):
        if isinstance(sample, Problem):
            problems.append(sample)
            continue
        plan = plans.get(_KINDS.get(type(sample), ""))
        problem = unfit(sample, plan) if plan else None
        if problem is None:
            good.append(sample)
        else:
            problems.append(problem)
    return good, problems


def _file_by_file(paths: Paths, format: str | None, columns: Mapping[str, str] | None) -> Iterator[Sample | Problem]:
    """Samples of every file; where there are several, one that cannot be read at all is a problem and the others go on."""
    files = places(paths)
    for file in files:
        try:
            yield from samples([file], format=format, columns=columns)
        except UserError as error:
            if len(files) == 1:
                raise
            yield Problem(Where(str(file)), str(error))


def _per_file(good: Sequence[Sample], problems: Sequence[Problem]) -> tuple[Counter[str], Counter[str]]:
    lost = {(problem.where.file, problem.where.row) for problem in problems}
    every = lost | {(sample.where.file, sample.where.row) for sample in good}
    return Counter(file for file, _ in sorted(every)), Counter(file for file, _ in lost)


def _format(file: Any, columns: Mapping[str, str] | None) -> str:
    try:
        return format_of(file, columns=columns) or "unknown"
    except UserError:  # the file is among the problems already
        return "unknown"


def _verdict(problems: Sequence[Problem], stopping: Sequence[str], longer: int, max_tokens: int | None) -> str:
    if longer and not stopping:
        return (
            f"{longer} rows are longer than {max_tokens} tokens: a run stops there (over_length: error); "
            "set over_length to drop, split or truncate (what each loses stands above), or raise max_tokens"
        )
    if not problems:
        return "every row can be used"
    if not stopping:
        return f"{len(problems)} rows cannot be used; a run goes on without them (at most 1 percent of a large file)"
    them = "it" if len(problems) == 1 else f"these {len(problems)} rows"
    return f"{problems[0]}; a run stops here: mend {them} or pass --allow-loss {len(problems)}"


def _lengths(
    good: list[Sample],
    problems: list[Problem],
    tokenizer: Any,
    template: Template | None,
    mask: str,
    max_tokens: int | None,
) -> dict[str, Any]:
    """Token counts, and for a limit what each policy would lose; rows that do not encode join `problems`."""
    bound = (template or Template.of(tokenizer)).bind(tokenizer)
    lengths: list[int] = []
    trained = 0
    notes: dict[str, None] = {}
    tables: dict[str, dict[str, int]] = {}
    for kind in dict.fromkeys(_KINDS[type(sample)] for sample in good if type(sample) in _KINDS):
        plan = Plan(kind=kind, max_tokens=max_tokens or 1 << 40, over_length="drop", mask=mask)
        ledger = Ledger(allow_loss=1 << 60, hear=problems.append)
        chosen = [sample for sample in good if _KINDS.get(type(sample)) == kind]
        answers = list(encoded(chosen, tokenizer, bound, plan=plan, ledger=ledger))
        notes |= ledger.notes
        for sample, answer in answers:
            parts = list(fitted(sample, answer, tokenizer, plan=replace(plan, max_tokens=1 << 40), ledger=Ledger()))
            lengths += [len(prefix.ids) + max(len(b.ids) for b in branches) for prefix, branches, _ in parts]
            trained += sum(w > 0 for _, branches, _ in parts for branch in branches for w in branch.trains)
        if max_tokens is not None:
            for policy in ("drop", "truncate") if kind == "preference" else ("drop", "split", "truncate"):
                _add(tables.setdefault(policy, {}), _cost(answers, tokenizer, replace(plan, over_length=policy)))
    result: dict[str, Any] = {"tokens": {**quantiles(lengths), "trained": trained}, "notes": list(notes)}
    if max_tokens is not None:
        longer = sum(length > max_tokens for length in lengths)
        result |= {"max_tokens": max_tokens, "longer": longer, "over_length": tables}
    return result


def _cost(answers: Sequence[tuple[Sample, Any]], tokenizer: Any, plan: Plan) -> dict[str, int]:
    ledger = Ledger()
    taken = sum(len(list(fitted(s, a, tokenizer, plan=plan, ledger=ledger))) for s, a in answers)
    return {
        "rows": taken,
        "dropped": sum(ledger.dropped.values()),
        "cut": ledger.cut,
        "tokens_lost": ledger.tokens_lost,
        "answers_cut": ledger.answers_cut,
    }


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, value in more.items():
        total[name] = total.get(name, 0) + value


def quantiles(values: Sequence[int]) -> dict[str, float]:
    """Count, sum, mean and the 0, 50, 90, 99 and 100 percent points: (1, 2, 9) -> median 2, max 9."""
    if not values:
        return {"count": 0, "sum": 0}
    ordered = sorted(values)

    def at(share: float) -> int:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return {
        "count": len(ordered),
        "sum": sum(ordered),
        "mean": round(sum(ordered) / len(ordered), 1),
        "min": ordered[0],
        "median": at(0.5),
        "p90": at(0.9),
        "p99": at(0.99),
        "max": ordered[-1],
    }


def stats(
    paths: Paths,
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    tokenizer: Any = None,
    template: Template | None = None,
) -> dict[str, Any]:
    """What the usable rows are like: kinds, roles, turns, lengths, labels, equal and near-equal rows.

    Returns:
        A JSON-able dict; lengths in words, and in tokens with a tokenizer.

    Raises:
        UserError: a file is missing, empty, or in no known format; or no row can be used.
    """
    good, problems = _read(paths, format, columns)
    if not good:
        raise UserError(f"no row can be used: {problems[0]}")
    texts = [text_of(sample) for sample in good]
    same, near = (len(texts) - len(set(groups(texts, threshold=t))) for t in (1.0, 0.8))
    turns = [turn for sample in good for turn in _turns(sample)]
    result: dict[str, Any] = {
        "files": [str(file) for file in places(paths)],
        "rows": len(good),
        "not_usable": len(problems),
        "kinds": dict(Counter(type(sample).__name__.lower() for sample in good)),
        "roles": dict(Counter(turn.role for turn in turns)),
        "turns": quantiles([len(_turns(sample)) for sample in good if not isinstance(sample, Document)]),
        "with_system": sum(any(turn.role == "system" for turn in _turns(sample)) for sample in good),
        "with_tools": sum(bool(getattr(sample, "tools", ())) for sample in good),
        "with_thinking": sum(bool(turn.thinking) or turn.content.lstrip().startswith("<think>") for turn in turns),
        "words": quantiles([len(text.split()) for text in texts]),
        "answer_words": quantiles([len(turn.content.split()) for turn in turns if turn.role == "assistant"]),
        "duplicates": {"equal": same, "near": near - same},
        "labels": dict(Counter(str(s.label) for s in good if isinstance(s, Labelled)).most_common(20)),
    }
    if tokenizer is not None:
        account = _lengths(good, problems, tokenizer, template, "assistant", None)
        result |= {"tokens": account["tokens"], "notes": account["notes"]}
    return result


def _turns(sample: Sample) -> tuple[Any, ...]:
    if isinstance(sample, Conversation):
        return sample.turns
    if isinstance(sample, Preference):
        return (*sample.prompt, *sample.chosen, *sample.rejected)
    return sample.prompt if isinstance(sample, Labelled) else ()


def render_check(result: Mapping[str, Any]) -> str:
    """`check` for a person."""
    lines = [f"{f['file']}: {f['rows']:,} rows, format {f['format']}, {f['bad']:,} not usable" for f in result["files"]]
    for problem in result["problems"][:10]:
        column = f" [{problem['column']}]" if problem["column"] else ""
        lines.append(f"  {problem['file']}:{problem['row']}{column}: {problem['reason']}")
    if result["num_problems"] > 10:
        lines.append(f"  and {result['num_problems'] - 10:,} more")
    if "tokens" in result and result["tokens"]["count"]:
        t = result["tokens"]
        lines.append(
            f"tokens: {t['sum']:,} ({t['trained']:,} trained); a row {t['median']:,} median, {t['max']:,} longest"
        )
    if "over_length" in result:
        lines.append(
            f"{result['longer']:,} rows are longer than max_tokens {result['max_tokens']:,}; each policy would give:"
        )
        lines.append(f"  {'policy':<10}{'rows':>10}{'dropped':>10}{'cut':>10}{'tokens lost':>14}{'answers cut':>14}")
        for name, row in result["over_length"].items():
            lines.append(
                f"  {name:<10}{row['rows']:>10,}{row['dropped']:>10,}{row['cut']:>10,}"
                f"{row['tokens_lost']:>14,}{row['answers_cut']:>14,}"
            )
    lines += [f"note: {note}" for note in result.get("notes", ())]
    return "\n".join([*lines, result["verdict"]])


def render_stats(result: Mapping[str, Any]) -> str:
    """`stats` for a person."""
    lines = []
    for name, value in result.items():
        if isinstance(value, Mapping):
            value = ", ".join(
                f"{key} {number:,}" if isinstance(number, int) else f"{key} {number}" for key, number in value.items()
            )
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        if value not in ("", None):
            lines.append(
                f"{name.replace('_', ' '):<14} {value:,}"
                if isinstance(value, int)
                else f"{name.replace('_', ' '):<14} {value}"
            )
    return "\n".join(lines)
