"""One global batch to one gradient: rows cut into micro-batches, laid down, scored, turned into terms, summed.

Left out: what is done with the gradient (loop.py) and losses that join the whole batch (coupled.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch

from bottega.core.errors import UserError
from bottega.core.types import Row, Targets, Tokens
from bottega.data.pack import micro_batches
from bottega.models.layout import Layout, lay
from bottega.train import checkpoint, parallel
from bottega.train.coupled import coupled_backward
from bottega.train.guards import heaviest, memory_errors
from bottega.train.parts import Parts
from bottega.train.settings import LoopSettings

LOOK_AHEAD = 10_000
"""Steps among which the heaviest is looked for."""
PRELUDE_SHARE = 0.02
"""Of the run's tokens, what trying the heaviest micro-batch first may cost."""


@contextlib.contextmanager
def memory() -> Iterator[None]:
    """Turns running out of memory into one clear sentence."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        clear = memory_errors(error)
        if clear is None:
            raise
        raise clear from error


def lay_down(parts: Parts, rows: Sequence[Row]) -> tuple[Layout, Targets]:
    """The layout of one micro-batch and its targets."""
    return lay(rows, packed=parts.packed, pad_id=parts.pad_id, num_prefix=parts.num_prefix)


def plan(parts: Parts, rows: Sequence[Row], *, micro_tokens: int) -> list[list[Row]]:
    """This rank's rows in micro-batches; every rank has equally many, an empty one where rows run out."""
    world = parts.world
    mine = rows[world.rank :: world.size]
    sizes = [
        row.num_tokens
        if parts.packed
        else len(row.branches) * max(len(row.prefix.ids) + len(b.ids) for b in row.branches)
        for row in mine
    ]
    cut = micro_batches(sizes, max_tokens=micro_tokens, packed=parts.packed)
    wanted = parallel.most(world, len(cut))
    if len(cut) < wanted and len(mine) >= wanted:
        cut = micro_batches(sizes, max_tokens=micro_tokens, packed=parts.packed, at_least=wanted)
    batches = [[mine[i] for i in members] for members in cut]
    return batches + [[] for _ in range(wanted - len(batches))]


def backward(
    parts: Parts, rows: Sequence[Row], *, micro_tokens: int, step: int, heard: dict[int, float] | None = None
) -> tuple[dict[str, float], dict[str, float]]:
    """Gradient of the global batch into .grad; the sums of its metrics and the counts of its units.

    Args:
        step: the step's number, for messages. heard: is given the loss of every row, by index, for a source that listens.

    Raises:
        UserError: the batch has no token to learn.
    """
    world = parts.world
    batches = plan(parts, rows, micro_tokens=micro_tokens)
    if parts.spec.coupled:
        laid = [lay_down(parts, batch) for batch in batches if batch]
        return coupled_backward(parts.wrapped, parts.spec, laid, world)
    laid = [lay_down(parts, batch or [_nothing(rows[0])]) for batch in batches]
    local = {"tokens": 0.0, "rows": 0.0, "seen": 0.0}
    for batch, (_, targets) in zip(batches, laid, strict=True):
        local["tokens"] += float(targets.weights_S.sum()) if batch else 0.0
        local["rows"] += len(batch)
        local["seen"] += sum(row.num_tokens for row in batch)
    counts = parallel.total(world, local)
    counts |= {"pairs": counts["rows"], "one": 1.0}
    if counts["tokens"] == 0:
        raise UserError(f"step {step}: none of the {len(rows)} rows has a token to learn")
    sums: dict[str, float] = {}
    mine: dict[str, float] = dict.fromkeys((str(row.index) for row in rows), 0.0)
    scale = parts.loss_scale.value if parts.loss_scale is not None else 1.0
    for number, (layout, targets) in enumerate(laid):
        last = number == len(laid) - 1
        told: list[float] | None = None if heard is None else []
        with parallel.synced(parts.wrapped, last), parts.optimizer.stepping(last):
            loss = micro_loss(parts, layout, targets, counts, sums if batches[number] else {}, told)
            (loss * (world.size * scale)).backward()
        mine.update((str(row.index), value) for row, value in zip(batches[number], told or ()))
    if heard is not None:
        heard.update((int(index), value) for index, value in parallel.total(world, mine).items())
    return parallel.total(world, sums), counts


def micro_loss(
    parts: Parts,
    layout: Layout,
    targets: Targets,
    counts: Mapping[str, float],
    sums: dict[str, float] | None = None,
    told: list[float] | None = None,
) -> torch.Tensor:
    """One micro-batch's loss: sum over terms of weight * total / count[unit]; metrics are added to `sums`.

    With `told`, log-probabilities are computed token by token, and the mean loss of each row is appended to it.
    """
    needs = parts.spec.needs
    own = [need for need in needs if not need.startswith("ref.")]
    if told is None:
        scores = parts.wrapped(layout, targets, own)
    else:
        scores = parts.wrapped(layout, targets, ["logp"])
        losses_S = -targets.weights_S * scores["logp"]
        scores["nll"] = losses_S.sum()
        assert set(own) <= set(scores), "a source listens to objectives of one log-likelihood a token"
        told += _by_row(losses_S.detach(), targets)
    for need in needs:
        if need.startswith("ref."):
            plain = need.removeprefix("ref.")
            scores[need] = (
                targets.tokens[need]
                if need in targets.tokens
                else parts.wrapped(layout, targets, (plain,), "reference")[plain]
            )
    terms, metrics = parts.spec.objective(scores, targets)
    if sums is not None:
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return sum(term.weight * term.total / counts[term.unit] for term in terms.values())  # type: ignore[return-value]


def _by_row(losses_S: torch.Tensor, targets: Targets) -> list[float]:
    """The weighted mean loss of each row of a micro-batch."""
    row_S = targets.row_Q[targets.sequence_S]
    count = int(targets.row_Q.max()) + 1
    empty = torch.zeros(count, dtype=torch.float64, device=losses_S.device)
    total = empty.index_add(0, row_S, losses_S.double())
    weight = empty.index_add(0, row_S, targets.weights_S.double())
    return (total / weight.clamp_min(1e-12)).tolist()


def try_heaviest(parts: Parts, settings: LoopSettings) -> None:
    """The heaviest micro-batch that will come is tried before the first step; everything it touched is put back.

    It is left out where it would cost over a fiftieth of the run: that run meets it soon by itself.
    """
    if parts.spec.coupled:
        return
    rows, tokens = heaviest(parts.source.ahead(min(settings.steps, LOOK_AHEAD)))
    batches = plan(parts, rows, micro_tokens=settings.micro_tokens)
    batch = max(batches, key=lambda members: sum(row.num_tokens for row in members), default=[])
    if not batch or sum(row.num_tokens for row in batch) > PRELUDE_SHARE * tokens:
        return
    before = checkpoint.random_state()
    with memory():
        layout, targets = lay_down(parts, batch)
        micro_loss(parts, layout, targets, {unit: 1.0 for unit in parts.spec.units}).backward()
    parts.optimizer.zero_grad(set_to_none=True)
    checkpoint.set_random_state(before)


def _nothing(row: Row) -> Row:
    """`row` with nothing to learn: keeps ranks in step where a rank has no rows left."""

    def mute(tokens: Tokens) -> Tokens:
        return Tokens(tokens.ids, [0.0] * len(tokens.ids))

    return Row(
        index=-1,
        prefix=mute(row.prefix),
        branches=tuple(mute(b) for b in row.branches),
        extras=row.extras,
        tokens={name: () for name in row.tokens},
    )
