"""Task files of lm-evaluation-harness, InstructLab's among them, read as they are: data in local files, prompts in Jinja.

Left out: data sets of the Hub (name a local file: NAME=FILE), filters, sampling, groups of tasks, and Python in a task (`!function`,
which the reader of YAML refuses). A key that would change the score and is not read here is refused. Worked examples (num_fewshot) come
from the task's other items. A template of such a file is a stranger's, and renders in the worker of core/templates.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bottega.core.config import load_yaml
from bottega.core.errors import UserError
from bottega.core.templates import Refused, render_many
from bottega.evals.rows import records

MAX_INCLUDES = 8
METRICS: dict[str, dict[str, Any]] = {
    "multiple_choice": {"acc": "accuracy", "acc_norm": "accuracy_per_character", "acc_bytes": "accuracy_per_byte"},
    "generate_until": {"exact_match": {"name": "exact", "normal": False}},
    "loglikelihood": {"acc": "accuracy"},
    "loglikelihood_rolling": {"bits_per_byte": "bits_per_byte"},
}  # fmt: skip
"""What we compute for the first metric of a task that we know, by its output type."""
READ = {
    "task", "include", "output_type", "dataset_path", "dataset_kwargs", "test_split", "validation_split", "doc_to_text",
    "doc_to_target", "doc_to_choice", "description", "num_fewshot", "target_delimiter", "metric_list", "generation_kwargs",
}  # fmt: skip
HARMLESS = {
    "dataset_name", "training_split", "fewshot_split", "group", "tag", "task_alias", "metadata", "should_decontaminate",
    "doc_to_decontamination_query",
}  # fmt: skip
"""Keys that change no score of a local file."""
ASKED = {"until", "max_gen_toks", "do_sample", "temperature"}
"""Of generation_kwargs; replies are greedy."""
KINDS = {
    "multiple_choice": "multiple_choice", "generate_until": "generation", "loglikelihood": "continuation",
    "loglikelihood_rolling": "perplexity",
}  # fmt: skip


def is_one(plain: Any) -> bool:
    """Whether a task file is the harness's: ours says `kind`, theirs `output_type`, or it includes another file."""
    return (
        isinstance(plain, dict) and "kind" not in plain and bool({"output_type", "include", "doc_to_text"} & set(plain))
    )


def fields_of(plain: Mapping[str, Any], path: Path, data: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of our Task, its rows rendered.

    Args:
        path: of the file, for what it includes and the data beside it. data: files that take the place of its own.

    Raises:
        UserError: no local data, a key that is needed is missing, or a template that does not render.
    """
    whole = _included(plain, path, MAX_INCLUDES)
    name = str(whole.get("task") or path.stem)
    asked = str(whole.get("output_type", ""))
    if asked not in KINDS:
        raise UserError(f"{path}: output_type is {asked!r}; this version reads {', '.join(KINDS)}")
    _refuse(whole, path)
    found = _records(list(data) or _files(whole, path), name)
    front, shots = str(whole.get("description") or ""), int(whole.get("num_fewshot") or 0)
    if front and (shots or asked == "loglikelihood_rolling"):
        raise UserError(
            f"{path}: a description is not read in front of worked examples or of texts that are only scored; leave it out"
        )
    texts = [""] * len(found) if asked == "loglikelihood_rolling" else _rendered(whole, "doc_to_text", found, path)
    texts = [front + text for text in texts]
    common = {"name": name, "kind": KINDS[asked], "shots": shots, "delimiter": str(whole.get("target_delimiter", " "))}
    if asked == "multiple_choice":
        return common | _choices(whole, found, texts, path)
    targets = _rendered(whole, "doc_to_target", found, path)
    rows = tuple({"prompt": text, "answer": target} for text, target in zip(texts, targets, strict=True))
    more: dict[str, Any] = {"rows": rows, "metric": _metric(whole, asked, path)}
    if asked == "generate_until":
        how = whole.get("generation_kwargs") or {}
        stops = how.get("until", ["\n\n"])
        more |= {
            "stop": tuple([stops] if isinstance(stops, str) else stops),
            "max_tokens": int(how.get("max_gen_toks", 256)),
        }
    if asked == "loglikelihood_rolling":
        more["prompt"] = ""
    return common | more


def _refuse(whole: Mapping[str, Any], path: Path) -> None:
    """Raises UserError for what would change the score and is not read."""
    how = whole.get("generation_kwargs") or {}
    odd = sorted(set(whole) - READ - HARMLESS) + [f"generation_kwargs.{key}" for key in sorted(set(how) - ASKED)]
    if odd:
        raise UserError(
            f"{path}: {', '.join(odd)} would change the score, and this version does not read it: take it out, or score elsewhere"
        )
    if how.get("do_sample") or float(how.get("temperature") or 0) > 0:
        raise UserError(
            f"{path}: generation_kwargs ask for drawn replies, and replies are greedy here: take do_sample and temperature out"
        )
    for one in whole.get("metric_list") or ():
        more = sorted(set(one) - {"metric", "aggregation", "higher_is_better"}) if isinstance(one, dict) else []
        if more:
            raise UserError(
                f"{path}: the metric {one.get('metric')} has {', '.join(more)}, which this version does not read: take it out"
            )


def _choices(
    whole: Mapping[str, Any], records: Sequence[Mapping[str, Any]], texts: Sequence[str], path: Path
) -> dict[str, Any]:
    given = whole.get("doc_to_choice")
    if given is None:
        raise UserError(
            f"{path}: doc_to_choice is missing, which a multiple choice task needs: add the list of choices"
        )
    rows = []
    targets = _rendered(whole, "doc_to_target", records, path)
    for number, (record, text, target) in enumerate(zip(records, texts, targets, strict=True)):
        choices = record.get(given) if isinstance(given, str) else given
        if not isinstance(choices, list) or len(choices) < 2:
            raise UserError(f"{path}: doc_to_choice {given!r} is no list of at least 2 choices in record {number + 1}")
        names = [str(choice) for choice in choices]
        gold = int(target) if target.strip().isdigit() else names.index(target) if target in names else -1
        if not 0 <= gold < len(names):
            raise UserError(
                f"{path}: the target {target[:60]!r} of record {number + 1} is none of its {len(names)} choices"
            )
        rows.append({"query": text, "choices": names, "gold": gold, "answer": names[gold]})
    guess = 1 / len(names)
    metric = _metric(whole, "multiple_choice", path)
    return {"rows": tuple(rows), "prompt": "{{ query }}", "metric": metric, "random": guess}


def _metric(whole: Mapping[str, Any], asked: str, path: Path) -> str | dict[str, Any]:
    known = METRICS[asked]
    listed = [str(one.get("metric") if isinstance(one, dict) else one) for one in whole.get("metric_list") or ()]
    if not listed:
        listed = [next(iter(known))]
    for name in listed:
        if name in known:
            found: str | dict[str, Any] = known[name]
            return found
    raise UserError(f"{path}: of the metrics {', '.join(listed)} this version knows none; it knows {', '.join(known)}")


def _included(plain: Mapping[str, Any], path: Path, left: int) -> dict[str, Any]:
    """The file with what it includes below it, from the same folder."""
    name = plain.get("include")
    if name is None:
        return dict(plain)
    if left == 0 or not isinstance(name, str) or Path(name).name != name:
        raise UserError(
            f"{path}: include {name!r} is no file beside it, or includes go round: name a file of its folder"
        )
    other = path.parent / name
    try:
        text = other.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} includes {name}, which cannot be read ({error.strerror}): put it beside the task"
        ) from None
    below, _ = load_yaml(text, file=str(other))
    if not isinstance(below, dict):
        raise UserError(f"{other} is no mapping of keys: correct the file")
    return {**_included(below, other, left - 1), **{key: value for key, value in plain.items() if key != "include"}}


def _files(whole: Mapping[str, Any], path: Path) -> list[str]:
    """The local files of the test split: as written, else of that name beside the task."""
    given = (whole.get("dataset_kwargs") or {}).get("data_files")
    split = whole.get("test_split") or whole.get("validation_split") or "test"
    named = given.get(split) if isinstance(given, dict) else given
    names = [named] if isinstance(named, str) else list(named or ())
    if not names:
        where = whole.get("dataset_path") or "nowhere"
        raise UserError(f"{path}: its data is {where}, not a local file: give the file, {path}=FILE")
    return [name if Path(name).is_file() else str(path.parent / Path(name).name) for name in map(str, names)]


def _records(files: Sequence[str], name: str) -> list[dict[str, Any]]:
    found = list(records(files))
    if not found:
        raise UserError(f"task {name} has 0 items: add rows to its data")
    return found


def _rendered(whole: Mapping[str, Any], key: str, records: Sequence[Mapping[str, Any]], path: Path) -> list[str]:
    """A template, or the name of a column, for every record."""
    source = whole.get(key)
    if not isinstance(source, str):
        if isinstance(source, int):
            return [str(source)] * len(records)
        raise UserError(f"{path}: {key} is missing; this version reads a template or a column's name")
    if "{{" not in source and "{%" not in source:
        if missing := [number for number, record in enumerate(records, 1) if source not in record]:
            raise UserError(f"{path}: {key} names the column {source!r}, which record {missing[0]} does not have")
        return [str(record[source]) for record in records]
    texts = []
    for number, text in enumerate(render_many(source, records, trusted=False), 1):
        if isinstance(text, Refused):
            raise UserError(f"{path}: {key} does not render for record {number}: {text.reason}")
        texts.append(text)
    return texts
