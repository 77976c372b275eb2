"""Micro-batches that fit: a limit chosen at the start, and halved where one does not fit all the same.

Left out: what a token costs (budget.py) and the gradient itself (step.py). The gradient does not change with the limit, for every term
is divided by a count over the whole global batch; with dropout, a batch that is tried again draws other masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from bottega.core import devices
from bottega.core.errors import DoesNotFit
from bottega.core.types import Row
from bottega.train import budget, parallel
from bottega.train.guards import heaviest, too_small
from bottega.train.parts import Fit, Parts
from bottega.train.settings import LoopSettings, most_tokens
from bottega.train.step import TooLarge, backward, plan, size_of, try_rows

LOOK_AHEAD = 10_000
"""Steps among which the heaviest is looked for."""
PRELUDE_SHARE = 0.02
"""Of the run's tokens, what trying the heaviest micro-batch first may cost."""
LEAST = 64
"""Tokens at which `auto` begins."""
PLENTY = 0.25
"""Of the memory that is free, what a run may take at a first rough estimate without being counted exactly."""


def begin(parts: Parts, settings: LoopSettings, note: Callable[[str], None]) -> Fit:
    """What fits, before the first step: the limit is chosen, and the heaviest micro-batch that will come is tried.

    Raises:
        DoesNotFit: a single row does not.
    """
    rows, tokens = heaviest(parts.source.ahead(min(settings.steps, LOOK_AHEAD)))
    fit = choose(parts, settings, rows, note)
    if not parts.spec.coupled:
        _try_heaviest(parts, rows, tokens, fit, note)
    return fit


def choose(parts: Parts, settings: LoopSettings, rows: Sequence[Row], note: Callable[[str], None]) -> Fit:
    """The limit of a micro-batch, on all ranks the same; `rows` are the heaviest step's.

    `micro_tokens: auto` takes the largest power of two that fits: on a GPU by trying, on a CPU by counting against `memory_gb`
    (default: what is free). A number is taken as it is, but never above what fits.
    """
    auto = settings.micro_tokens == "auto"
    wanted = most_tokens(settings.micro_tokens, parts.device)
    if not rows or parts.spec.coupled:
        if auto:
            note(f"micro_tokens: auto needs rows that are known ahead; {wanted} is taken")
        return Fit(tokens=wanted)
    share = -(-size_of(parts, rows) // parts.world.size)
    if parts.device != "cpu":
        tokens = -parallel.most(parts.world, -by_trial(parts, rows, most=share)) if auto else wanted
        return _said(Fit(tokens=tokens), auto, note)
    left = settings.memory_gb * 1e9 - devices.resident_bytes() if settings.memory_gb else devices.free_memory_bytes()
    left = -parallel.most(parts.world, -int(left))  # ranks must not decide differently
    enough = share if auto else min(wanted, share)
    if not settings.memory_gb and rough_bytes(parts, enough) < PLENTY * left:
        return _said(Fit(tokens=_power(share) if auto else wanted), auto, note)
    most = max(1, -parallel.most(parts.world, -budget.tokens_that_fit(parts, rows, left)))
    fit = Fit(tokens=min(_power(share), _power(most + 1) // 2) if auto else min(wanted, most), most=most)
    if not auto and fit.tokens < wanted:
        note(
            f"micro_tokens {wanted} would need more memory than there is: {fit.tokens} are taken, the gradient is the same"
        )
    return _said(fit, auto, note)


def _said(fit: Fit, auto: bool, note: Callable[[str], None]) -> Fit:
    if auto:
        note(f"micro_tokens: auto takes {fit.tokens}")
    return fit


def _power(tokens: int) -> int:
    """The smallest power of two that is not below `tokens`."""
    return 1 << max(0, tokens - 1).bit_length()


def rough_bytes(parts: Parts, tokens: int) -> float:
    """A generous guess of a training pass: every weight matrix keeps what goes in and what comes out, four times over."""
    wide = sum(sum(p.shape[-2:]) for p in parts.scorer.parameters() if p.dim() >= 2)
    learn = sum(p.numel() for p in parts.scorer.parameters() if p.requires_grad)
    return 4.0 * 4 * wide * tokens + 16 * learn


def by_trial(parts: Parts, rows: Sequence[Row], *, most: int) -> int:
    """The largest power of two of tokens, at most the next above `most`, for which copies of the heaviest row of `rows` go
    through forward and backward; the states that the optimizer will need lie there meanwhile."""
    learn = [p for p in parts.scorer.parameters() if p.requires_grad]
    row = max(rows, key=lambda one: size_of(parts, [one]))
    states = [] if parts.optimizer.state else [p.new_empty(2 * p.numel(), dtype=torch.float32) for p in learn]
    alone, tokens, good = size_of(parts, [row]), LEAST, 0
    while good < most:
        if not try_rows(parts, [row] * max(1, tokens // alone)):
            break
        good, tokens = tokens, 2 * tokens
    del states
    return good or LEAST


def _try_heaviest(parts: Parts, rows: Sequence[Row], tokens: int, fit: Fit, note: Callable[[str], None]) -> None:
    """The heaviest micro-batch of `rows` is tried, and everything it touched is put back.

    It is left out where it would cost over a fiftieth of the run's `tokens`: that run meets it soon by itself.
    """
    while True:
        batches = plan(parts, rows, micro_tokens=fit.tokens)
        batch = max(batches, key=lambda members: sum(row.num_tokens for row in members), default=[])
        heavy = parallel.most(parts.world, sum(row.num_tokens for row in batch))
        if heavy == 0 or heavy > PRELUDE_SHARE * tokens:
            return
        fits = try_rows(parts, batch or rows[:1])
        largest = parallel.most(parts.world, 0 if fits else size_of(parts, batch))
        if largest == 0:
            return
        if parallel.most(parts.world, 0 if fits or len(batch) > 1 else 1):
            raise DoesNotFit(too_small(f"a row of {largest} tokens, tried before the first step"))
        fit.tokens = max(1, largest // 2)
        note(f"the heaviest micro-batch does not fit in memory: micro_tokens is {fit.tokens} from the start")


def gradient(
    parts: Parts,
    rows: Sequence[Row],
    fit: Fit,
    *,
    step: int,
    note: Callable[[str], None],
    heard: dict[int, float] | None = None,
) -> tuple[dict[str, float], dict[str, float]]:
    """`step.backward`, tried again with smaller micro-batches until they fit; `fit` remembers what did.

    Raises:
        DoesNotFit: a single row does not.
    """
    before = devices.random_state()
    while True:
        try:
            return backward(parts, rows, fit, step=step, heard=heard)
        except TooLarge as error:
            smaller, cause = error.smaller, error.cause
        parts.optimizer.zero_grad(set_to_none=True)
        devices.set_random_state(before)
        devices.empty_cache(parts.device)
        if smaller == 0:
            raise DoesNotFit(too_small(cause))
        fit.tokens = smaller
        note(f"step {step}: a micro-batch did not fit in memory; it is tried again with micro_tokens {smaller}")
