"""Speculative decoding: a cheap proposer writes a few tokens ahead, the model checks them in one forward pass.

Left out: batches (prompts are answered one after the other: it is for few rows, where a pass over 5 tokens costs little more
than one over 1), trees of proposals.

A token x proposed from q is kept with probability min(1, p(x) / q(x)); the first that is not is drawn anew from
max(0, p - q), normalised; if all are kept, one more is drawn from p. What is written is then distributed as p (Leviathan et al. 2023,
"Fast inference from transformers via speculative decoding", section 2.3 and appendix A.1). At temperature 0, p and q are single tokens.

Shapes: T positions, K tokens ahead, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bottega.core.errors import UserError
from bottega.core.types import Reply
from bottega.models.decode import Forward, Way
from bottega.models.generate import Generator, evaluating
from bottega.models.kv import StaticKV, causal_slots, windows_of
from bottega.models.sampling import Sampling, candidates, penalise, uniforms
from bottega.models.stops import Stopper, Written

LONGEST, SHORTEST = 3, 1
"""Tokens at the end of the text that prompt lookup looks for further up, the longest match first."""


class Proposer(Protocol):
    """Writes tokens ahead."""

    def begin(self, prompt: Sequence[int], settings: Sampling) -> None:
        """A new prompt."""

    def propose(self, ids: Sequence[int], num_ahead: int, draws: Draws) -> tuple[list[int], Tensor | None]:
        """At most `num_ahead` tokens after `ids` and the distributions (K, V) that they were drawn from; None: each was
        certain."""


@dataclass(kw_only=True, slots=True)
class Stats:
    """What speculation came to: tokens proposed, of them accepted, forward passes of the model, tokens written, seconds."""

    proposed: int = 0
    accepted: int = 0
    passes: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def acceptance(self) -> float:
        """Share of the proposed tokens that were kept."""
        return self.accepted / self.proposed if self.proposed else 0.0

    @property
    def tokens_per_pass(self) -> float:
        """Tokens a forward pass of the model; 1 without speculation."""
        return self.tokens / self.passes if self.passes else 0.0


class Draws:
    """Numbers in [0, 1) for one reply: they depend on the seed and the prompt's number alone."""

    def __init__(self, settings: Sampling, number: int) -> None:
        long = Sampling(max_tokens=64, seed=settings.seed, n=settings.n)
        self._generator = torch.Generator().manual_seed(
            int(uniforms(long, number).view("uint32")[:2].view("uint64")[0] >> 1)
        )

    def __call__(self) -> float:
        return float(torch.rand((), generator=self._generator))


class Tail:
    """One row of a model with its cache: tokens in, logits of the last ones out; tokens may be taken back."""

    def __init__(self, forward: Forward, way: Way, num_slots: int) -> None:
        self.forward, self.way = forward, way
        self.ids: list[int] = []
        self.windows = (windows_of(forward.config) if way == "masks" else None) or {"all": None}
        self.cache = StaticKV(forward.num_prefix + num_slots, forward.served())

    def logits(self, ids: Sequence[int], num_last: int) -> Tensor:
        """Logits (num_last, V) at the last positions of the text `ids`; what it shares with the text before is kept."""
        if self.way == "plain":
            return self.forward.tail(self._tensor(ids), num_last, use_cache=False)[0]
        limit = min(len(self.ids), len(ids) - num_last)
        shared = next((at for at in range(limit) if self.ids[at] != ids[at]), limit)
        self.ids = list(ids)
        num_prefix, new = self.forward.num_prefix, ids[shared:]
        self.cache.end = num_prefix + shared
        self.cache.begin(len(new))
        end, device = self.cache.end, self.forward.device
        positions_1T = torch.arange(num_prefix + shared, end, device=device)[None]
        if self.way == "masks":
            masks = {
                kind: causal_slots(num_prefix + shared, end, num_prefix=num_prefix, window=window, device=device)[
                    None, None
                ]
                for kind, window in self.windows.items()
            }
            mask: Any = masks if len(masks) > 1 else next(iter(masks.values()))
        else:
            mask = torch.ones((1, end), dtype=torch.long, device=device)
        keywords = {"position_ids": positions_1T, "attention_mask": mask, "past_key_values": self.cache}
        return self.forward.tail(self._tensor(new), num_last, use_cache=True, **keywords)[0]

    def _tensor(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor([list(ids)], device=self.forward.device)


def distribution(logits_V: Tensor, settings: Sampling, ids: Sequence[int]) -> Tensor:
    """Probabilities (V,) with which the next token after `ids` is drawn: temperature, penalty and filters as in `choose`."""
    logits_V = logits_V.float() / (settings.temperature or 1.0)
    if settings.repetition_penalty != 1:
        seen_V = torch.zeros_like(logits_V, dtype=torch.bool)
        seen_V[torch.tensor(list(ids), device=logits_V.device)] = True
        logits_V = penalise(logits_V, seen_V, settings.repetition_penalty)
    if settings.temperature == 0:
        return torch.nn.functional.one_hot(logits_V.argmax(), logits_V.shape[-1]).float()
    probs_1K, ids_1K = candidates(logits_V[None], settings)
    probs_K = probs_1K[0] / probs_1K[0].sum()
    return probs_K if ids_1K is None else torch.zeros_like(logits_V).scatter_(0, ids_1K[0], probs_K)


def pick(probs_V: Tensor, uniform: float) -> int:
    """The token at which the running sum of the probabilities first exceeds `uniform` of their total."""
    sums_V = probs_V.double().cumsum(-1)
    return int(torch.searchsorted(sums_V, uniform * sums_V[-1], right=True).clamp(max=len(probs_V) - 1))


def judge(token: int, p_V: Tensor, q_V: Tensor | None, draws: Draws) -> tuple[bool, int]:
    """Whether a token proposed from q (None: it was certain) is kept, and the token that stands there.

    Example: p = (0.5, 0.5), q = (0.8, 0.2), token 0: kept with probability 0.5 / 0.8; else drawn from (0, 0.3), so 1.
    """
    proposed = 1.0 if q_V is None else float(q_V[token])
    if draws() * proposed < float(p_V[token]):
        return True, token
    rest_V = p_V.clone()
    if q_V is None:
        rest_V[token] = 0
    else:
        rest_V = (p_V - q_V).clamp_(min=0)
    if not float(rest_V.sum()) > 0:  # p equals q but for rounding
        rest_V = p_V
    return False, pick(rest_V, draws())


class Lookup:
    """Prompt lookup: what followed the last tokens where they stood before, in the prompt or the reply (Saxena 2023)."""

    def begin(self, prompt: Sequence[int], settings: Sampling) -> None:
        """A new prompt."""

    def propose(self, ids: Sequence[int], num_ahead: int, draws: Draws) -> tuple[list[int], Tensor | None]:
        """The continuation of the latest earlier place that ends like `ids`; nothing where there is none."""
        for size in range(min(LONGEST, len(ids) - 1), SHORTEST - 1, -1):
            end = list(ids[-size:])
            for at in range(len(ids) - size - 1, -1, -1):
                if ids[at + size - 1] == end[-1] and list(ids[at : at + size]) == end:
                    return list(ids[at + size : at + size + num_ahead]), None
        return [], None


class Draft:
    """A smaller model with the same vocabulary, sampled the same way."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def begin(self, prompt: Sequence[int], settings: Sampling) -> None:
        """A new prompt."""
        self.generator.check([prompt], settings)
        self.settings = settings
        way = self.generator.chosen_way()
        self._tail = Tail(self.generator.forward, way, len(prompt) + settings.max_tokens)

    def propose(self, ids: Sequence[int], num_ahead: int, draws: Draws) -> tuple[list[int], Tensor | None]:
        """Tokens drawn one after the other."""
        text, found = list(ids), []
        for _ in range(num_ahead):
            found.append(distribution(self._tail.logits(text, 1)[0], self.settings, text))
            text.append(pick(found[-1], draws()))
        return text[len(ids) :], None if self.settings.temperature == 0 else torch.stack(found)


class Speculator:
    """A model that answers with a proposer's help; `stats` adds up over calls.

    Example:
        Speculator(Generator(model, tokenizer), Lookup()).sample([[5, 8, 2]], max_tokens=32)
    """

    def __init__(self, generator: Generator, proposer: Lookup | Draft, *, ahead: int = 4) -> None:
        """`ahead`: tokens proposed at a time (1 to 32)."""
        if not 1 <= ahead <= 32:
            raise UserError(f"ahead is {ahead}, but must be from 1 to 32: change it")
        if generator.forward.both_sides:
            raise UserError("an encoder-decoder is not helped by a draft or lookup here; leave them out")
        if isinstance(proposer, Draft):
            own, other = (_num_tokens(one) for one in (generator, proposer.generator))
            if own != other:
                raise UserError(
                    f"the draft model has {other} tokens, but the model {own}: a draft needs the same tokenizer"
                )
        self.generator, self.proposer, self.ahead = generator, proposer, ahead
        self.stats = Stats()

    def sample(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[Reply]:
        """One reply a prompt (or n), as `Generator.sample`: at temperature 0 the same tokens, else the same distribution.

        Raises:
            UserError: as `Generator.sample`.
        """
        settings = Sampling.of(options)
        self.generator.check(prompts, settings)
        stopper = self.generator.stopper(settings)
        way = self.generator.chosen_way()
        if isinstance(self.proposer, Draft):
            self.proposer.generator.chosen_way()
        began, replies = time.perf_counter(), []
        for number, prompt in enumerate(prompt for prompt in prompts for _ in range(settings.n)):
            row = Written(number, len(prompt))
            with evaluating(self.generator.model):
                self._write(prompt, row, settings, stopper, way)
            replies.append(stopper.reply(row))
            self.stats.tokens += len(row.ids)
        self.stats.seconds += time.perf_counter() - began
        return replies

    def _write(self, prompt: Sequence[int], row: Written, settings: Sampling, stopper: Stopper, way: Way) -> None:
        tail = Tail(self.generator.forward, way, len(prompt) + settings.max_tokens)
        draws = Draws(settings, row.number)
        self.proposer.begin(prompt, settings)
        while row.finish is None:
            text = [*prompt, *row.ids]
            room = min(self.ahead, settings.max_tokens - len(row.ids) - 1)
            tokens, q_KV = self.proposer.propose(text, room, draws) if room else ([], None)
            logits_KV = tail.logits([*text, *tokens], len(tokens) + 1)
            self.stats.passes += 1
            self.stats.proposed += len(tokens)
            for at in range(len(tokens) + 1):
                p_V = distribution(logits_KV[at], settings, text)
                if at < len(tokens):
                    kept, token = judge(tokens[at], p_V, None if q_KV is None else q_KV[at], draws)
                else:
                    kept, token = False, pick(p_V, draws())
                self.stats.accepted += kept
                text.append(token)
                self._put(row, token, logits_KV[at], settings, stopper)
                if not kept or row.finish is not None:
                    break

    def _put(self, row: Written, token: int, logits_V: Tensor, settings: Sampling, stopper: Stopper) -> None:
        logps_V = torch.log_softmax(logits_V.float() / (settings.temperature or 1.0), -1)
        top = None
        if settings.top_logps:
            found = logps_V.topk(min(settings.top_logps, len(logps_V)))
            top = tuple(zip(found.indices.tolist(), found.values.tolist()))
        stopper.add(row, token, float(logps_V[token]) if settings.logps else None, top)
        stopper.look([row], 1)


def _num_tokens(generator: Generator) -> int:
    return int(generator.model.get_input_embeddings().num_embeddings)  # type: ignore[operator]
