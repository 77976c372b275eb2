"""The verb `bottega taxonomy check`: a model's name turned into a count of tokens for the taxonomy room.

Left out: what is checked (synth/taxonomy.py). A model is named for its tokenizer; its weights are not loaded.
"""

from __future__ import annotations

from pathlib import Path

from bottega.core.errors import UserError
from bottega.synth.taxonomy import Checked
from bottega.synth.taxonomy import check as examine
from bottega.synth.taxonomy import check_text as render
from bottega.workshop.data_verbs import tokenizer_of


def check(
    path: str | Path,
    *,
    strict: bool = False,
    schema_version: int | None = None,
    rules: str | None = None,
    window: int | None = None,
    model: str | None = None,
) -> Checked:
    """Every problem of every leaf; `window` is counted in the tokens of `model`, or else in characters."""
    if model is None:
        return examine(path, strict=strict, schema_version=schema_version, rules=rules, window=window)
    if window is None:
        raise UserError(f"--model {model} counts the tokens of seeds: give the teacher's window with --window")
    tokenizer = tokenizer_of(model)

    def measure(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    return examine(
        path, strict=strict, schema_version=schema_version, rules=rules, window=window, measure=measure, unit="tokens"
    )


def check_text(result: Checked) -> str:
    """A line a problem, then the sums."""
    return render(result)
