"""The language-model head of any model, found by numbers: hidden states to logits, in chunks, as the model itself does it.

Left out: value and reward heads (models/score.py holds them as plain linear layers).

Shapes: S supervised positions, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bottega.models import kinds
from bottega.models.formed import dtype_of_products, nll_formed

TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """logits = cap(scale * (W h + b)) / temperature; the temperature is that at which answers are sampled, else 1.

    kind: `linear` W and b are read directly; `module` the layer is called (an adapter sits on it, or it is no plain
    linear layer); `own` none of these equals the model's logits, which are then computed by the model itself.
    """

    kind: Literal["linear", "module", "own"]
    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0

    def describe(self) -> str:
        if self.kind == "own":
            return "the model's own head (not chunked)"
        extras = [f"scale {self.scale:g}"] * (self.scale != 1.0) + [f"soft cap {self.softcap}"] * (
            self.softcap is not None
        )
        return " with ".join([f"{self.kind} head in chunks", *extras])


def causal_model(model: nn.Module) -> Any:
    """The transformers model inside adapters' wrappers (whose layers it holds)."""
    return cast(Any, model).get_base_model() if hasattr(model, "get_base_model") else model


def trunk(model: nn.Module) -> Any:
    """The part that turns token ids into hidden states."""
    inner = causal_model(model)
    return getattr(inner, getattr(inner, "base_model_prefix", ""), inner)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluate without a trace: no gradient, no dropout; every module's mode and the random state are put back."""
    modes = {module: module.training for module in model.modules()}
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def find_head(model: nn.Module, vocabulary: int) -> Head:
    """Compare candidates with the model's own logits on seven tokens and take the first that equals them.

    Runs one forward pass without gradient; mode and random state are put back.
    """
    inner = causal_model(model)
    layer = inner.get_output_embeddings()
    if (
        layer is None or kinds.kind_of(inner.config) != "decoder"
    ):  # what an encoder does before its head, it does itself
        return Head(kind="own")
    config = getattr(inner.config, "get_text_config", lambda: inner.config)()
    softcap = getattr(config, "final_logit_softcapping", None)
    scales = [1.0]
    if getattr(config, "logits_scaling", None):
        scales.insert(0, 1.0 / config.logits_scaling)
    for name in ("logit_scale", "lm_head_multiplier"):
        if getattr(config, name, None):
            scales.insert(0, float(getattr(config, name)))
    with undisturbed(model):
        ids = torch.arange(1, 8, device=layer.weight.device)[None] % vocabulary
        hidden = trunk(model)(input_ids=ids, use_cache=False)[0]
        wanted = inner(input_ids=ids, use_cache=False).logits.float()
        for scale in scales:
            kind: Literal["linear", "module"] = "linear" if type(layer) is nn.Linear else "module"
            head = Head(kind=kind, scale=scale, softcap=softcap)
            got = logits(hidden.reshape(-1, hidden.shape[-1]), layer, head).view_as(wanted)
            if torch.allclose(got, wanted, rtol=TOLERANCE, atol=TOLERANCE * float(wanted.abs().max())):
                return head
    return Head(kind="own")


def logits(hidden_SD: Tensor, layer: nn.Module, head: Head) -> Tensor:
    """(S, V) float32 logits, scaled and capped as the model does."""
    out = layer(hidden_SD).float()
    if head.scale != 1.0:
        out = out * head.scale
    if head.softcap is not None:
        out = head.softcap * torch.tanh(out / head.softcap)
    return out / head.temperature if head.temperature != 1.0 else out


def nll_total(hidden_SD: Tensor, layer: Any, head: Head, labels_S: Tensor, weights_S: Tensor, chunk: int) -> Tensor:
    """Sum of weight * -log p(label), () float32, without ever holding more than `chunk` rows of logits.

    A plain linear layer's gradients are formed in the forward pass: by torch's chunked linear cross-entropy where every weight
    is 1 and torch has it, else by models/formed.py. Other heads compute their logits again in the backward pass.
    """
    linear = head.kind == "linear" and head.softcap is None and head.temperature == 1.0
    uniform = bool((weights_S == 1).all()) and not _rounds(hidden_SD)
    if linear and uniform and hasattr(F, "linear_cross_entropy"):
        options = nn.LinearCrossEntropyOptions(chunking_method=None, batch_chunk_size=chunk)
        scaled = hidden_SD * head.scale if head.scale != 1.0 else hidden_SD
        bias = layer.bias * head.scale if layer.bias is not None and head.scale != 1.0 else layer.bias
        return F.linear_cross_entropy(
            scaled, layer.weight, labels_S, linear_bias=bias, reduction="sum", options=options
        ).float()
    narrow = dtype_of_products(hidden_SD) == torch.float16  # whose small gradients need the loss's scale
    if linear and torch.is_grad_enabled() and not narrow:
        return nll_formed(hidden_SD, layer.weight, layer.bias, labels_S, weights_S, head.scale, chunk)
    return -(weights_S * token_logp(hidden_SD, layer, head, labels_S, chunk)).sum()


def _rounds(hidden_SD: Tensor) -> bool:
    """Whether torch's chunked function would spoil the sum, which it keeps in the inputs' 16 bits.

    fp16 overflows at 65,504 nats, some 10,000 tokens. bf16 leaves 8 bits of the sum (0.24 percent off at 3,000 tokens): too
    few for a measurement; while training only the logged loss has them, since the gradient is formed token by token.
    """
    dtype = dtype_of_products(hidden_SD)
    return dtype == torch.float16 or (dtype == torch.bfloat16 and not torch.is_grad_enabled())


def token_logp(hidden_SD: Tensor, layer: nn.Module, head: Head, labels_S: Tensor, chunk: int) -> Tensor:
    """log p(label) at each position, (S,) float32, in chunks; logits are recomputed in the backward pass."""

    def of(hidden: Tensor, labels: Tensor) -> Tensor:
        return torch.log_softmax(logits(hidden, layer, head), -1).gather(1, labels[:, None])[:, 0]

    return chunked(of, hidden_SD, labels_S, chunk)


def token_entropy(hidden_SD: Tensor, layer: nn.Module, head: Head, chunk: int) -> Tensor:
    """Entropy of the next-token distribution in nats, (S,) float32: -sum_v p_v log p_v."""

    def of(hidden: Tensor, _: Tensor) -> Tensor:
        logp = torch.log_softmax(logits(hidden, layer, head), -1)
        return -(logp.exp() * logp).sum(-1)

    return chunked(of, hidden_SD, torch.zeros(len(hidden_SD), device=hidden_SD.device), chunk)


def chunked(of: Callable[[Tensor, Tensor], Tensor], hidden_SD: Tensor, aside_S: Tensor, chunk: int) -> Tensor:
    """of(hidden, aside) -> (rows,) over `chunk` rows at a time, (S,); what is in between is computed again in the backward pass."""
    grows = torch.is_grad_enabled()
    parts = []
    for start in range(0, len(hidden_SD), chunk):
        hidden, aside = hidden_SD[start : start + chunk], aside_S[start : start + chunk]
        part = (
            checkpoint(of, hidden, aside, use_reentrant=False, preserve_rng_state=False) if grows else of(hidden, aside)
        )
        parts.append(part)
    return torch.cat(parts) if parts else hidden_SD.new_zeros(0, dtype=torch.float32) + hidden_SD.sum() * 0
