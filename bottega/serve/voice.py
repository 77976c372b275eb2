"""A loaded model as a server speaks with it: which names it answers to, from a request to jobs, from events to OpenAI's objects.

Left out: HTTP (api.py), decoding (engine.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from bottega.core.errors import UserError
from bottega.data.chat import Template, encode_prompt, tokenize
from bottega.evals.engine import end_of_turn
from bottega.models.generate import context_limit
from bottega.models.routed import Route, route_of
from bottega.models.stops import Stopper
from bottega.serve.asks import Ask, BadAsk, Limits
from bottega.serve.engine import Engine
from bottega.serve.lane import Event, Job, Word

NAME = re.compile(r"[\w.-]{1,128}")
MAX_PARTS = 8


class Unknown(BadAsk):
    """No model of this name is served."""


class Voice:
    """One base under `name`, and its adapters under theirs; `a+b:0.6` is a mixture of two."""

    def __init__(self, engine: Engine, tokenizer: Any, template: Template, name: str, limits: Limits) -> None:
        self.engine, self.tokenizer, self.template = engine, tokenizer, template
        self.name, self.limits, self.born = name, limits, int(time.time())
        generator = engine.generator
        self.stop_ids = generator.stop_ids()
        ids, self.turn_stop = end_of_turn(tokenizer, template)
        self.turn_ids = tuple(sorted({*self.stop_ids, *ids}))
        self.vocabulary: int = generator.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        prefix = 0 if generator.forward.both_sides else generator.forward.num_prefix
        self.positions = (context_limit(generator.forward.config) or 10**9) - prefix

    def names(self) -> list[str]:
        """What is served: the base, then the adapters."""
        return [self.name, *(self.engine.adapters or ())]

    def route(self, model: str) -> Route:
        """Which adapters a request's `model` names.

        Raises:
            Unknown: one of them is not served.
        """
        if model == self.name:
            return ()
        parts: dict[str, float] = {}
        pieces = model.split("+")
        for piece in pieces if len(pieces) <= MAX_PARTS else [model]:
            name, colon, weight = piece.partition(":")
            try:
                value = float(weight) if colon else 1.0
            except ValueError:
                value = float("inf")
            if name not in (self.engine.adapters or ()) or not abs(value) <= 100:
                raise Unknown(f"there is no model {model[:100]!r} here; there are {', '.join(self.names())}", "model")
            parts[name] = parts.get(name, 0.0) + value
        return route_of(parts)

    def jobs(self, ask: Ask, told: Callable[[int, Event], None]) -> list[Job]:
        """The jobs of a request, choice by choice; `told` gets the choice's number with every event.

        Raises:
            BadAsk: a prompt that does not fit, ids that the model does not have, an unknown model.
        """
        route = self.route(ask.model)
        jobs: list[Job] = []
        for place, ids in enumerate(self._prompts(ask)):
            stop_ids = ask.stop_ids + (self.turn_ids if ask.kind == "chat" else self.stop_ids)
            stop = ask.stop + (self.turn_stop if ask.kind == "chat" else ())
            settings = ask.settings(self._room(ids, ask), stop, stop_ids)
            stopper = Stopper(
                self.tokenizer,
                stop_ids=stop_ids,
                stop=stop,
                max_tokens=settings.max_tokens,
                special=settings.special,
            )
            for copy in range(ask.n):
                number = place * ask.n + copy
                jobs.append(
                    Job(
                        ids=ids,
                        settings=settings,
                        stopper=stopper,
                        told=_numbered(told, number),
                        route=route,
                        number=copy,
                        pieces=ask.stream,
                    )
                )
        return jobs

    def _prompts(self, ask: Ask) -> list[list[int]]:
        try:
            if ask.kind == "chat":
                return [encode_prompt(ask.turns, self.tokenizer, self.template)]
            texts = [one for one in ask.prompts if isinstance(one, str)]
            encoded = iter(tokenize(texts, self.tokenizer)) if texts else iter(())
            found = [list(next(encoded)[0]) if isinstance(one, str) else list(one) for one in ask.prompts]
        except UserError as error:
            raise BadAsk(str(error), "messages" if ask.kind == "chat" else "prompt") from None
        for ids in found:
            odd = next((one for one in ids if not 0 <= one < self.vocabulary), None)
            if odd is not None:
                raise BadAsk(
                    f"the prompt has the token {odd}, and the model has tokens 0 to {self.vocabulary - 1}", "prompt"
                )
            if not ids:
                raise BadAsk("the prompt is empty, and this model has no token to begin with", "prompt")
        return found

    def _room(self, ids: Sequence[int], ask: Ask) -> int:
        both = self.engine.generator.forward.both_sides
        room = self.positions - (2 if both else len(ids))
        wanted = ask.max_tokens
        if room < 1 or len(ids) >= self.positions or (wanted is not None and wanted > room):
            asked = "" if wanted is None else f" and max_tokens is {wanted}"
            raise BadAsk(
                f"the prompt has {len(ids)} tokens{asked}: more than the model's {self.positions} positions; shorten one",
                "max_tokens" if wanted is not None else "messages" if ask.kind == "chat" else "prompt",
            )
        return min(room, wanted or self.limits.max_tokens or room)

    def token(self, number: int, ask: Ask) -> str:
        """How a token is called in an answer."""
        return f"token_id:{number}" if ask.ids else self.tokenizer.decode([number])

    def logprobs(self, words: Sequence[Word], ask: Ask) -> dict[str, Any] | None:
        """OpenAI's object for the tokens of an event; None where they were not asked for."""
        if ask.logprobs is None:
            return None
        if ask.kind == "text":
            offsets, at = [], 0
            for word in words:
                offsets.append(at)
                at += len(self.tokenizer.decode([word.id]))
            return {
                "tokens": [self.token(word.id, ask) for word in words],
                "token_logprobs": [word.logp for word in words],
                "top_logprobs": [{self.token(one, ask): logp for one, logp in word.top} for word in words]
                if ask.logprobs
                else None,
                "text_offset": offsets,
            }
        return {
            "content": [
                self._named(word.id, word.logp, ask)
                | {"top_logprobs": [self._named(one, logp, ask) for one, logp in word.top]}
                for word in words
            ],
            "refusal": None,
        }

    def _named(self, number: int, logp: float, ask: Ask) -> dict[str, Any]:
        text = self.token(number, ask)
        return {"token": text, "logprob": logp, "bytes": None if "\ufffd" in text else list(text.encode())}


def _numbered(told: Callable[[int, Event], None], number: int) -> Callable[[Event], None]:
    return lambda event: told(number, event)
