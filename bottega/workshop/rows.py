"""The rows of a stage: files to samples, a share kept out, samples to token ids, sources mixed in their weights.

Left out: how any of it is done (the data room).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bottega.core.errors import UserError
from bottega.core.types import Row
from bottega.data import formats, prepare
from bottega.data.blocks import blocks
from bottega.data.chat import Template
from bottega.data.holdout import hold_out
from bottega.data.intake import Intake
from bottega.data.mix import mix
from bottega.models.generate import context_limit
from bottega.models.load import Loaded
from bottega.train.objectives import OBJECTIVES
from bottega.workshop.recipe import Part, Stage

DEFAULT_MAX_TOKENS = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRows:
    """Rows by source, held-out rows, and the account of each."""

    train: list[list[Row]]
    held_out: list[Row]
    intakes: tuple[Intake, ...]
    held_out_intakes: tuple[Intake, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As written to intake.json: the sums over the sources, then each source, then the held-out rows."""
        return {
            **_summed([intake.to_json() for intake in self.intakes]),
            "sources": [intake.to_json() for intake in self.intakes],
            "validation": [intake.to_json() for intake in self.held_out_intakes],
            "rows": {"train": [len(rows) for rows in self.train], "validation": len(self.held_out)},
        }


def _summed(intakes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts added up, reasons added up by reason, notes and examples one after the other."""
    total: dict[str, Any] = {}
    for intake in intakes:
        for key, value in intake.items():
            if isinstance(value, dict):
                into = total.setdefault(key, {})
                into.update({name: into.get(name, 0) + count for name, count in value.items()})
            else:
                total[key] = total[key] + value if key in total else value
    return total


def row_limit(stage: Stage, loaded: Loaded) -> int:
    """The longest row in tokens: what the stage says, or 2048, within the model's positions.

    Raises:
        UserError: the stage asks for more than the model has.
    """
    limit = context_limit(loaded.model.config)
    if stage.max_tokens is None:
        return min(DEFAULT_MAX_TOKENS, limit or DEFAULT_MAX_TOKENS)
    if limit is not None and stage.max_tokens > limit:
        raise UserError(f"max_tokens is {stage.max_tokens}, but the model has {limit} positions; set it to {limit}")
    return stage.max_tokens


def read_rows(stage: Stage, loaded: Loaded, template: Template, *, seed: int) -> StageRows:
    """The stage's rows: read, split, tokenised, cut as the stage says, each loss accounted for.

    Raises:
        UserError: a row that cannot be used and may not be lost, none left, a file that is missing.
    """
    kind = OBJECTIVES[stage.objective.name].data
    options: dict[str, Any] = {
        "kind": kind,
        "max_tokens": row_limit(stage, loaded),
        "over_length": stage.over_length,
        "mask": stage.mask,
        "thinking": stage.thinking,
        "allow_loss": stage.allow_loss,
    }
    found = [_samples(part) for part in stage.data]
    held_out = [_samples(part) for part in (stage.validation.data if stage.validation else ())]
    share = stage.validation.share if stage.validation else None
    notes: tuple[str, ...] = ()
    if share:
        apart = hold_out(found, share=share, seed=seed, passages=kind == "text")
        found, held_out, notes = apart.train, [apart.held_out], apart.notes
    made = [prepare.rows(samples, loaded.tokenizer, template, **options) for samples in found]
    held = [prepare.rows(samples, loaded.tokenizer, template, **options) for samples in held_out]
    train, held_rows = [rows for rows, _ in made], [row for rows, _ in held for row in rows]
    if stage.blocks:
        assert kind == "text", "the recipe's check lets blocks through for texts only"
        train = [blocks(rows, length=options["max_tokens"]) for rows in train]
    return StageRows(
        train=_numbered(train),
        held_out=_numbered([held_rows])[0],
        intakes=tuple(intake for _, intake in made),
        held_out_intakes=tuple(intake for _, intake in held),
        notes=notes,
    )


def _samples(part: Part) -> list[Any]:
    return list(formats.samples(part.path, format=part.format, columns=part.columns))


def _numbered(sources: list[list[Row]]) -> list[list[Row]]:
    """Rows numbered through over all sources: the number is the key of whatever is cached for a row."""
    at, numbered = 0, []
    for rows in sources:
        numbered.append([dataclasses.replace(row, index=at + i) for i, row in enumerate(rows)])
        at += len(rows)
    return numbered


def mixed(sources: Sequence[Sequence[Row]], parts: Sequence[Part], *, seed: int) -> list[Row]:
    """One pass over the sources: in their weights where they have some, else every row once."""
    weights = [part.weight for part in parts]
    if any(weight is None for weight in weights):
        return [row for rows in sources for row in rows]
    drawn = mix([len(rows) for rows in sources], [w for w in weights if w is not None], seed=seed)
    return [rows[int(i)] for rows, indices in zip(sources, drawn) for i in indices]


def rows_key(rows: Sequence[Row], identity: str) -> str:
    """A hash over the ids and targets of rows and the identity of the model that scores them."""
    digest = hashlib.sha256(identity.encode())
    for row in rows:
        for tokens in (row.prefix, *row.branches):
            digest.update(repr((list(tokens.ids), list(tokens.trains))).encode())
    return digest.hexdigest()
