"""Whether an export says what the model says: logits and greedy tokens on a few fixed prompts.

Left out: how good the model is; that is an evaluation.

Shapes: T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bottega.core.errors import CheckFailed
from bottega.models import heads, layers
from bottega.models.heads import undisturbed

Logits = Callable[[list[int]], Tensor]
"""Token ids -> (T, V) float32 logits of a model in whatever format."""

TEXTS = (
    "The workshop opens at eight and closes at five.",
    "Question: who keeps the keys? Answer: Anna keeps 12 of them.",
    "def add(a, b):\n    return a + b\n",
    "Il legno è asciutto; puu on kuivaa, 日本 too.",
)
NEW_TOKENS = 16
TOLERANCE = 1e-4


def logits_of(model: nn.Module) -> Logits:
    """The logits of a transformers model."""

    def run(ids: list[int]) -> Tensor:
        with undisturbed(model):
            return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()

    return run


def prompts_of(model: nn.Module, tokenizer: object = None) -> list[list[int]]:
    """Token ids of `TEXTS`, or random ones without a tokenizer; short enough to write `NEW_TOKENS` after them."""
    config = layers.text_config(heads.causal_model(model))
    limit = max(1, min(64, int(getattr(config, "max_position_embeddings", None) or 80) - NEW_TOKENS))
    if tokenizer is not None:
        found = [list(tokenizer(text)["input_ids"])[:limit] for text in TEXTS]  # type: ignore[operator]
        return [ids for ids in found if ids]
    drawn = torch.randint(config.vocab_size, (2, min(24, limit)), generator=torch.Generator().manual_seed(0))
    return drawn.tolist()


def greedy(logits: Logits, prompt: Sequence[int], num_new: int = NEW_TOKENS) -> list[int]:
    """The likeliest continuation, a token at a time, the whole text read anew for each."""
    ids = list(prompt)
    for _ in range(num_new):
        ids.append(int(logits(ids)[-1].argmax()))
    return ids[len(prompt) :]


def compare(wanted: Logits, got: Logits, prompts: Sequence[list[int]]) -> dict[str, float]:
    """How far two models are apart.

    Returns:
        {"difference": largest |difference| of logits over the largest logit (or 1), "kl": mean KL(wanted || got) in nats a token,
        "equal": share of equal greedy tokens, "tokens": how many were compared}.
    """
    difference = kl = 0.0
    positions = equal = total = 0
    for prompt in prompts:
        a, b = wanted(prompt).double(), got(prompt).double()
        difference = max(difference, float((a - b).abs().max() / a.abs().max().clamp_min(1.0)))
        p, q = torch.log_softmax(a, -1), torch.log_softmax(b, -1)
        kl, positions = kl + float((p.exp() * (p - q)).sum()), positions + len(a)
        one, other = greedy(wanted, prompt), greedy(got, prompt)
        equal, total = equal + sum(x == y for x, y in zip(one, other)), total + len(one)
    return {"difference": difference, "kl": max(0.0, kl / positions), "equal": equal / total, "tokens": total}


def check(wanted: Logits, got: Logits, prompts: Sequence[list[int]], what: str) -> dict[str, float]:
    """`compare`, where the two must be the same.

    Raises:
        CheckFailed: the logits differ by more than 1e-4 of the largest, or a greedy token differs.
    """
    found = compare(wanted, got, prompts)
    if not found["difference"] <= TOLERANCE or found["equal"] < 1.0:
        raise CheckFailed(
            f"{what}, read back, has logits that differ by {found['difference']:.1e} (limit {TOLERANCE:.0e}) and "
            f"{found['equal']:.0%} equal greedy tokens; it was not kept: give the model away as --format hf"
        )
    return found
