"""Linear layers whose frozen matrix is kept in 4 or 8 bits (bitsandbytes' NF4 and row-wise int8), dequantised when used.

Left out: 8-bit activations (the matrix products run in the input's own precision, so the only error is the weights'),
and quantising embeddings, norms and the head, which stay as they are.

NF4: 16 levels at the quantiles of a normal distribution, one scale for 64 weights, the scales themselves in 8 bits with
one scale for 256 of them (Dettmers et al. 2023, arXiv 2305.14314, section 3: 4.13 bits a weight). int8: one scale a row,
w ~ q s / 127 (Dettmers et al. 2022, arXiv 2208.07339, section 2).
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bottega.core.errors import UserError
from bottega.models import layers
from bottega.models.layers import Model

Kind = Literal["nf4", "int8"]
KINDS: tuple[str, ...] = get_args(Kind)
BLOCK, OUTER_BLOCK = 64, 256
"""Weights that share a scale, and scales that share theirs (NF4). A matrix is handed to bitsandbytes as one row, filled up to
whole blocks: its CPU kernel (0.50) takes the wrong scales where a row is no multiple of 64 (96 columns: off by 1.5)."""


def as_kind(weights: str) -> Kind | None:
    """How linear layers are held, from what a user wrote: `full` is None.

    Raises:
        UserError: there is no such way.
    """
    if weights != "full" and weights not in KINDS:
        raise UserError(f"weights {weights!r} is not one of full, {', '.join(KINDS)}")
    return None if weights == "full" else cast(Kind, weights)


def require(kind: Kind) -> None:
    """Whether weights of `kind` can be made here.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"{kind} weights need the package bitsandbytes; pip install 'bottega[quant]', or use full")


@functools.cache
def _library() -> Any:
    """bitsandbytes.functional, without the warning it logs about optional kernels."""
    log = logging.getLogger("bitsandbytes")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        return importlib.import_module("bitsandbytes.functional")
    finally:
        log.setLevel(level)


@functools.cache
def _levels(which: str, device: torch.device) -> Tensor:
    """The 16 levels of NF4, or the 256 of its scales."""
    if which == "nf4":
        return _library().get_4bit_type("nf4", device=device)
    return _library().create_dynamic_map().to(device)


def import_quietly() -> None:
    """Import bitsandbytes where it is installed, before PEFT does: its warning about optional kernels says nothing here."""
    if importlib.util.find_spec("bitsandbytes") is not None:
        _library()


def quantise(matrix_OI: Tensor, kind: Kind) -> dict[str, Tensor]:
    """The tensors that stand for a matrix (outputs, inputs): `weight` and its scales."""
    library, matrix_OI = _library(), matrix_OI.float().contiguous()
    if kind == "int8":
        weight, scale, _ = library.int8_vectorwise_quant(matrix_OI)
        return {"weight": weight, "scale": scale.float()}
    flat = F.pad(matrix_OI.reshape(1, -1), (0, -matrix_OI.numel() % BLOCK))
    packed, state = library.quantize_4bit(flat, blocksize=BLOCK, compress_statistics=True, quant_type="nf4")
    return {
        "weight": packed.reshape(-1),
        "scale": state.absmax,
        "outer_scale": state.state2.absmax.float(),
        "offset": state.offset.float().reshape(()),
    }


def dequantise(parts: Mapping[str, Tensor], kind: Kind, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """The matrix (outputs, inputs) again, in `dtype`."""
    if kind == "int8":
        return (parts["weight"].float() * (parts["scale"] / 127.0)[:, None]).to(dtype)
    library, device = _library(), parts["weight"].device
    outer = library.QuantState(
        absmax=parts["outer_scale"], code=_levels("scales", device), blocksize=OUTER_BLOCK, dtype=torch.float32
    )
    count = shape[0] * shape[1]
    state = library.QuantState(
        absmax=parts["scale"],
        shape=torch.Size((1, len(parts["weight"]) * 2)),
        code=_levels("nf4", device),
        blocksize=BLOCK,
        quant_type="nf4",
        dtype=dtype if dtype in (torch.float16, torch.bfloat16) else torch.float32,
        offset=parts["offset"],
        state2=outer,
    )
    flat = library.dequantize_4bit(parts["weight"].reshape(-1, 1), quant_state=state)
    return flat.view(-1)[:count].view(shape).to(dtype)


def shapes(kind: Kind, outputs: int, inputs: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of each tensor that `quantise` makes of a matrix (outputs, inputs)."""
    if kind == "int8":
        return {"weight": ((outputs, inputs), torch.int8), "scale": ((outputs,), torch.float32)}
    num_blocks = -(-outputs * inputs // BLOCK)
    return {
        "weight": ((num_blocks * BLOCK // 2,), torch.uint8),
        "scale": ((num_blocks,), torch.uint8),
        "outer_scale": ((-(-num_blocks // OUTER_BLOCK),), torch.float32),
        "offset": ((), torch.float32),
    }


class QuantLinear(nn.Linear):
    """A frozen linear layer: y = x W^T + b with W dequantised for the product and again for its gradient.

    It is an nn.Linear by type, so that PEFT adapts it, but its `weight` is the packed matrix. transposed: it stands for
    GPT-2's Conv1D, whose matrix lies the other way round.
    """

    def __init__(self, inputs: int, outputs: int, kind: Kind, *, bias: Tensor | None, transposed: bool) -> None:
        nn.Module.__init__(self)  # not nn.Linear's, which makes a full matrix
        self.in_features, self.out_features, self.kind, self.transposed = inputs, outputs, kind, transposed
        for name, (shape, dtype) in shapes(kind, outputs, inputs).items():
            empty = torch.empty(shape, dtype=dtype, device="meta")
            if name == "weight":
                self.register_parameter(name, nn.Parameter(empty, requires_grad=False))
            else:
                self.register_buffer(name, empty)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))

    def fill(self, parts: Mapping[str, Tensor]) -> QuantLinear:
        """Take the tensors that `quantise` made."""
        self.weight = nn.Parameter(parts["weight"], requires_grad=False)
        for name in self.scales():
            setattr(self, name, parts[name])
        return self

    def scales(self) -> list[str]:
        """Names of the tensors beside `weight`."""
        return [name for name in shapes(cast(Kind, self.kind), 1, 1) if name != "weight"]

    def matrix(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """W (outputs, inputs), dequantised."""
        parts = {"weight": self.weight.detach()} | {name: getattr(self, name) for name in self.scales()}
        return dequantise(parts, cast(Kind, self.kind), (self.out_features, self.in_features), dtype)

    def forward(self, input: Tensor) -> Tensor:
        """x W^T + b, in the input's dtype (under autocast, in that of autocast)."""
        kind = input.device.type
        if torch.is_autocast_enabled(kind):
            input = input.to(torch.get_autocast_dtype(kind))
        out = _Product.apply(input, self)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def plain(self) -> nn.Linear:
        """An ordinary linear layer with the dequantised matrix, in float32."""
        return _linear(_Turned if self.transposed else nn.Linear, self)

    def extra_repr(self) -> str:
        """What a print of the model shows."""
        return f"{self.in_features}, {self.out_features}, {self.kind}"


class _Product(torch.autograd.Function):
    """x W^T without keeping W: only the layer is remembered, and dequantised again for dx = dy W."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: QuantLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(input, layer.matrix(input.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.layer.matrix(grads[0].dtype), None


def place(model: Model, kind: Kind) -> Iterator[tuple[str, QuantLinear, nn.Module]]:
    """Put an empty QuantLinear in the place of every linear layer of the decoder stack.

    Yields:
        Its full name, the layer to be filled, and the one it stands for.
    """
    stack = layers.decoder_layers(model)
    inside = {id(module) for layer in stack for module in layer.modules()}
    for name, old in list(layers.linear_layers(model).items()):
        if id(old) not in inside:
            continue
        inputs, outputs = layers.linear_shape(old)
        transposed = not isinstance(old, nn.Linear)
        bias = cast(Any, old).bias
        new = QuantLinear(inputs, outputs, kind, bias=bias, transposed=transposed)
        _replace(model, name, new)
        yield name, new, old


def quantised_layers(model: nn.Module) -> list[tuple[str, QuantLinear]]:
    """Every quantised layer by its full name."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, QuantLinear)]


class _Turned(nn.Linear):
    """A linear layer that was a Conv1D; it becomes one again once an adapter is merged into it."""

    def back(self) -> nn.Module:
        """The Conv1D of transformers, with the same numbers."""
        from transformers.pytorch_utils import Conv1D

        with torch.device("meta"):
            layer = Conv1D(self.out_features, self.in_features)
        layer.weight = nn.Parameter(self.weight.detach().T.contiguous(), requires_grad=False)
        layer.bias = nn.Parameter(self.bias.detach(), requires_grad=False)
        return layer


def _linear(kind: type[nn.Linear], layer: QuantLinear) -> nn.Linear:
    with torch.device("meta"):
        made = kind(layer.in_features, layer.out_features, bias=layer.bias is not None)
    made.weight = nn.Parameter(layer.matrix(), requires_grad=False)
    if layer.bias is not None:
        made.bias = nn.Parameter(layer.bias.detach().float(), requires_grad=False)
    return made


def make_plain(model: nn.Module) -> None:
    """Put a linear layer with the dequantised matrix in the place of every quantised one."""
    for name, layer in quantised_layers(model):
        _replace(model, name, layer.plain())


def turn_back(model: nn.Module) -> None:
    """After `make_plain` and a merge: what was a Conv1D is one again."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, _Turned):
            _replace(model, name, layer.back())


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, layer)


def _logps(model: nn.Module, text: list[int]) -> Tensor:
    """(T, V) log-probabilities in float64, on the CPU."""
    place = next((p.device for p in model.parameters()), None)
    ids_BT = torch.tensor([text], device=place)
    return torch.log_softmax(cast(Any, model)(input_ids=ids_BT, use_cache=False).logits[0].cpu().double(), -1)


@torch.no_grad()
def mean_kl(reference: nn.Module, model: nn.Module, ids: list[list[int]]) -> tuple[float, int]:
    """Mean over positions of KL(reference || model) of the next-token distributions, in nats: sum_v p (log p - log q).

    Args:
        reference, model: causal models with one vocabulary. ids: token ids, a list a text.

    Returns:
        The mean and the number of positions.
    """
    total, count = 0.0, 0
    for text in ids:
        logp_TV, logq_TV = (_logps(one, text) for one in (reference, model))
        total += float((logp_TV.exp() * (logp_TV - logq_TV)).sum())
        count += len(text)
    return total / max(1, count), count
