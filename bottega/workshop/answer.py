"""Which way `generate` answers: sampling, beam search, or speculation with a draft model or by lookup in the prompt.

Left out: the ways themselves (bottega/models).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bottega.core.errors import UserError

if TYPE_CHECKING:
    from bottega.core.types import Reply
    from bottega.models.generate import Generator

Answer = Callable[..., "list[Reply]"]


def answering(
    generator: Generator, *, beams: int = 1, draft: str | None = None, lookup: bool = False
) -> tuple[Answer, Callable[[], dict[str, Any]]]:
    """A function from prompts and sampling options to replies, and what it came to in numbers.

    Args:
        beams: partial replies of a beam search; 1: none. draft: a smaller model with the same tokens that writes ahead.
        lookup: what followed the same words before is proposed.

    Raises:
        UserError: two ways at once, or a draft with other tokens.
    """
    chosen = [name for name, on in (("beams", beams > 1), ("draft", draft), ("lookup", lookup)) if on]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)} were given, but a reply is written in one way: leave one out")
    if beams > 1:
        return _beams(generator, beams), dict
    if not chosen:
        return generator.sample, dict
    from bottega.models.generate import Generator
    from bottega.models.load import load
    from bottega.models.speculate import Draft, Lookup, Speculator

    proposer: Draft | Lookup = Lookup()
    if draft is not None:
        small = load(draft, device=str(generator.forward.device))
        inputs = small.attached.inputs if small.attached else None
        module = small.attached.model if small.attached else small.model
        proposer = Draft(Generator(module, small.tokenizer, inputs=inputs))
    speculator = Speculator(generator, proposer)
    alone = {"seconds": 0.0, "tokens": 0}

    def answer(prompts: Sequence[Sequence[int]], **options: Any) -> list[Reply]:
        if not alone["tokens"]:
            # the first prompt is answered without help too, to compare; what is done once comes before it
            generator.sample(prompts[:1], **(options | {"n": 1, "max_tokens": 1}))
            began = time.perf_counter()
            first = generator.sample(prompts[:1], **(options | {"n": 1}))
            alone["seconds"], alone["tokens"] = time.perf_counter() - began, len(first[0].ids)
        return speculator.sample(prompts, **options)

    def facts() -> dict[str, Any]:
        stats = speculator.stats
        speed, plain = stats.tokens / stats.seconds, alone["tokens"] / alone["seconds"]
        return {
            "acceptance": round(stats.acceptance, 4),
            "tokens_per_pass": round(stats.tokens_per_pass, 3),
            "speed_up": round(speed / plain, 3),
        }

    return answer, facts


def _beams(generator: Generator, beams: int) -> Answer:
    from dataclasses import fields

    from bottega.models.beam import beam_search
    from bottega.models.sampling import Sampling

    def answer(prompts: Sequence[Sequence[int]], **options: Any) -> list[Reply]:
        known = ("max_tokens", "n", "stop_ids", "batch")
        usual = {field.name: field.default for field in fields(Sampling)}
        other = [name for name, value in options.items() if name not in (*known, "seed") and value != usual[name]]
        if other:
            raise UserError(f"beams is {beams}, and beam search does not know {', '.join(other)}: leave it out")
        kept = {name: options[name] for name in known if name in options}
        return [beam.reply for found in beam_search(generator, prompts, beams=beams, **kept) for beam in found]

    return answer
