"""Beam search: the likeliest replies that a width of `beams` partial replies finds, scored as transformers scores them.

Left out: sampling within beams, groups of diverse beams, stop strings (a beam ends at a token or at max_tokens).

A finished reply of t tokens (its end token counts) scores sum of log p / t^length_penalty. Of the 2 x beams best continuations
(more with more end tokens) those among the first `beams` that end are kept as finished, the best `beams` that do not end go on
(Graves 2012, "Sequence transduction with recurrent neural networks", section 2.5; the length term of Wu et al. 2016,
"Google's neural machine translation system", equation 14, in its simple form).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch

from bottega.core.errors import UserError
from bottega.core.types import Reply
from bottega.models.decode import open_batch
from bottega.models.generate import Generator, evaluating
from bottega.models.prepack import prepacked
from bottega.models.sampling import Sampling
from bottega.models.stops import Stopper, Written

NEVER = -1e9


class Beam(NamedTuple):
    """A reply and its score: log-probability over length to the power of the length penalty."""

    reply: Reply
    score: float


class Partial(NamedTuple):
    """Tokens so far and the log-probability of each."""

    ids: tuple[int, ...] = ()
    logps: tuple[float, ...] = ()


@dataclass(kw_only=True, slots=True)
class Search:
    """The search over replies to one prompt. Each step takes the best continuations and says which rows go on."""

    number: int
    beams: int
    max_tokens: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    stop_ids: Collection[int]
    running: list[Partial] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    finished: list[tuple[float, Partial]] = field(default_factory=list)
    hopeful: bool = True

    def __post_init__(self) -> None:
        self.running = [Partial()] * self.beams
        self.scores = [0.0] + [NEVER] * (self.beams - 1)  # the beams are equal at first: only one of them may branch

    def step(self, found: Sequence[tuple[float, int, int]], logps: Sequence[float]) -> list[tuple[int, int]]:
        """Take continuations (score, beam, token), best first, and the log-probability of each token.

        Returns:
            (beam, token) of every row that goes on; empty once the search is over.
        """
        length = len(self.running[0].ids) + 1
        grown = [
            Partial((*self.running[beam].ids, token), (*self.running[beam].logps, logp))
            for (_, beam, token), logp in zip(found, logps)
        ]
        ends = [token in self.stop_ids or length == self.max_tokens for _, _, token in found]
        full = len(self.finished) == self.beams
        if self.hopeful and not (full and self.early_stopping is True):
            for at in range(self.beams):
                if ends[at] and found[at][0] > NEVER / 2:
                    self.finished.append((found[at][0] / length**self.length_penalty, grown[at]))
            self.finished = sorted(self.finished, key=lambda one: -one[0])[: self.beams]
        on = [at for at, end in enumerate(ends) if not end][: self.beams]
        if not on:
            return []
        self.running, self.scores = [grown[at] for at in on], [found[at][0] for at in on]
        full = len(self.finished) == self.beams
        farthest = self.max_tokens if self.early_stopping == "never" and self.length_penalty > 0 else length
        reach = self.scores[0] / farthest**self.length_penalty
        self.hopeful = self.hopeful and reach > (self.finished[-1][0] if full else NEVER)
        if not self.hopeful or (full and self.early_stopping is True):
            return []
        return [found[at][1:] for at in on]


def beam_search(
    generator: Generator,
    prompts: Sequence[Sequence[int]],
    *,
    beams: int = 4,
    n: int = 1,
    max_tokens: int = 128,
    length_penalty: float = 1.0,
    early_stopping: bool | Literal["never"] = False,
    stop_ids: Sequence[int] | None = None,
    batch: int = 64,
    special: bool = False,
) -> list[list[Beam]]:
    """The `n` best replies to each prompt, best first.

    Args:
        beams: partial replies kept (>= 1). length_penalty: above 0 favours long replies, 0 compares plain sums.
        early_stopping: True ends at `beams` finished replies; False when the best partial one, at its present length, no
            longer beats the worst finished; "never" assumes its length could still grow to max_tokens.
        batch: rows decoded together, `beams` to each prompt.

    Raises:
        UserError: an option out of range, or a prompt that does not fit the model.
    """
    if beams < 1 or not 1 <= n <= beams:
        raise UserError(f"n is {n} and beams {beams}, but n must be from 1 to beams: change one of them")
    if early_stopping not in (True, False, "never"):
        raise UserError(f"early_stopping is {early_stopping!r}, but must be true, false or 'never': change it")
    settings = Sampling(max_tokens=max_tokens, stop_ids=stop_ids, batch=max(1, batch // beams), special=special)
    generator.check(prompts, settings)
    stopper = generator.stopper(settings)
    best: dict[int, list[Beam]] = {}
    how: dict[str, Any] = {"length_penalty": length_penalty, "early_stopping": early_stopping}
    with evaluating(generator.model):
        for numbers in generator.batches(prompts, settings):
            searches = [
                Search(number=one, beams=beams, max_tokens=max_tokens, stop_ids=stopper.stop_ids, **how)
                for one in numbers
            ]
            with prepacked(generator.model, len(numbers) * beams):
                _run(generator, [prompts[one] for one in numbers], searches)
            for search in searches:
                best[search.number] = _replies(search, stopper, len(prompts[search.number]))[:n]
    return [best[number] for number in range(len(prompts))]


def _run(generator: Generator, prompts: Sequence[Sequence[int]], searches: list[Search]) -> None:
    """Step all searches to their ends; rows of those that are over are dropped."""
    beams, device = searches[0].beams, generator.forward.device
    rows = [prompt for prompt in prompts for _ in range(beams)]  # equal ones are computed once
    batch = open_batch(generator.forward, rows, searches[0].max_tokens, way=generator.chosen_way())
    num_kept = max(2, 1 + len(searches[0].stop_ids)) * beams
    while searches:
        logps_BV = torch.log_softmax(batch.logits().float(), -1)
        num_tokens = logps_BV.shape[-1]
        scores_BV = logps_BV + torch.tensor([s for one in searches for s in one.scores], device=device)[:, None]
        flat = scores_BV.view(len(searches), -1).topk(min(num_kept, beams * num_tokens), -1)
        own = logps_BV.view(len(searches), -1).gather(1, flat.indices).tolist()
        values, places = flat.values.tolist(), flat.indices.tolist()
        keep, fed, going = [], [], []
        for at, search in enumerate(searches):
            found = [(value, *divmod(place, num_tokens)) for value, place in zip(values[at], places[at])]
            if on := search.step(found, own[at]):
                going.append(search)
                keep += [at * beams + beam for beam, _ in on]
                fed += [token for _, token in on]
        searches = going
        if searches:
            if keep != list(range(len(logps_BV))):
                batch.keep(torch.tensor(keep, device=device))
            batch.feed(torch.tensor(fed, device=device))


def _replies(search: Search, stopper: Stopper, num_prompt: int) -> list[Beam]:
    """What a search found, best first."""
    found = []
    for score, partial in search.finished:
        ended = partial.ids[-1] in stopper.stop_ids
        row = Written(search.number, num_prompt, list(partial.ids), list(partial.logps))
        row.finish = "stop" if ended else "length"
        found.append(Beam(stopper.reply(row), score))
    return found
