"""Fold an adapter into its base, in float32, and prove on a few tokens that nothing changed; save the plain model.

Left out: merging several adapters or models. A quantised base is dequantised for the merge.

Shapes: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bottega.core.errors import CheckFailed, UserError
from bottega.core.types import Attached
from bottega.models import heads, kinds, layers, quant
from bottega.models.heads import undisturbed
from bottega.models.plain import save_plain

TOLERANCE = 1e-5
MAX_KL = 1e-3
MIN_EQUAL = 0.95


def merge(attached: Attached, texts: Sequence[Sequence[int]] = ()) -> tuple[nn.Module, dict[str, float]]:
    """The plain transformers model that `attached` amounts to, in float32, and how far its logits are from the
    unmerged.

    Args:
        texts: token ids of sample texts, on which the merge of a quantised base is measured (else on random ids).

    Returns:
        A copy without adapters (the attached model is left as it is), and {"merge_difference"}: the largest
        |difference| of logits over the largest logit (or over 1, if that is less); on a quantised base also
        {"merge_kl"}: mean KL(unmerged || merged) in nats a token.

    Raises:
        UserError: the method cannot be merged. CheckFailed: the logits differ by more than 1e-5; on a quantised base, the
        KL is above the method's `merge_kl`.
    """
    if attached.merge is None:
        raise UserError(f"method {attached.name} cannot be merged into the weights; use its adapter folder as it is")
    merged = attached.merge()
    wanted = logits(attached.model, float32=True)
    got = logits(merged, float32=True)
    difference = float((wanted - got).abs().max() / wanted.abs().max().clamp_min(1.0))
    if quant.quantised_layers(attached.model):
        kl = _check_kl(attached, merged, texts)
        return merged, {"merge_difference": difference, "merge_kl": kl}
    if not difference <= TOLERANCE:
        raise CheckFailed(
            f"the merged model's logits differ from the adapter's by {difference:.1e} (limit {TOLERANCE:.0e}); it was "
            f"not kept: use the adapter folder as it is"
        )
    return merged, {"merge_difference": difference}


def _check_kl(attached: Attached, merged: nn.Module, texts: Sequence[Sequence[int]]) -> float:
    limit = float(attached.facts.get("merge_kl", MAX_KL))
    samples = [list(text) for text in texts if len(text)] or _ids(attached.model).tolist()
    with undisturbed(attached.model):
        kl, count = quant.mean_kl(attached.model, merged, samples)
    if not kl <= limit:
        raise CheckFailed(
            f"merging on the quantised base moves the model by KL {kl:.1e} nats a token over {count} tokens (limit "
            f"{limit:.0e}); keep the adapter as it is, or allow it with merge_kl"
        )
    return kl


def cast(merged: nn.Module, dtype: torch.dtype) -> dict[str, float]:
    """Bring a float32 merged model to `dtype` in place, and measure what that costs.

    Returns:
        {"merge_kl", "merge_equal"}: mean KL of next-token distributions in nats, and the share of equal greedy tokens.

    Raises:
        CheckFailed: KL above 1e-3 or fewer than 95 percent equal.
    """
    before = torch.log_softmax(logits(merged, float32=True), -1)
    merged.to(dtype)
    after = torch.log_softmax(logits(merged).double(), -1)
    kl = float((before.exp() * (before - after)).sum(-1).mean())
    equal = float((before.argmax(-1) == after.argmax(-1)).double().mean())
    if kl > MAX_KL or equal < MIN_EQUAL:
        raise CheckFailed(
            f"in {dtype} the merged model has KL {kl:.1e} and {equal:.0%} equal tokens (limits 1e-3, 95%); keep float32"
        )
    return {"merge_kl": kl, "merge_equal": equal}


def logits(model: nn.Module, *, float32: bool = False) -> Tensor:
    """(B, T, V) float64 logits of a fixed batch of token ids, computed in float32 if asked for, without a trace."""
    ids_BT = _ids(model)
    if float32 and any(p.dtype in (torch.bfloat16, torch.float16) for p in model.parameters()):
        model = copy.deepcopy(model).float()
    with undisturbed(model):
        ids_BT = ids_BT.to(next(model.parameters()).device)
        return kinds.outputs_of(model(**kinds.plain_call(heads.causal_model(model), ids_BT))).double()


def _ids(model: nn.Module) -> Tensor:
    """(B, T) fixed random token ids."""
    vocabulary = layers.text_config(heads.causal_model(model)).vocab_size
    return torch.randint(vocabulary, (2, 24), generator=torch.Generator().manual_seed(0))


def save_model(model: nn.Module, tokenizer: Any, folder: str | Path) -> None:
    """Save a plain Hugging Face folder: config, safetensors, tokenizer and chat template."""
    save_plain(model, folder)
    tokenizer.save_pretrained(str(folder))
