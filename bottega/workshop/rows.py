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
from bottega.core.types import Document, Row
from bottega.data import formats, prepare
from bottega.data.blocks import blocks
from bottega.data.chat import Template
from bottega.data.chunk import chunk
from bottega.data.intake import Intake
from bottega.data.mix import mix
from bottega.data.sources import Problem
from bottega.data.split import split
from bottega.models.generate import context_limit
from bottega.models.load import Loaded
from bottega.train.objectives import OBJECTIVES
from bottega.workshop.recipe import Part, Stage

DEFAULT_MAX_TOKENS = 2048
MIN_DOCUMENTS, PIECE = 10, 1000
"""With fewer documents than this, passages of so many characters are split for validation instead of documents."""
_PLACE = "__passage__"


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
        if kind == "text" and sum(isinstance(item, Document) for items in found for item in items) < MIN_DOCUMENTS:
            found = [[piece for item in items for piece in _pieces(item)] for items in found]
            notes = (
                f"fewer than {MIN_DOCUMENTS} documents: passages of {PIECE:,} characters are kept out, not documents",
            )
        found, kept_out = _apart(found, share, seed)
        found, held_out = [_joined(items) for items in found], [_joined(kept_out)]
    made = [prepare.rows(samples, loaded.tokenizer, template, **options) for samples in found]
    held = [prepare.rows(samples, loaded.tokenizer, template, **options) for samples in held_out]
    train, held_rows = [rows for rows, _ in made], [row for rows, _ in held for row in rows]
    if stage.blocks:
        if kind != "text":
            raise UserError(f"blocks: true is for pretrain, not {stage.objective.name}; leave it out")
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


def _pieces(item: Any) -> list[Any]:
    """A document as passages, each with its number; anything else as it is."""
    if not isinstance(item, Document):
        return [item]
    parts = chunk(item.text, size=PIECE)
    return [
        dataclasses.replace(item, text=part.text, meta={**item.meta, _PLACE: (id(item), number)})
        for number, part in enumerate(parts)
    ]


def _joined(items: list[Any]) -> list[Any]:
    """Passages that follow one another in their document put together again."""
    joined: list[Any] = []
    last: tuple[int, int] | None = None
    for item in items:
        place = item.meta.get(_PLACE) if isinstance(item, Document) else None
        if place is not None and last == (place[0], place[1] - 1):
            joined[-1] = dataclasses.replace(joined[-1], text=joined[-1].text + item.text)
        else:
            joined.append(item)
        last = place
    return joined


def _apart(sources: list[list[Any]], share: float, seed: int) -> tuple[list[list[Any]], list[Any]]:
    """A share of the rows of all sources together, kept out with near duplicates; bad rows stay where they are."""
    good = [item for items in sources for item in items if not isinstance(item, Problem)]
    if len(good) < 2:
        raise UserError(f"validation: {share} needs at least 2 rows to split, and there is {len(good)}; give a file")
    parts = split(good, seed=seed, shares={"train": 1 - share, "validation": share})
    out = {id(item) for item in parts["validation"]}
    kept = [[item for item in items if id(item) not in out] for items in sources]
    if not parts["validation"] or not all(any(not isinstance(i, Problem) for i in items) for items in kept):
        raise UserError(f"validation: {share} leaves a part of the {len(good)} rows empty; give more rows, or a file")
    return kept, parts["validation"]


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
