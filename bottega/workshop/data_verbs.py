"""The verbs `bottega data ...`: the command line's words turned into arguments of the data room's functions.

Left out: what they do (the data room). A model is named for its tokenizer and template; its weights are not loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bottega.core.errors import UserError


def inspect(
    path: str | Path,
    *,
    model: str = "garzone",
    template: str | None = None,
    row: int = 1,
    mask: str = "assistant",
    thinking: str = "keep",
    format: str | None = None,
    max_tokens: int | None = None,
) -> dict[str, Any]:
    """One row's tokens with what trains, as the model will see them."""
    from bottega.data.inspect import inspect as look

    tokenizer = tokenizer_of(model)
    options: dict[str, Any] = {"format": format, "row": row, "mask": mask, "thinking": thinking}
    return look(path, tokenizer, template, max_tokens=max_tokens, **options)


def inspect_text(result: dict[str, Any]) -> str:
    """Coloured on a terminal, brackets around what trains elsewhere."""
    from bottega.data.inspect import render

    return render(result, colour=sys.stdout.isatty())


def check(
    paths: Sequence[str],
    *,
    format: str | None = None,
    columns: Sequence[str] = (),
    model: str | None = None,
    template: str | None = None,
    mask: str = "assistant",
    max_tokens: int | None = None,
) -> dict[str, Any]:
    """Every row that a run could not use; `exit_code` is 1 when a run would stop."""
    from bottega.data import report

    tokenizer, chosen = _with_template(model, template)
    if max_tokens is not None and tokenizer is None:
        raise UserError("--max-tokens counts tokens: name the model whose tokenizer counts them with --model")
    options: dict[str, Any] = {"tokenizer": tokenizer, "template": chosen, "mask": mask, "max_tokens": max_tokens}
    result = report.check(list(paths), format=format, columns=pairs(columns), **options)
    return {**result, "exit_code": 0 if result["ok"] else 1}


def check_text(result: dict[str, Any]) -> str:
    """Files, the first bad rows, and the verdict."""
    from bottega.data.report import render_check

    return render_check(result)


def stats(
    paths: Sequence[str],
    *,
    format: str | None = None,
    columns: Sequence[str] = (),
    model: str | None = None,
    template: str | None = None,
) -> dict[str, Any]:
    """What the rows are like: kinds, turns, lengths, duplicates."""
    from bottega.data import report

    tokenizer, chosen = _with_template(model, template)
    return report.stats(list(paths), format=format, columns=pairs(columns), tokenizer=tokenizer, template=chosen)


def stats_text(result: dict[str, Any]) -> str:
    """A line a fact."""
    from bottega.data.report import render_stats

    return render_stats(result)


def convert(
    paths: Sequence[str],
    *,
    out: str,
    to: str = "messages",
    format: str | None = None,
    columns: Sequence[str] = (),
    allow_loss: int | None = None,
) -> dict[str, Any]:
    """The rows in another format, in one file."""
    from bottega.data.convert import convert as rewrite

    return rewrite(list(paths), to=to, out=out, format=format, columns=pairs(columns), allow_loss=allow_loss)


def convert_text(result: dict[str, Any]) -> str:
    """What was written and what was not."""
    lines = [f"{result['rows']:,} rows written to {result['out']} as {result['format']}"]
    lines += [f"  not written {count:>6,}  {reason}" for reason, count in result["bad"].items()]
    return "\n".join([*lines, *(f"  e.g. {example}" for example in result["examples"])])


def split(
    path: str,
    *,
    out: str,
    shares: Sequence[str] = ("validation=0.1",),
    seed: int = 0,
    group: str | None = None,
    stratify: str | None = None,
    time: str | None = None,
) -> dict[str, Any]:
    """Parts without near duplicates across them; what no share names is `train`."""
    from bottega.data.split import split_file

    named: dict[str, float] = {}
    for name, text in pairs(shares, "--share").items():
        try:
            named[name] = float(text)
        except ValueError:
            raise UserError(f"--share {name}={text}: {text!r} is no number; write for example {name}=0.1") from None
    left = 1 - sum(named.values())
    if left > 1e-9 and "train" not in named:
        named = {"train": left, **named}
    return split_file(path, shares=named, seed=seed, out=out, group=group, stratify=stratify, time=time)


def split_text(result: dict[str, Any]) -> str:
    """The parts with their rows."""
    parts = [
        f"{name}: {part['rows']:,} rows ({part['share']:.1%}) in {part['path']}"
        for name, part in result["parts"].items()
    ]
    return "\n".join([f"{result['file']}: {result['rows']:,} rows", *parts])


def pairs(texts: Sequence[str], flag: str = "--column") -> dict[str, str]:
    """`prompt=question` texts as a mapping.

    Raises:
        UserError: one has no equals sign.
    """
    for text in texts:
        if not text.partition("=")[0] or not text.partition("=")[2]:
            raise UserError(f"{flag} {text!r} is not NAME=VALUE")
    return {text.partition("=")[0]: text.partition("=")[2] for text in texts}


def tokenizer_of(model: str) -> Any:
    """The tokenizer of a model, without its weights."""
    from bottega.models.load import has_tokenizer, load_tokenizer
    from bottega.models.locate import locate

    place = locate(model)
    return load_tokenizer(place.folder if has_tokenizer(place.folder) else place.base)


def _with_template(model: str | None, template: str | None) -> tuple[Any, Any]:
    if model is None:
        if template is not None:
            raise UserError("--template renders rows for a tokenizer: name the model that it belongs to with --model")
        return None, None
    from bottega.data.chat import Template

    tokenizer = tokenizer_of(model)
    return tokenizer, Template.find(template, tokenizer)
