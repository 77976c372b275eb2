"""Benchmarks as data: one YAML each, an in-context-learning jsonl of LLM Foundry, or a task YAML of lm-evaluation-harness as it is.

Left out: prompts with logic (a prompt holds `{{ column }}` and nothing else), but in files of the harness (harness.py).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bottega.core.config import build, closest, load_yaml, option
from bottega.core.errors import UserError
from bottega.data import sources
from bottega.evals import harness, mt_bench
from bottega.evals.rows import records

JUDGED = ("turns", "rubric", "rubric_with_answer", "low", "high", "judge_tokens")
"""Fields of judged tasks alone."""
FOLDER = Path(__file__).parent / "tasks"


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A benchmark. Columns are those of its data; a text with `{{ column }}` is a template over them.

    kind: generation (the reply is scored by `metric`), continuation (greedy tokens equal the answer), multiple_choice
    (the likeliest of `choices`, metric accuracy, accuracy_per_byte or accuracy_per_character), perplexity (of the answer after the
    prompt; metric perplexity, loss or bits_per_byte), judged (another model rates the reply; `turns` make a conversation).
    """

    name: str
    kind: Literal["generation", "continuation", "multiple_choice", "perplexity", "judged"]
    version: int = 1
    description: str = ""
    data: str | tuple[str, ...] = option((), "files with one item a record, looked for beside the task file")
    rows: tuple[dict[str, Any], ...] = option((), "items written in the task itself")
    reader: Literal["", "mt_bench"] = option("", "how its data lies, where that is not one item a record")
    prompt: str = "{{ prompt }}"
    answer: str = option("answer", "column with the truth (text or list), or a template")
    aliases: str = option("", "column with further accepted answers")
    choices: str = option("choices", "column with the list of choices")
    contexts: str = option("", "column with a list of prompts to choose from, instead of choices")
    gold: str = option("gold", "column with the index of the right choice")
    delimiter: str = option(" ", "stands between the prompt and an answer or choice, in plain text")
    messages: str = option("", "column with a list of messages, for chat, instead of prompt")
    chat: bool = option(False, "put the prompt through the chat template, as a user's turn")
    system: str = option("", "system turn, for chat")
    metric: str | dict[str, Any] = option("", "a scorer, or {name: scorer, option: value}; default: the kind's own")
    stop: tuple[str, ...] = option((), "strings that end a reply")
    max_tokens: int = option(64, "longest reply", low=1)
    limit: int | None = option(None, "at most so many items, drawn by seed", low=1)
    group: str = option("", "column by whose values a comparison is told apart, such as a taxonomy's leaf")
    shots: int = option(0, "worked examples in front of the prompt, drawn by seed from the other items", low=0)
    random: float | None = option(None, "what guessing scores")
    turns: str = option("", "column with a list of user's turns, each asked after the replies before it, for judged")
    rubric: str = option(
        "", "what a judge is asked; {{ question }}, {{ reply }}, {{ conversation }}, {{ low }}, {{ high }}"
    )
    rubric_with_answer: str = option("", "the same for items that have a truth, {{ answer }}")
    low: float = option(1.0, "the judge's worst rating")
    high: float = option(10.0, "the judge's best rating")
    judge_tokens: int = option(400, "longest verdict", low=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question: `key` names it in every scorecard (a hash of its record), `shots` are records shown in front."""

    key: str
    record: Mapping[str, Any]
    shots: tuple[Mapping[str, Any], ...] = ()


def fill(template: str, record: Mapping[str, Any]) -> str:
    """`{{ column }}` replaced by the record's value.

    Raises:
        UserError: a column that the record does not have.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in record:
            raise UserError(f"the template asks for {name!r}, which the record does not have{closest(name, record)}")
        return str(record[name])

    return sources.FIELD.sub(value, template)


def column(name: str, record: Mapping[str, Any]) -> Any:
    """The value of a column, or the text of a template.

    Raises:
        UserError: a column that the record does not have.
    """
    if "{{" in name:
        return fill(name, record)
    if name not in record:
        raise UserError(f"the task asks for column {name!r}, which the record does not have{closest(name, record)}")
    return record[name]


def builtin() -> dict[str, Path]:
    """The benchmarks that come with the package: name -> file. The folder is the table."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def load_task(spec: str | Path) -> Task:
    """A task by name of the table, by YAML file, or by LLM Foundry jsonl; `name=FILE` gives a task its data.

    Raises:
        UserError: no such task or file, a mistake in it, or a task without data.
    """
    name, _, data = str(spec).partition("=") if not Path(spec).exists() else (str(spec), "", "")
    path = builtin().get(name, Path(name))
    if path.suffix in (".jsonl", ".ndjson"):
        return icl_task(path)
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"there is no task {name!r}{closest(name, builtin())}; or give a .yaml or .jsonl file")
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"the task file {path} cannot be read ({error.strerror}): check the path") from None
    plain, marks = load_yaml(text, file=str(path))
    if harness.is_one(plain):
        task = build(Task, harness.fields_of(plain, path, [data] if data else ()), marks=marks)
        return task
    task = build(Task, plain, marks=marks)
    _check(task)
    files = [data] if data else [task.data] if isinstance(task.data, str) else list(task.data)
    if not data:
        files = [str(path.parent / file) if not Path(file).is_absolute() else file for file in files]
    if not files and not task.rows:
        raise UserError(f"task {task.name} has 0 items: give its data as {name}=FILE, or add `data:` or `rows:`")
    return replace(task, data=tuple(files))


def _check(task: Task) -> None:
    """Raises UserError where a judged task cannot be judged, or another is told what a judge is to do."""
    own = {field.name: field.default for field in fields(Task) if field.name in JUDGED}
    given = [name for name, usual in own.items() if getattr(task, name) != usual]
    if task.kind != "judged":
        if given:
            raise UserError(
                f"task {task.name} is of kind {task.kind}, which has no {given[0]}: take it out, or write kind: judged"
            )
        return
    if task.metric or task.shots or task.messages:
        raise UserError(
            f"task {task.name} is judged, which takes neither metric nor shots nor messages: write `rubric`, and `prompt` or `turns`"
        )
    if not task.low < task.high:
        raise UserError(
            f"task {task.name} is rated from low {task.low:g} to high {task.high:g}: low must be below high"
        )
    asked = [text for text in (task.rubric, task.rubric_with_answer) if text]
    if not asked:
        raise UserError(f"task {task.name} is judged, but does not say what the judge is asked: write `rubric`")
    for text in asked:
        if not {"reply", "conversation"} & set(sources.FIELD.findall(text)):
            raise UserError(
                f"the rubric of task {task.name} does not show what is judged: put {{{{ reply }}}} or {{{{ conversation }}}} into it"
            )


def icl_task(path: Path) -> Task:
    """A task from an in-context-learning jsonl, its kind seen from the columns of the first record.

    Raises:
        UserError: the file is not there, or its columns are none that we know.
    """
    first = next(records((str(path),)), {})
    names = set(first)
    common: dict[str, Any] = {"name": path.stem, "data": (str(path),)}
    if {"query", "choices", "gold"} <= names:
        guess = 1 / max(1, len(first["choices"]))
        group = "leaf" if "leaf" in names else ""
        return Task(kind="multiple_choice", prompt="{{ query }}", random=guess, group=group, **common)
    if {"context_options", "continuation", "gold"} <= names:
        guess = 1 / max(1, len(first["context_options"]))
        options: dict[str, Any] = {"contexts": "context_options", "answer": "continuation", "random": guess}
        return Task(kind="multiple_choice", prompt="", **options, **common)
    if {"context", "continuation"} <= names:
        return Task(kind="continuation", prompt="{{ context }}", answer="continuation", **common)
    if {"context", "answer"} <= names:
        metric = "number" if "chain_of_thought" in names else "exact"
        aliases = "aliases" if "aliases" in names else ""
        options = {"metric": metric, "aliases": aliases, "stop": ("\n",), "random": 0.0}
        return Task(kind="generation", prompt="{{ context }}", **options, **common)
    raise UserError(
        f"{path} has the columns {', '.join(sorted(names))}; expected query+choices+gold, "
        "context_options+continuation+gold, context+continuation or context+answer, or write a task YAML"
    )


READERS: dict[str, Callable[[Sequence[str]], Iterable[dict[str, Any]]]] = {"": records, "mt_bench": mt_bench.records}


def items(task: Task, *, seed: int, limit: int | None = None) -> list[Item]:
    """The questions of a task, in the order of its data; `limit` of them (the smaller of the two limits), drawn by
    seed.

    Raises:
        UserError: a broken row, or no row at all.
    """
    files = (task.data,) if isinstance(task.data, str) else task.data
    read = READERS[task.reader]
    found = [*task.rows, *(read(files) if files else ())]
    if not found:
        raise UserError(f"task {task.name} has 0 items: add rows to its data")
    seen: dict[str, int] = {}
    keys = []
    for record in found:
        digest = hashlib.sha256(json.dumps(record, sort_keys=True, default=str).encode()).hexdigest()[:16]
        seen[digest] = seen.get(digest, -1) + 1
        keys.append(digest + (f"#{seen[digest]}" if seen[digest] else ""))
    limits = [one for one in (task.limit, limit) if one is not None]
    rng = np.random.default_rng(seed)
    chosen = list(range(len(found)))
    if limits and min(limits) < len(found):
        chosen = sorted(rng.permutation(len(found))[: min(limits)].tolist())
    if task.shots >= len(found):
        raise UserError(f"task {task.name} wants {task.shots} shots of {len(found)} items: lower `shots`, or add rows")
    return [Item(key=keys[at], record=found[at], shots=_shots(task, found, at, rng)) for at in chosen]


def _shots(
    task: Task, records: Sequence[Mapping[str, Any]], at: int, rng: np.random.Generator
) -> tuple[Mapping[str, Any], ...]:
    if not task.shots:
        return ()
    others = rng.choice(len(records) - 1, size=task.shots, replace=False).tolist()
    return tuple(records[other + (other >= at)] for other in others)
