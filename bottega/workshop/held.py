"""What weights held otherwise cost: KL to full precision, and tokens a second.

Left out: loading them (models/load.py). Full precision is streamed from disk for the comparison, so that a model that
fits only in 4 bits is compared too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bottega.core.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from bottega.models.load import Loaded

WEIGHTS = ("full", "nf4", "int8", "stream", "nf4+stream", "int8+stream")
"""Ways to hold weights: as they are, in 4 or 8 bits, with the layers left on disk, or both."""
MAX_TEXTS, MAX_TOKENS = 8, 128
"""Texts, and tokens of each, on which KL is measured."""
SAMPLE = (
    "The committee met in the old town hall on Tuesday. It heard three proposals for the bridge and sent two of them back "
    "for a second estimate, since neither said how the river would be crossed while the work went on.",
    "To make the dough, mix 500 g of flour with 7 g of salt and 320 ml of water. Let it rest for an hour, fold it twice, "
    "and bake it at 230 degrees until the crust is dark.",
    "def mean(values):\n    if not values:\n        raise ValueError('no values')\n    return sum(values) / len(values)\n",
)
"""What KL is measured on where no prompt is at hand."""


@dataclass(kw_only=True, slots=True)
class Held:
    """How the weights of a model in use are held (kind: full, nf4 or int8; stream: on disk), and what was measured.

    kl: mean KL(full precision || as held) in nats a token over `kl_tokens` tokens; None where nothing was changed, or
    it could not be measured. tokens, seconds: what was written or scored so far, and how long it took.
    """

    kind: str = "full"
    stream: bool = False
    kl: float | None = None
    kl_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @staticmethod
    def of(weights: str) -> Held:
        """From what a user wrote.

        Raises:
            UserError: it is none of `WEIGHTS`.
        """
        if weights not in WEIGHTS:
            raise UserError(f"weights {weights!r} is not one of {', '.join(WEIGHTS)}")
        kind, _, stream = weights.partition("+")
        return Held(kind="full" if kind == "stream" else kind, stream="stream" in (kind, stream))

    @property
    def weights(self) -> str:
        """What a user writes for it."""
        parts = ["stream"] * self.stream
        return "+".join([self.kind, *parts] if self.kind != "full" else parts) or "full"

    @property
    def ordinary(self) -> bool:
        """Full precision in memory: nothing to say."""
        return self.kind == "full" and not self.stream

    @contextmanager
    def timed(self) -> Iterator[None]:
        """The time inside counts."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began

    def facts(self) -> dict[str, Any]:
        """For JSON; nothing where the weights are held as usual."""
        if self.ordinary:
            return {}
        speed = {"tokens_per_s": round(self.tokens / self.seconds, 2)} if self.seconds else {}
        kl = {"kl": self.kl, "kl_tokens": self.kl_tokens} if self.kl is not None else {}
        return {"weights": self.weights, **kl, **speed}

    def line(self) -> str:
        """For people."""
        how = f"{self.kind} weights" + (", layers streamed from disk" if self.stream else "")
        kl = (
            "" if self.kl is None else f"; KL to full precision {self.kl:.2g} nats a token over {self.kl_tokens} tokens"
        )
        speed = f"; {self.tokens / self.seconds:.1f} tokens/s" if self.seconds else ""
        return how + kl + speed

    def measure(self, model: str, loaded: Loaded, texts: Sequence[Sequence[int]], note: Callable[[str], None]) -> None:
        """Compare with full precision on token ids of `texts`; why not, if that cannot be, is a note."""
        from bottega.models.load import load
        from bottega.models.place import place_of
        from bottega.models.quant import mean_kl

        if self.kind == "full":
            return  # streamed or not, the numbers are the same bit for bit
        samples = [list(text)[:MAX_TOKENS] for text in texts[:MAX_TEXTS] if len(text)]
        try:
            reference = load(model, stream=True, device=str(place_of(module_of(loaded))))
        except UserError as error:
            note(f"KL to full precision was not measured: {error}")
            return
        self.kl, self.kl_tokens = mean_kl(module_of(reference), module_of(loaded), samples)

    def measure_speed(self, loaded: Loaded, texts: Sequence[Sequence[int]]) -> None:
        """Tokens a second in one forward pass over each text."""
        import torch

        from bottega.models.place import place_of

        where = place_of(module_of(loaded))
        with torch.no_grad(), self.timed():
            for text in texts:
                module_of(loaded)(input_ids=torch.tensor([list(text)], device=where), use_cache=False)
                self.tokens += len(text)


def module_of(loaded: Loaded) -> nn.Module:
    """The model with its adapter."""
    return loaded.attached.model if loaded.attached else loaded.model


def samples(loaded: Loaded) -> list[list[int]]:
    """Token ids of `SAMPLE`."""
    return [ids for text in SAMPLE if (ids := loaded.tokenizer(text)["input_ids"][:MAX_TOKENS])]
