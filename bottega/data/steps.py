"""Answers in steps, each right or wrong, to rows: the prompt, the steps as lines, and a label at the last token of each.

Left out: answers judged as a whole (unpaired.py), shards on disk. Steps are tokenised one by one, so that where one ends is certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bottega.core.errors import UserError
from bottega.core.types import Labelled, Row, Sample, Tokens
from bottega.data.chat import Template, encode_prompt
from bottega.data.intake import Intake, Ledger
from bottega.data.sources import Problem

END = "\n"
"""What ends a step."""


def step_row(index: int, prompt: Sequence[int], steps: Sequence[str], labels: Sequence[float], tokenizer: Any) -> Row:
    """The row of one answer; of a step that gives no token of its own its end's tokens remain."""
    ids: list[int] = []
    trains: list[float] = []
    for step in steps:
        own = tokenizer(step.strip() + END, add_special_tokens=False, verbose=False)["input_ids"]
        ids += own
        trains += [0.0] * (len(own) - 1) + [1.0]
    return Row(
        index=index,
        prefix=Tokens(list(prompt), [0.0] * len(prompt)),
        branches=(Tokens(ids, trains),),
        tokens={"label": list(labels)},
    )


def lines(reply: str) -> list[str]:
    """A reply's steps: its lines that say something.

    >>> lines("2 + 2 = 4\\n\\nSo it is 4.\\n")
    ['2 + 2 = 4', 'So it is 4.']
    """
    return [line for line in reply.splitlines() if line.strip()]


def rows(
    samples: Iterable[Sample | Problem],
    tokenizer: Any,
    template: Template,
    *,
    max_tokens: int,
    over_length: str = "error",
    allow_loss: int | None = None,
) -> tuple[list[Row], Intake]:
    """Rows and the account of what was read.

    Raises:
        UserError: a row is too long under `error`, more are lost than allowed, or none is left.
    """
    if over_length not in ("error", "drop"):
        raise UserError(f"an answer in steps cannot be cut; set over_length to error or drop, not {over_length}")
    ledger, found = Ledger(allow_loss), list[Row]()
    bound = template.bind(tokenizer)
    for sample in samples:
        ledger.saw(sample.where)
        if isinstance(sample, Problem):
            ledger.problem(sample)
            continue
        if not isinstance(sample, Labelled) or not sample.prompt or not sample.words:
            what = f"a {type(sample).__name__} where an answer in steps is needed (prompt, steps, labels)"
            ledger.problem(Problem(sample.where, what))
            continue
        assert isinstance(sample.label, tuple)
        prompt = encode_prompt(sample.prompt, tokenizer, bound)
        row = step_row(len(found), prompt, sample.words, [float(label == "True") for label in sample.label], tokenizer)
        if row.num_tokens > max_tokens:
            if over_length == "error":
                raise UserError(
                    f"{sample.where} has {row.num_tokens:,} tokens, above max_tokens {max_tokens:,}; write over_length: "
                    "drop, or raise it"
                )
            ledger.drop(sample.where, f"longer than max_tokens {max_tokens}")
            continue
        found.append(row)
    trained = sum(len(row.tokens["label"]) for row in found)
    return found, ledger.close(taken=len(found), tokens=sum(row.num_tokens for row in found), trained=trained)
