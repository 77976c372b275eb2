"""Batched generation through transformers' own model code with a static cache: the Sampler of core/types.py.

Left out: beam search (beam.py), speculative decoding (speculate.py), continuous batching (a batch ends before the next
begins).

Encoder-decoders are decoded by `sides` (sides.py). Else there are three ways, tried in this order by a numeric probe on the
real module: `masks` (our own masks: nothing is
built per token), `padded` (transformers builds its masks from the padding: ALiBi and other families), `plain` (no
cache, equal lengths only: recurrent families).

Shapes: B rows, T positions, S cache slots, V vocabulary, M max_tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bottega.core.errors import UserError
from bottega.core.types import Inputs, Reply
from bottega.models.decode import Forward, Way, choose_way, open_batch
from bottega.models.prepack import prepacked
from bottega.models.sampling import Sampling, best, choose, uniforms
from bottega.models.stops import Stopper, TextStream, Written

COMPACT_BELOW = (
    0.75  # rows still alive, of the batch: below it the finished ones are dropped (costs about one step's attention)
)


class Piece(NamedTuple):
    """A piece of a stream; the last one carries the whole reply."""

    text: str
    reply: Reply | None = None


def context_limit(config: Any) -> int | None:
    """How many positions the model has, or None where its config sets no limit."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        limit = getattr(config, name, None)
        if isinstance(limit, int) and limit > 0:
            return limit
    return None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model without dropout and gradients; its mode is put back afterwards, module by module."""
    modes = [(module, module.training) for module in model.modules() if module.training]
    try:
        for module, _ in modes:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


class Generator:
    """Samples replies from a causal language model.

    Example:
        replies = Generator(model, tokenizer).sample([[5, 8, 2]], max_tokens=32)
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any = None, *, inputs: Inputs | None = None, way: Way | None = None
    ) -> None:
        """`inputs`: what a method puts before every sequence (Attached.inputs). `way`: decode this way, without the
        probe."""
        self.model = model
        self.tokenizer = tokenizer
        self.version = 0
        self.forward = Forward(model, inputs)
        self._way: Way | None = way

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take over newer weights by name; nothing to copy where the model is shared with the trainer.

        Raises:
            UserError: a name the model does not have.
        """
        own = self.model.state_dict(keep_vars=True)
        with torch.no_grad():
            for name, tensor in weights:
                if name not in own:
                    raise UserError(
                        f"weight {name!r} is not in the model ({len(own)} names): send the names of its state_dict"
                    )
                own[name].copy_(tensor)
        self.version += 1

    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end a reply by default: eos of the generation config and of the tokenizer."""
        found = [getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)]
        found += [getattr(self.forward.config, "eos_token_id", None), getattr(self.tokenizer, "eos_token_id", None)]
        ids = [item for one in found for item in (one if isinstance(one, list | tuple) else [one])]
        return tuple(sorted({item for item in ids if isinstance(item, int)}))

    def sample(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[Reply]:
        """One reply a prompt (or n, one after the other), in order; a prompt's reply does not depend on which others are in
        the call.

        Args:
            prompts: token ids, at least one each, BOS included where the model wants it.
            options: the fields of `sampling.Sampling` (max_tokens, temperature, top_k, top_p, min_p,
                repetition_penalty, seed, stop_ids, stop, batch, logps, top_logps, n, special).

        Raises:
            UserError: an option out of range, an empty prompt, or prompt + max_tokens beyond the model's positions.
        """
        settings = Sampling.of(options)
        self.check(prompts, settings)
        stopper = self.stopper(settings)
        prompts = [prompt for prompt in prompts for _ in range(settings.n)]
        replies: list[Reply | None] = [None] * len(prompts)
        with evaluating(self.model):
            for numbers in self.batches(prompts, settings):
                rows = [Written(number, len(prompts[number])) for number in numbers]
                with prepacked(self.model, len(rows)):
                    for _ in self._decode(prompts, rows, settings, stopper):
                        pass
                for row in rows:
                    replies[row.number] = stopper.reply(row)
        return [reply for reply in replies if reply is not None]

    def stream(self, prompt: Sequence[int], **options: Any) -> Iterator[Piece]:
        """The reply to one prompt, piece by piece; the texts joined are the reply's text, which the last piece carries.

        Raises:
            UserError: as `sample`.
        """
        settings = Sampling.of(options)
        if settings.n != 1:
            raise UserError(f"n is {settings.n}, but a stream is one reply: leave n out, or do not stream")
        self.check([prompt], settings)
        stopper = self.stopper(settings)
        row, text = Written(0, len(prompt)), TextStream(stopper)
        steps = self._decode([prompt], [row], settings, stopper)
        while True:
            with evaluating(self.model):  # not held while the reader has the piece
                more = next(steps, None) is not None
            if row.finish is not None or not more:
                break
            if piece := text.push(row):
                yield Piece(piece)
        reply = stopper.reply(row)
        yield Piece(text.rest(reply.text), reply)

    def chosen_way(self) -> Way:
        """How this model is decoded, found by a probe on the first call."""
        if self._way is None:
            with evaluating(self.model):
                self._way = choose_way(self.forward)
        return self._way

    def stopper(self, settings: Sampling) -> Stopper:
        """What ends the replies of a call."""
        stop_ids = self.stop_ids() if settings.stop_ids is None else settings.stop_ids
        return Stopper(
            self.tokenizer,
            stop_ids=stop_ids,
            stop=settings.stop,
            max_tokens=settings.max_tokens,
            special=settings.special,
        )

    def check(self, prompts: Sequence[Sequence[int]], settings: Sampling) -> None:
        """Refuse prompts that are empty or leave no room for `max_tokens`."""
        limit = context_limit(self.forward.config)
        if self.forward.both_sides:
            return self._check_sides(prompts, settings, limit)
        for number, prompt in enumerate(prompts):
            if len(prompt) == 0:
                raise UserError(f"prompt {number} has 0 tokens, but 1 is the least: give it a BOS token")
            room = None if limit is None else limit - len(prompt) - self.forward.num_prefix
            if room is not None and room < settings.max_tokens:
                prefix = f" and {self.forward.num_prefix} of the prefix" if self.forward.num_prefix else ""
                remedy = f"set max_tokens to at most {room}" if room > 0 else "shorten the prompt"
                raise UserError(
                    f"prompt {number} has {len(prompt)} tokens{prefix}, and max_tokens is {settings.max_tokens}: "
                    f"more than the model's {limit} positions; {remedy}"
                )

    def _check_sides(self, prompts: Sequence[Sequence[int]], settings: Sampling, limit: int | None) -> None:
        for number, prompt in enumerate(prompts):
            if len(prompt) == 0:
                raise UserError(f"prompt {number} has 0 tokens, but 1 is the least: ask something")
            longest = max(len(prompt) + 1, settings.max_tokens + 2)
            if limit is not None and longest > limit:
                raise UserError(
                    f"prompt {number} has {len(prompt)} tokens, and max_tokens is {settings.max_tokens}: each side of the model has "
                    f"{limit} positions; shorten the longer one"
                )

    def batches(self, prompts: Sequence[Sequence[int]], settings: Sampling) -> Iterator[list[int]]:
        """Numbers of prompts of like length, at most `batch` together."""
        way = self.chosen_way()
        group: list[int] = []
        for number in sorted(range(len(prompts)), key=lambda n: -len(prompts[n])):
            other = way == "plain" and group and len(prompts[group[0]]) != len(prompts[number])
            if len(group) == settings.batch or other:
                yield group
                group = []
            group.append(number)
        if group:
            yield group

    def _decode(
        self, prompts: Sequence[Sequence[int]], rows: list[Written], settings: Sampling, stopper: Stopper
    ) -> Iterator[int]:
        """Write all `rows`; yields how many go on after every look at the new tokens (on CPU every step), until none
        does."""
        device = self.forward.device
        own = [prompts[row.number] for row in rows]
        batch = open_batch(self.forward, own, settings.max_tokens, way=self.chosen_way())
        noise_BM = _noise(rows, settings).to(device)
        read = [() for _ in own] if self.forward.both_sides else own  # what was only read is not said again
        seen_BV = _seen(read, batch.logits()) if settings.repetition_penalty != 1 else None
        every = 1 if device.type == "cpu" else 8  # a look waits for the device
        pending: list[tuple[Tensor, Tensor | None, tuple[Tensor, Tensor] | None]] = []
        for step in range(settings.max_tokens):
            uniform_B = noise_BM[:, step] if settings.temperature > 0 else None
            logits_BV = batch.logits()
            ids_B, logps_B = choose(logits_BV, settings, uniform_B=uniform_B, seen_BV=seen_BV)
            if seen_BV is not None:
                seen_BV.scatter_(1, ids_B[:, None], True)
            pending.append((ids_B, logps_B, best(logits_BV, settings) if settings.top_logps else None))
            if len(pending) == every or step + 1 == settings.max_tokens:
                _take(pending, rows, stopper)
                pending = []
                alive = [at for at, row in enumerate(rows) if row.finish is None]
                yield len(alive)
                if not alive:
                    return
                if len(alive) <= COMPACT_BELOW * len(rows):
                    index = torch.tensor(alive, device=device)
                    batch.keep(index)
                    ids_B, noise_BM, rows = ids_B[index], noise_BM[index], [rows[at] for at in alive]
                    seen_BV = None if seen_BV is None else seen_BV[index]
            batch.feed(ids_B)


def _noise(rows: Sequence[Written], settings: Sampling) -> Tensor:
    """(B, max_tokens) numbers in [0, 1), a stream a row; nothing when greedy."""
    if settings.temperature == 0:
        return torch.zeros((len(rows), 0))
    return torch.from_numpy(np.stack([uniforms(settings, row.number) for row in rows]))


def _seen(prompts: Sequence[Sequence[int]], logits_BV: Tensor) -> Tensor:
    """(B, V): the tokens of each prompt."""
    seen_BV = torch.zeros_like(logits_BV, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        seen_BV[row, torch.as_tensor(list(prompt), dtype=torch.long, device=logits_BV.device)] = True
    return seen_BV


def _take(
    pending: Sequence[tuple[Tensor, Tensor | None, tuple[Tensor, Tensor] | None]],
    rows: Sequence[Written],
    stopper: Stopper,
) -> None:
    """Write the pending tokens down; rows that have finished take no more."""
    waiting = [row for row in rows if row.finish is None]
    for ids_B, logps_B, top in pending:
        tokens = ids_B.tolist()
        logps = None if logps_B is None else logps_B.tolist()
        tops = None if top is None else list(zip(top[0].tolist(), top[1].tolist()))
        for at, row in enumerate(rows):
            if row.finish is None:
                found = None if tops is None else tuple(zip(*tops[at]))
                stopper.add(row, tokens[at], None if logps is None else logps[at], found)
    stopper.look(waiting, len(pending))
