"""One global batch to one gradient: rows cut into micro-batches, laid down, scored, turned into terms, summed.

Left out: what is done with the gradient (loop.py) and losses that join the whole batch (coupled.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from bottega.core import devices
from bottega.core.errors import DoesNotFit, UserError
from bottega.core.types import Row, Targets
from bottega.data.pack import micro_batches
from bottega.models.layout import Layout
from bottega.train import parallel
from bottega.train.coupled import coupled_backward
from bottega.train.guards import out_of_memory, too_small
from bottega.train.parts import Fit, Parts

EVERYTHING = 1 << 60
"""Of a rank on which all fitted: the limit it would try."""


class Stopped(Exception):
    """Somebody asked to stop in the middle of a batch. Never seen outside the loop, which takes the batch back."""


class TooLarge(Exception):
    """A micro-batch did not fit in memory. smaller: the limit to try with (0: it was a row alone); cause: the sentence behind it.

    Never seen outside the loop (fit.py turns it into another try, or into DoesNotFit).
    """

    def __init__(self, smaller: int, cause: str) -> None:
        super().__init__(cause)
        self.smaller, self.cause = smaller, cause


def lay_down(parts: Parts, rows: Sequence[Row]) -> tuple[Layout, Targets]:
    """The layout of one micro-batch and its targets, where the model lies."""
    return parts.lay(rows)


def size_of(parts: Parts, rows: Sequence[Row]) -> int:
    """Tokens of `rows` as one micro-batch, padding counted."""
    if parts.packed:
        return sum(row.num_tokens for row in rows)
    lengths = [len(row.prefix.ids) + len(branch.ids) for row in rows for branch in row.branches]
    return len(lengths) * max(lengths, default=0)


def plan(parts: Parts, rows: Sequence[Row], *, micro_tokens: int) -> list[list[Row]]:
    """This rank's rows in micro-batches; every rank has equally many, empty ones where its rows run out."""
    world = parts.world
    mine = parallel.mine(world, rows)
    sizes = [size_of(parts, [row]) for row in mine]
    cut = micro_batches(sizes, max_tokens=micro_tokens, packed=parts.packed)
    wanted = parallel.most(world, len(cut))
    if len(cut) < wanted and len(mine) >= wanted:
        cut = micro_batches(sizes, max_tokens=micro_tokens, packed=parts.packed, at_least=wanted)
    batches = [[mine[i] for i in members] for members in cut]
    return batches + [[] for _ in range(wanted - len(batches))]


def backward(
    parts: Parts, rows: Sequence[Row], fit: Fit, *, step: int, heard: dict[int, float] | None = None
) -> tuple[dict[str, float], dict[str, float]]:
    """Gradient of the global batch into .grad; the sums of its metrics and the counts of its units.

    Args:
        fit: the limit of a micro-batch; hears how large the ones were that went through. step: its number, for messages.
        heard: is given the loss of every row, by index, for a source that listens.

    Raises:
        UserError: the batch has no token to learn. TooLarge: a micro-batch does not fit, on this rank or another.
    """
    world = parts.world
    batches = plan(parts, rows, micro_tokens=fit.tokens)
    largest = parallel.most(world, max(size_of(parts, batch) for batch in batches))
    if fit.most and largest > fit.most:
        raise TooLarge(0, f"a row of {largest} tokens, where memory is left for {fit.most}")
    if parts.spec.coupled:
        laid = [lay_down(parts, batch) for batch in batches if batch]
        if len(rows) < world.size:
            raise UserError(f"step {step}: {len(rows)} rows are too few for {world.size} processes: set batch higher")
        try:
            return coupled_backward(parts.wrapped, parts.spec, laid, world)
        except (MemoryError, RuntimeError) as error:
            raise _too_large(parts, error, max(batches, key=lambda batch: size_of(parts, batch))) from None
    least = min(rows, key=lambda row: row.num_tokens)
    laid = [lay_down(parts, batch or [least]) for batch in batches]
    counts = _count(parts, batches, laid)
    if counts["tokens"] == 0 and "tokens" in parts.spec.units:
        raise UserError(f"step {step}: none of the {len(rows)} rows has a token to learn")
    sums: dict[str, float] = {}
    mine: dict[str, float] | None = None if heard is None else dict.fromkeys((str(row.index) for row in rows), 0.0)
    # A size that has not gone through yet may fail on one rank alone, so that nothing waits for others before all have agreed.
    guarded = parallel.is_replica(parts.wrapped) and largest > fit.proven
    failed = _each(parts, batches, laid, counts, sums, mine, guarded=guarded)
    if guarded:
        smaller = -parallel.most(world, -(EVERYTHING if failed is None else failed.smaller))
        if smaller < EVERYTHING:
            failed = TooLarge(smaller, "a micro-batch of another rank" if failed is None else failed.cause)
    if failed is not None:
        raise failed
    if guarded:
        parallel.average_gradients(world, parts.scorer.parameters())
    fit.proven = max(fit.proven, largest)
    if heard is not None and mine is not None:
        heard.update((int(index), value) for index, value in parallel.total(world, mine).items())
    return parallel.total(world, sums), counts


def penalise(parts: Parts) -> dict[str, float]:
    """A method's penalty, once a step: its gradient joins those of the batch, its value the metrics. Equal on all ranks."""
    if parts.attached.penalty is None:
        return {}
    value = parts.attached.penalty()
    learning = [p for group in parts.attached.groups for p in group["params"] if p.requires_grad]
    scale = 1.0 if parts.loss_scale is None else parts.loss_scale.value
    for p, gradient in zip(learning, torch.autograd.grad(value * scale, learning, allow_unused=True), strict=True):
        if gradient is not None:
            p.grad = gradient.to(p.dtype) if p.grad is None else p.grad + gradient.to(p.dtype)
    return {"penalty": float(value.detach())}


def _each(
    parts: Parts,
    batches: Sequence[Sequence[Row]],
    laid: Sequence[tuple[Layout, Targets]],
    counts: Mapping[str, float],
    sums: dict[str, float],
    mine: dict[str, float] | None,
    *,
    guarded: bool,
) -> TooLarge | None:
    """Forward and backward of one micro-batch after the other; what to try instead where one does not fit.

    Args:
        mine: is given the loss of every row of this rank. guarded: gradients are not summed over ranks here.
    """
    scale = parts.world.size * (parts.loss_scale.value if parts.loss_scale is not None else 1.0)
    for number, (layout, targets) in enumerate(laid):
        if number and parts.world.size == 1 and parts.stopping():
            raise Stopped
        last = number == len(laid) - 1
        told: list[float] | None = None if mine is None else []
        try:
            with parallel.synced(parts.wrapped, last and not guarded), parts.optimizer.stepping(last):
                found: dict[str, float] = {}
                loss = micro_loss(parts, layout, targets, counts, found, told)
                share = 1.0 if batches[number] else 0.0  # where its rows ran out a rank goes along, and counts nothing
                (loss * (share * scale)).backward()
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + share * value
        except (MemoryError, RuntimeError) as error:
            return _too_large(parts, error, batches[number], last=last, agreed=guarded)
        if mine is not None:
            mine.update((str(row.index), value) for row, value in zip(batches[number], told or ()))
    return None


def _count(parts: Parts, batches: Sequence[Sequence[Row]], laid: Sequence[tuple[Layout, Targets]]) -> dict[str, float]:
    """How much of every unit the global batch holds, and tokens seen."""
    local = {"tokens": 0.0, "rows": 0.0, "seen": 0.0}
    for batch, (_, targets) in zip(batches, laid, strict=True):
        local["tokens"] += float(targets.weights_S.sum()) if batch else 0.0
        local["rows"] += len(batch)
        local["seen"] += sum(row.num_tokens for row in batch)
    counts = parallel.total(parts.world, local)
    return counts | {"pairs": counts["rows"], "one": 1.0}


def _too_large(
    parts: Parts, error: BaseException, batch: Sequence[Row], *, last: bool = True, agreed: bool = False
) -> TooLarge:
    """What to try after `error`; any error but one of memory is raised again.

    Raises:
        DoesNotFit: it cannot be tried again, for other ranks wait in a sum of gradients, or some weights have stepped.
    """
    cause = out_of_memory(error)
    if cause is None:
        raise error
    if parts.world.size > 1 and not agreed:
        raise DoesNotFit(too_small(f"{cause}, on rank {parts.world.rank}, while others waited for it"))
    if parts.optimizer.in_backward and last:
        raise DoesNotFit(too_small(f"{cause}, while step_in_backward had moved the layers after it already"))
    return TooLarge(size_of(parts, batch) // 2 if len(batch) > 1 else 0, cause)


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


def try_rows(parts: Parts, rows: Sequence[Row]) -> bool:
    """Whether `rows` as one micro-batch go through forward and backward; gradients and random state are put back."""
    before = devices.random_state()
    fits = True
    try:
        layout, targets = lay_down(parts, rows)
        with parallel.synced(parts.wrapped, False):
            micro_loss(parts, layout, targets, {unit: 1.0 for unit in parts.spec.units}).backward()
    except (MemoryError, RuntimeError) as error:
        if out_of_memory(error) is None:
            raise
        fits = False
    parts.optimizer.zero_grad(set_to_none=True)
    devices.set_random_state(before)
    return fits
