"""How the next token is chosen from logits: settings, filters and one draw a row, repeatable for every prompt by
itself.

Left out: beam search; penalties other than repetition. No model and no text here.

Shapes: B rows, V vocabulary, K candidates kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bottega.core.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Settings of one call of a Sampler.

    max_tokens: at most so many new tokens (>= 1). temperature: 0 is greedy. top_k: 0 keeps all. top_p: keep the
    smallest set of tokens whose probability reaches it (1: all). min_p: drop what is less likely than min_p times the
    best. repetition_penalty: divides positive and multiplies negative logits of tokens already there (1: off; Keskar
    et al. 2019, section 4.1). seed: one number (prompt i draws from the stream (seed, i)) or one number a prompt.
    stop_ids: tokens that end a reply; None: those of the model and tokenizer. stop: strings that end it. batch: rows
    decoded together. logps: also give the log-probability of each token; top_logps: and those of so many best tokens
    in each place. n: replies a prompt. special: keep special tokens in the text.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | Sequence[int] = 0
    stop_ids: Sequence[int] | None = None
    stop: Sequence[str] = ()
    batch: int = 64
    logps: bool = True
    top_logps: int = 0
    n: int = 1
    special: bool = False

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[float, float]] = {
            "max_tokens": (1, math.inf),
            "temperature": (0, 100),
            "top_k": (0, math.inf),
            "top_p": (1e-6, 1),
            "min_p": (0, 1),
            "repetition_penalty": (0.01, 100),
            "batch": (1, math.inf),
            "top_logps": (0, 1000),
            "n": (1, 10_000),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise UserError(f"{name} is {value!r}, but must be a number from {low:g} to {high:g}: change it")
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        if "" in self.stop:
            raise UserError("stop holds an empty string, which would end every reply at once: remove it")

    @classmethod
    def of(cls, options: dict[str, Any]) -> Sampling:
        """Settings from keyword options.

        Raises:
            UserError: a name that is no setting, or a value out of its range.
        """
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise UserError(f"{name!r} is no sampling option; there are {', '.join(known)}")
        return cls(**options)


def uniforms(settings: Sampling, number: int) -> np.ndarray:
    """The numbers in [0, 1) that prompt `number` draws with, one a token: they depend on nothing but (seed, number).

    With one seed a prompt, the stream is that seed's first one, so that a prompt keeps its reply wherever it stands.
    With n replies a prompt, `number` counts replies, n to each prompt.
    """
    if isinstance(settings.seed, Sequence):
        prompt, copy = divmod(number, settings.n)
        if prompt >= len(settings.seed):
            raise UserError(f"seed lists {len(settings.seed)} numbers, but prompt {prompt} needs one too: one a prompt")
        key = (settings.seed[prompt], copy)
    else:
        key = (settings.seed, number)
    bits = np.random.Philox(key=np.array([part % 2**64 for part in key], dtype=np.uint64))
    return np.random.Generator(bits).random(settings.max_tokens, dtype=np.float32)


def penalise(logits_BV: Tensor, seen_BV: Tensor, penalty: float) -> Tensor:
    """Logits with those of tokens already seen divided (if positive) or multiplied (if negative) by `penalty`."""
    pushed = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return torch.where(seen_BV, pushed, logits_BV)


def candidates(logits_BV: Tensor, settings: Sampling) -> tuple[Tensor, Tensor | None]:
    """Probabilities (B, K), not normalised, of the tokens that may be drawn, and their ids (None: K is V).

    Filters act in the order temperature (done by the caller), top-k, top-p, min-p; the best token is always kept.
    """
    num_tokens = logits_BV.shape[-1]
    ids_BK: Tensor | None = None
    if 0 < settings.top_k < num_tokens:
        logits_BV, ids_BK = torch.topk(logits_BV, settings.top_k, dim=-1)
    elif settings.top_p < 1:
        logits_BV, ids_BK = torch.sort(logits_BV, dim=-1, descending=True)
    probs_BK = torch.softmax(logits_BV, -1)
    if settings.top_p < 1:
        before_BK = probs_BK.cumsum(-1) - probs_BK
        probs_BK = probs_BK.masked_fill(before_BK >= settings.top_p, 0.0)
    if settings.min_p > 0:
        best_B1 = probs_BK.amax(-1, keepdim=True)
        probs_BK = probs_BK.masked_fill(probs_BK < settings.min_p * best_B1, 0.0)
    return probs_BK, ids_BK


def draw(probs_BK: Tensor, uniform_B: Tensor) -> Tensor:
    """The index at which the running sum of `probs_BK` first exceeds uniform * total: one draw a row, shape (B,).

    Example: probabilities 0.2, 0.3, 0.5 and u = 0.6: running sums 0.2, 0.5, 1.0, so index 2.
    """
    sums_BK = probs_BK.cumsum(-1)
    aim_B1 = uniform_B[:, None] * (1 - 1e-6) * sums_BK[:, -1:]  # below the total, also after rounding in fp32
    return torch.searchsorted(sums_BK, aim_B1, right=True).squeeze(1).clamp_(max=probs_BK.shape[-1] - 1)


def best(logits_BV: Tensor, settings: Sampling) -> tuple[Tensor, Tensor]:
    """The `top_logps` likeliest tokens of every row (B, K) and their log-probabilities, as `choose` gives them."""
    scaled_BV = logits_BV.float() / (settings.temperature or 1.0)
    logps_BK, ids_BK = torch.log_softmax(scaled_BV, -1).topk(min(settings.top_logps, scaled_BV.shape[-1]), -1)
    return ids_BK, logps_BK


def choose(
    logits_BV: Tensor, settings: Sampling, *, uniform_B: Tensor | None = None, seen_BV: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The next token of every row.

    Args:
        logits_BV: the model's logits, any float dtype.
        uniform_B: one number in [0, 1) a row, needed unless temperature is 0.
        seen_BV: which tokens the row holds already, needed with a repetition penalty.

    Returns:
        ids (B,) and, if asked for, their log-probabilities (B,) under softmax(logits / temperature) of the model
        (temperature 1 when greedy), before penalty, top-k, top-p and min-p: the quantity a policy gradient compares
        with.
    """
    logits_BV = logits_BV.float()
    scaled_BV = (
        logits_BV / settings.temperature if settings.temperature > 0 and settings.temperature != 1 else logits_BV
    )
    pushed_BV = scaled_BV
    if seen_BV is not None:
        pushed_BV = penalise(scaled_BV, seen_BV, settings.repetition_penalty)
    if settings.temperature == 0:
        ids_B = pushed_BV.argmax(-1)
    else:
        assert uniform_B is not None, "sampling needs a number a row"
        probs_BK, ids_BK = candidates(pushed_BV, settings)
        drawn_B = draw(probs_BK, uniform_B)
        ids_B = drawn_B if ids_BK is None else ids_BK.gather(1, drawn_B[:, None]).squeeze(1)
    if not settings.logps:
        return ids_B, None
    return ids_B, torch.log_softmax(scaled_BV, -1).gather(1, ids_B[:, None]).squeeze(1)
