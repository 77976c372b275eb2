"""The rows of a stage: files to samples, a share kept out, samples to token ids, sources mixed in their weights.

Left out: how any of it is done (the data room).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bottega.core.errors import UserError
from bottega.core.types import Row
from bottega.data import both_sides, labels, prepare, steps, unpaired
from bottega.data.blocks import Blocks, blocks
from bottega.data.chat import Template
from bottega.data.clean.account import Account
from bottega.data.clean.held import Keys
from bottega.data.corrupt import Marks
from bottega.data.holdout import hold_out
from bottega.data.intake import Intake
from bottega.data.mix import Chain
from bottega.data.remote import is_remote
from bottega.data.shards import ShardRows
from bottega.data.sources import find
from bottega.models import heads
from bottega.models.generate import context_limit
from bottega.models.kinds import end_of, first_position, start_of
from bottega.models.load import Loaded
from bottega.train.objectives import OBJECTIVES
from bottega.workshop.cleaning import Sources, read_sources
from bottega.workshop.recipe import Stage
from bottega.workshop.shard_rows import ShardCache

DEFAULT_MAX_TOKENS = 2048
UNPAIRED = "unpaired"
STEPS = "steps"
LABELLED = ("labelled", "tagged", "pairs")
"""Kinds of rows that data/labels.py makes."""
OWN_KEYS = ("length", "loss")
"""What a curriculum can order by without a column."""
SHARD_BYTES = 64_000_000
"""From so many bytes of training files on, rows lie on disk unless the stage says `shards: false`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRows:
    """Rows by source, held-out rows, and the account of each."""

    train: Sequence[Sequence[Row]]
    held_out: Sequence[Row]
    intakes: tuple[Intake, ...]
    held_out_intakes: tuple[Intake, ...] = ()
    notes: tuple[str, ...] = ()
    cleaned: tuple[Account, ...] = ()
    held: Keys | None = None
    """The hashes of the rows, by which a run that holds one is found; None where the rows lie on disk."""

    def to_json(self) -> dict[str, Any]:
        """As written to intake.json: the sums over the sources, then each source, the cleaning steps, the held-out rows."""
        cleaned = {"clean": [account.to_json() for account in self.cleaned]} if self.cleaned else {}
        return {
            **_summed([intake.to_json() for intake in self.intakes]),
            "sources": [intake.to_json() for intake in self.intakes],
            **cleaned,
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
    limit = positions_of(loaded)
    if stage.max_tokens is None:
        return min(DEFAULT_MAX_TOKENS, limit or DEFAULT_MAX_TOKENS)
    if limit is not None and stage.max_tokens > limit:
        raise UserError(f"max_tokens is {stage.max_tokens}, but the model has {limit} positions; set it to {limit}")
    return stage.max_tokens


def positions_of(loaded: Loaded) -> int | None:
    """How many tokens a text may have, None where the model sets no limit."""
    limit = context_limit(loaded.model.config)
    if limit is not None and loaded.kind == "encoder":
        limit -= first_position(heads.causal_model(loaded.model))
    return limit


def read_rows(
    stage: Stage, loaded: Loaded, template: Template, *, seed: int, note: Callable[[str], None] = print
) -> StageRows:
    """The stage's rows: read, split, tokenised, cut as the stage says, each loss accounted for.

    Rows of large files (SHARD_BYTES) lie on disk; `note` is told where.

    Raises:
        UserError: a row that cannot be used and may not be lost, none left, a file that is missing.
    """
    kind = OBJECTIVES[stage.objective.name].data
    if kind in LABELLED:
        return _labelled(stage, loaded, seed)
    if kind == UNPAIRED:
        return _unpaired(stage, loaded, template, seed)
    if kind == STEPS:
        _refuse_kind(stage, loaded)
        return _stepwise(stage, loaded, template, seed)
    assert kind == "text" or not stage.blocks, "the recipe's check lets blocks through for texts only"
    _refuse_kind(stage, loaded)
    plan = _plan(stage, loaded, kind)
    if loaded.kind == "encoder-decoder" and kind != "text":
        return _both_sides(stage, loaded, template, plan, seed)
    share = stage.validation.share if stage.validation else None
    on_disk, why = shards_wanted(stage)
    in_memory = _why_in_memory(stage)
    sources: Sources | None = None
    cache = ShardCache(stage=stage, loaded=loaded, template=template, plan=plan, note=note)
    places = cache.held_out(share, seed) if on_disk and share and not in_memory else None
    if on_disk and share and not in_memory and places is None:
        in_memory = f"validation: {share} keeps passages of few documents out"
    kept_out: list[tuple[Sequence[Row], Intake]] = []
    if on_disk and not in_memory:
        notes: tuple[str, ...] = (why,)
        made = [cache.rows(part, number, places) for number, part in enumerate(stage.data)]
        kept_out = [cache.kept_out(places)] if places else []
        files = stage.validation.data if stage.validation else ()
        held_samples = read_sources(files, None, seed=seed, held=Keys()).found
    else:
        found, held_samples, sources, notes = _read(stage, kind, share, seed)
        if on_disk:
            notes += (f"{why}, but {in_memory}, so they are in memory",)
        made = [_tokenised(samples, stage, loaded, template, plan) for samples in found]
        made = [(rows, sources.told(i, intake)) for i, (rows, intake) in enumerate(made)]
    held_out = kept_out + [_tokenised(samples, stage, loaded, template, plan) for samples in held_samples]
    train = [rows for rows, _ in made]
    if stage.blocks:
        train = [blocks(rows, length=plan.max_tokens) for rows in train]
    return StageRows(
        train=_numbered(train),
        held_out=Chain(_numbered([rows for rows, _ in held_out])) if held_out else [],
        intakes=tuple(intake for _, intake in made),
        held_out_intakes=tuple(intake for _, intake in held_out),
        notes=notes,
        cleaned=tuple(sources.accounts) if sources else (),
        held=sources.held if sources else None,
    )


def _plan(stage: Stage, loaded: Loaded, kind: str) -> prepare.Plan:
    """How samples of a kind become rows."""
    return prepare.Plan(
        kind=kind,
        max_tokens=row_limit(stage, loaded) - (marks_of(loaded).around if hides(stage, loaded) else 0),
        over_length=stage.over_length or "error",
        mask=stage.mask,
        thinking=stage.thinking,
        difficulty=stage.curriculum.by if stage.curriculum and stage.curriculum.by not in OWN_KEYS else None,
    )


def hides(stage: Stage, loaded: Loaded) -> bool:
    """Whether a stage learns what was hidden in texts: pretraining of an encoder or an encoder-decoder."""
    return OBJECTIVES[stage.objective.name].data == "text" and loaded.kind != "decoder"


def marks_of(loaded: Loaded) -> Marks:
    """What the tokenizer puts around a text and hides it with."""
    config = loaded.model.config
    return Marks.of(loaded.tokenizer, start_of(config) if loaded.kind == "encoder-decoder" else ())


def _refuse_kind(stage: Stage, loaded: Loaded) -> None:
    """An encoder writes no answers, but can judge others'; a reward reads states that an encoder-decoder spreads over two sides."""
    name = stage.objective.name
    if loaded.kind == "encoder" and OBJECTIVES[name].data != "text" and name != "reward":
        raise UserError(
            f"{loaded.folder} holds an encoder, which writes no answers; train it with pretrain, reward, classification, "
            "multilabel, regression, tagging or contrastive"
        )
    if loaded.kind == "encoder-decoder" and name in ("reward", "process_reward"):
        raise UserError(
            f"{loaded.folder} holds an encoder-decoder, whose reward head is not built; use a decoder or an encoder for {name}"
        )


def _both_sides(stage: Stage, loaded: Loaded, template: Template, plan: prepare.Plan, seed: int) -> StageRows:
    """Rows of an encoder-decoder, in memory."""
    config = loaded.model.config
    how: dict[str, Any] = {
        "plan": plan,
        "start": start_of(config),
        "end": end_of(config),
        "allow_loss": stage.allow_loss,
    }
    return _held(stage, plan.kind, seed, lambda samples: both_sides.rows(samples, loaded.tokenizer, template, **how))


def _labelled(stage: Stage, loaded: Loaded, seed: int) -> StageRows:
    """Rows with labels (or pairs of texts), in memory; a share is kept out label by label."""
    assert loaded.purpose is not None
    how: dict[str, Any] = {
        "kind": stage.objective.name,
        "labels": loaded.purpose.labels,
        "max_tokens": row_limit(stage, loaded),
        "over_length": stage.over_length or "error",
        "allow_loss": stage.allow_loss,
    }
    return _held(stage, "labelled", seed, lambda samples: labels.rows(samples, loaded.tokenizer, **how))


def _unpaired(stage: Stage, loaded: Loaded, template: Template, seed: int) -> StageRows:
    """Answers with whether they were liked, in memory: each row borrows another's answer."""
    how: dict[str, Any] = {
        "max_tokens": row_limit(stage, loaded),
        "over_length": stage.over_length or "error",
        "thinking": stage.thinking,
        "allow_loss": stage.allow_loss,
    }
    return _held(stage, "labelled", seed, lambda samples: unpaired.rows(samples, loaded.tokenizer, template, **how))


def _stepwise(stage: Stage, loaded: Loaded, template: Template, seed: int) -> StageRows:
    """Answers in steps, in memory."""
    how: dict[str, Any] = {
        "max_tokens": row_limit(stage, loaded),
        "over_length": stage.over_length or "error",
        "allow_loss": stage.allow_loss,
    }
    return _held(stage, "labelled", seed, lambda samples: steps.rows(samples, loaded.tokenizer, template, **how))


def _held(
    stage: Stage, kind: str, seed: int, make: Callable[[Sequence[Any]], tuple[Sequence[Row], Intake]]
) -> StageRows:
    """Rows held in memory, made by `make` of each source; a share is kept out before."""
    share = stage.validation.share if stage.validation else None
    found, held_samples, sources, notes = _read(stage, kind, share, seed)
    made = [make(samples) for samples in found]
    held_out = [make(samples) for samples in held_samples]
    return StageRows(
        train=_numbered([rows for rows, _ in made]),
        held_out=Chain(_numbered([rows for rows, _ in held_out])) if held_out else [],
        intakes=tuple(sources.told(i, intake) for i, (_, intake) in enumerate(made)),
        held_out_intakes=tuple(intake for _, intake in held_out),
        notes=notes,
        cleaned=tuple(sources.accounts),
        held=sources.held,
    )


def _why_in_memory(stage: Stage) -> str:
    """What needs all rows at once; nothing where they may lie on disk."""
    if any(is_remote(part.path) for part in stage.data):
        return "a remote source is read in one pass"
    if stage.clean or any(part.clean for part in stage.data):
        return "clean: rows are cleaned in one pass (`bottega data clean` beforehand keeps them on disk)"
    return ""


def shards_wanted(stage: Stage) -> tuple[bool, str]:
    """Whether the training rows lie on disk, and why."""
    local = [part.path for part in stage.data if not is_remote(part.path)]
    size = sum(file.stat().st_size for file in find(local))
    wanted = size >= SHARD_BYTES if stage.shards is None else stage.shards
    said = "shards: true" if stage.shards else f"{size / 1e6:,.0f} MB of files, from {SHARD_BYTES / 1e6:,.0f} MB on"
    return wanted, f"the rows lie on disk in shards ({said})"


def _tokenised(
    samples: Sequence[Any], stage: Stage, loaded: Loaded, template: Template, plan: prepare.Plan
) -> tuple[Sequence[Row], Intake]:
    return prepare.rows(samples, loaded.tokenizer, template, allow_loss=stage.allow_loss, **dataclasses.asdict(plan))


def _read(
    stage: Stage, kind: str, share: float | None, seed: int
) -> tuple[list[list[Any]], list[list[Any]], Sources, tuple[str, ...]]:
    """The cleaned samples of each source, the held-out ones, what cleaning did, and what to say about them."""
    held = Keys()
    sources = read_sources(stage.data, stage.clean, seed=seed, held=held)
    apart_files = read_sources(stage.validation.data if stage.validation else (), None, seed=seed, held=held)
    sources.accounts += apart_files.accounts
    if share:
        apart = hold_out(sources.found, share=share, seed=seed, passages=kind == "text")
        return apart.train, [apart.held_out], sources, apart.notes
    return sources.found, apart_files.found, sources, ()


def _numbered(sources: Sequence[Sequence[Row]]) -> list[Sequence[Row]]:
    """Rows numbered through over all sources: the number is the key of whatever is cached for a row."""
    at = 0
    numbered: list[Sequence[Row]] = []
    for rows in sources:
        if isinstance(rows, ShardRows | Blocks | Chain):
            numbered.append(rows.numbered(at))
        else:
            numbered.append([dataclasses.replace(row, index=at + i) for i, row in enumerate(rows)])
        at += len(rows)
    return numbered


def rows_key(rows: Sequence[Row], identity: str) -> str:
    """A hash over the ids and targets of rows and the identity of the model that scores them."""
    digest = hashlib.sha256(identity.encode())
    for row in rows:
        for tokens in (row.prefix, *row.branches):
            digest.update(repr((list(tokens.ids), list(tokens.trains))).encode())
    return digest.hexdigest()
