"""`bottega data clean`, the cleaning steps of a recipe, and which runs hold a row that is to be erased.

Left out: what the steps do (the data room).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bottega.core.config import load_yaml
from bottega.core.errors import UserError
from bottega.core.textio import printable

DEFAULT_STEPS = ("exact", "near")


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
) -> dict[str, Any]:
    """Files through cleaning steps into a folder.

    Args:
        steps: names in order; none: exact and near. settings: STEP.OPTION=VALUE texts.

    Raises:
        UserError: a mistake in a step or its options, or in the data.
    """
    from bottega.data.clean.files import clean as clean_files
    from bottega.workshop.data_verbs import pairs

    choices = [(name, resolved(name, options)) for name, options in chosen(steps or DEFAULT_STEPS, settings)]
    options: dict[str, Any] = {"format": format, "columns": pairs(columns), "allow_loss": allow_loss}
    return clean_files(list(paths), choices, out=out, seed=seed, **options)


def clean_text(result: dict[str, Any]) -> str:
    """Each step with its counts and examples, and what was written."""
    from bottega.data.clean.account import render

    lines = [f"{result['read']:,} rows read, {result['kept']:,} kept"]
    lines += [f"  not usable {count:,}  {reason}" for reason, count in result["not_usable"].items()]
    lines += [line for account in result["steps"] for line in render(account)]
    lines += [f"written: {result['out']}/cleaned.jsonl, rejects.jsonl, clean.json"]
    return "\n".join(map(printable, lines))


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
