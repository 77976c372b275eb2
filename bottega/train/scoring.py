"""Scores of rows without gradient: reference log-probabilities cached once, rollouts scored, validation losses.

Left out: the training step (loop.py).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from bottega.core.refusals import disk_errors
from bottega.core.rundir import put
from bottega.core.types import Row
from bottega.data.pack import micro_batches
from bottega.models.layout import IN_PLACE
from bottega.train import parallel
from bottega.train.metrics import averages

if TYPE_CHECKING:
    from bottega.train.parts import Parts


def _batches(parts: Parts, rows: Sequence[Row], micro_tokens: int) -> list[list[int]]:
    sizes = [
        row.num_tokens
        if parts.packed
        else len(row.branches) * max(len(row.prefix.ids) + len(b.ids) for b in row.branches)
        for row in rows
    ]
    return micro_batches(sizes, max_tokens=micro_tokens, packed=parts.packed)


def num_supervised(row: Row) -> int:
    """How many tokens of `row` are targets: a sequence's very first token has no predecessor and is none."""
    if IN_PLACE in row.tokens:
        return sum(int(np.count_nonzero(branch.trains)) for branch in row.branches)
    count = sum(1 for weight in list(row.prefix.trains)[1:] if weight)
    for branch in row.branches:
        own = list(branch.trains)
        count += sum(1 for weight in (own if len(row.prefix.ids) else own[1:]) if weight)
    return count


def score_rows(
    parts: Parts, rows: Sequence[Row], needs: Sequence[str], *, view: str = "policy", micro_tokens: int = 8192
) -> list[dict[str, Any]]:
    """Per row, float32 arrays of `needs` over its supervised tokens, in evaluation mode and without gradient."""
    ends = np.cumsum([num_supervised(row) for row in rows], dtype=np.int64)
    flat = {need: torch.zeros(int(ends[-1]) if len(ends) else 0) for need in needs}
    was_training = parts.scorer.training
    parts.scorer.eval()
    try:
        with torch.no_grad():
            for members, counts in _shared(parts, _batches(parts, rows, micro_tokens)):
                chosen = [rows[i] for i in members]
                layout, targets = parts.lay(chosen)
                scores = parts.scorer(layout, targets, tuple(needs), view)
                lengths = [num_supervised(row) for row in chosen]
                for need in needs if counts else ():
                    for i, values in zip(members, scores[need].float().cpu().split(lengths), strict=True):
                        flat[need][int(ends[i]) - len(values) : int(ends[i])] = values
    finally:
        parts.scorer.train(was_training)
    whole = {need: np.split(parallel.together(parts.world, flat[need]).numpy(), ends[:-1]) for need in needs}
    return [{need: whole[need][i] for need in needs} for i in range(len(rows))]


def _shared(parts: Parts, plan: list[list[int]]) -> list[tuple[list[int], bool]]:
    """This rank's batches of `plan`, equally many on every rank: (rows, do they count); a sharded model is run by all at once."""
    own = [(members, True) for members in parallel.mine(parts.world, plan)]
    return own + [(plan[0], False)] * (-(-len(plan) // parts.world.size) - len(own))


def with_reference(
    parts: Parts, rows: Sequence[Row], *, micro_tokens: int, cache: Path | None, key: str, note: Callable[[str], None]
) -> list[Row]:
    """`rows` with the log-probabilities of the model as it is now (the stage's start), computed once and kept in `cache`.

    Args:
        key: names the rows and the model; a cache written for another key is not used.
    """
    lengths = [num_supervised(row) for row in rows]
    flat = _cached(cache, key, sum(lengths))
    if parallel.most(parts.world, int(flat is None)):  # if one has to score, all do
        scores = score_rows(parts, rows, ("logp",), micro_tokens=micro_tokens)
        flat = np.concatenate([s["logp"] for s in scores]).astype(np.float32)
        note(f"reference log-probabilities of {len(rows)} rows computed once and kept")
        if cache is not None and parts.world.rank == 0:
            cache.parent.mkdir(parents=True, exist_ok=True)
            draft = cache.with_name(f".{cache.name}.draft")
            with disk_errors(cache):
                save_file({"ref.logp": flat}, draft, metadata={"key": _marked(key, flat)})
                put(draft, cache)
    assert flat is not None
    parts_of = np.split(flat, np.cumsum(lengths)[:-1])
    return [replace(row, tokens={**row.tokens, "ref.logp": own}) for row, own in zip(rows, parts_of, strict=True)]


def _cached(cache: Path | None, key: str, length: int) -> np.ndarray | None:
    """The cache's numbers; None where it is another's, or not as it was written (then it is made again)."""
    if cache is None or not cache.exists():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(cache, "np") as file:
            known = file.metadata() or {}
        if known.get("key", "").partition(" ")[0] != key:
            return None
        flat = load_file(cache)["ref.logp"]
    except SafetensorError:
        return None
    return flat if len(flat) == length and known["key"] == _marked(key, flat) else None


def _marked(key: str, flat: np.ndarray) -> str:
    """One entry, for safetensors writes several in an order that changes from process to process."""
    return f"{key} {hashlib.sha256(flat.tobytes()).hexdigest()}"


def _ask(
    parts: Parts, micro_tokens: int, rows: Sequence[Row], needs: Sequence[str], view: str = "policy"
) -> list[dict[str, Any]]:
    """`score_rows` as a spec's `prepare` asks for it."""
    return score_rows(parts, rows, needs, view=view, micro_tokens=micro_tokens)


def validation(parts: Parts, rows: Sequence[Row], *, micro_tokens: int) -> Callable[[int], Mapping[str, float]]:
    """A function step -> the objective's own metrics on held-out rows (`loss`, `accuracy` ...), the same on every rank."""
    held_out, prepare = rows, parts.spec.prepare

    def validate(_: int) -> Mapping[str, float]:
        sums: dict[str, float] = {}
        rows = held_out
        if prepare is not None:
            rows = prepare(rows, functools.partial(_ask, parts, micro_tokens))
        plan = _batches(parts, rows, micro_tokens)
        counts = {"tokens": 0.0, "rows": float(len(rows)), "pairs": float(len(rows)), "one": 1.0}
        for members, counts_too in _shared(parts, plan):
            layout, targets = parts.lay([rows[i] for i in members])
            own = [need for need in parts.spec.needs if not need.startswith("ref.")]
            scores = parts.scorer(layout, targets, own)
            scores |= {need: targets.tokens[need] for need in parts.spec.needs if need.startswith("ref.")}
            metrics = parts.spec.objective(scores, targets)[1]
            share = 1.0 if counts_too else 0.0
            counts["tokens"] += share * float(targets.weights_S.sum())
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + share * float(value)
        counts["tokens"] = parallel.total(parts.world, {"tokens": counts["tokens"]})["tokens"]
        return averages(parallel.total(parts.world, sums), counts)

    return validate
