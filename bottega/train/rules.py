"""Update rules: a parameter, its gradient and its state in, both changed in place; nothing here knows a model or a file.

Left out: which parameter has which rule, where states live, fp32 copies of bf16 weights (optim.py, offload.py). A
rule's state is a dict of tensors, counters included, so that a checkpoint is those tensors and a resumed run goes on
bit for bit.

Legend: w weights, g gradient, m and v running means of g and g^2, t the step (from 1), b1 and b2 the betas, lr the
rate, d weight decay.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from bottega.core.errors import UserError

States = Sequence[dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hyper:
    """What rules may read: beta1, beta2 and eps (Adam and kin; SGD's momentum is beta1); momentum: Muon's."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    momentum: float = 0.95


class Rule(Protocol):
    """How weights follow gradients. `average`, where a rule has it, gives the weights to evaluate and to keep."""

    def start(self, weights: Tensor) -> dict[str, Tensor]:
        """The state before the first step."""

    def step(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor], states: States, *, lr: float, weight_decay: float
    ) -> None:
        """One step of every tensor of `weights`, in place."""


def _counter() -> Tensor:
    return torch.zeros((), dtype=torch.float32)


@dataclass(frozen=True, slots=True)
class AdamW:
    """Steps of about lr in every weight, by mean over root mean square of its gradient.

    w <- (1 - lr d) w - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2; torch's fused kernel.) State: 8 bytes a weight.
    """

    hyper: Hyper

    def start(self, weights: Tensor) -> dict[str, Tensor]:
        return {
            "step": _counter(),
            "exp_avg": torch.zeros_like(weights),
            "exp_avg_sq": torch.zeros_like(weights),
        }

    def step(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor], states: States, *, lr: float, weight_decay: float
    ) -> None:
        steps = [state["step"] for state in states]
        if weights[0].device.type != "cpu":  # where the kernel counts a copy: one way there for all
            steps = list(torch.stack(steps).to(weights[0].device).unbind())
        adamw(
            list(weights),
            list(gradients),
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=self.hyper.beta1,
            beta2=self.hyper.beta2,
            lr=lr,
            weight_decay=weight_decay,
            eps=self.hyper.eps,
            maximize=False,
        )
        for step, state in zip(steps, states, strict=True):
            if step is not state["step"]:
                state["step"] += 1


@dataclass(frozen=True, slots=True)
class AdamW8bit:
    """AdamW whose means are kept in 8 bits, blocks of 256 with one scale each (Dettmers et al. 2022, arXiv
    2110.02861; bitsandbytes).

    Tensors of fewer than 4,096 weights keep 32 bits, as there. State: 2.03 bytes a weight.
    """

    hyper: Hyper
    small = 4096
    block = 256

    def start(self, weights: Tensor) -> dict[str, Tensor]:
        if weights.numel() < self.small:
            return AdamW(self.hyper).start(weights)
        blocks = -(-weights.numel() // self.block)
        state = {"step": _counter()}
        for number in (1, 2):
            state[f"state{number}"] = torch.zeros(weights.shape, dtype=torch.uint8, device=weights.device)
            state[f"absmax{number}"] = torch.zeros(blocks, dtype=torch.float32, device=weights.device)
        return state

    def step(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor], states: States, *, lr: float, weight_decay: float
    ) -> None:
        functional = bitsandbytes()
        for w, g, state in zip(weights, gradients, states, strict=True):
            if "state1" not in state:
                AdamW(self.hyper).step([w], [g], [state], lr=lr, weight_decay=weight_decay)
                continue
            state["step"] += 1
            maps = _maps(w.device)
            functional.optimizer_update_8bit_blockwise(
                "adam",
                g.contiguous(),
                w,
                state["state1"],
                state["state2"],
                self.hyper.beta1,
                self.hyper.beta2,
                0.0,
                0.0,
                self.hyper.eps,
                int(state["step"]),
                lr,
                maps[0],
                maps[1],
                state["absmax1"],
                state["absmax2"],
                weight_decay,
            )


def bitsandbytes() -> Any:
    """The library of 8-bit kernels.

    Raises:
        UserError: it is not installed.
    """
    try:
        import bitsandbytes.functional as functional
    except ImportError as error:
        raise UserError(
            "optimizer adamw8bit needs bitsandbytes, which is not installed: pip install 'bottega[quant]', or write adamw"
        ) from error
    return functional


@functools.cache
def _maps(device: torch.device) -> tuple[Tensor, Tensor]:
    """The 256 values that 8 bits stand for, with sign (m) and without (v)."""
    functional = bitsandbytes()
    signed, plain = functional.create_dynamic_map(signed=True), functional.create_dynamic_map(signed=False)
    return signed.to(device), plain.to(device)


@dataclass(frozen=True, slots=True)
class Lion:
    """Every weight moves by lr, in the direction of a mean of gradients.

    w <- w - lr (sign(b1 m + (1 - b1) g) + d w);  m <- b2 m + (1 - b2) g

    (Chen et al. 2023, arXiv 2302.06675, algorithm 2; its betas are 0.9 and 0.99, its lr 3 to 10 times below AdamW's.)
    State: 4 bytes a weight.
    """

    hyper: Hyper

    def start(self, weights: Tensor) -> dict[str, Tensor]:
        return {"exp_avg": torch.zeros_like(weights)}

    def step(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor], states: States, *, lr: float, weight_decay: float
    ) -> None:
        for w, g, state in zip(weights, gradients, states, strict=True):
            direction = state["exp_avg"].lerp(g, 1 - self.hyper.beta1).sign_()
            w.mul_(1 - lr * weight_decay).add_(direction, alpha=-lr)
            state["exp_avg"].lerp_(g, 1 - self.hyper.beta2)


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic a x + b x^3 + c x^5 that takes singular values in (0, 1] to about 1 (0.7 to 1.2) in five steps."""


def orthogonal(matrix: Tensor, *, steps: int = 5) -> Tensor:
    """About U V^T of `matrix` = U S V^T: all singular values near 1.

    X <- a X + (b X X^T + c (X X^T)^2) X, from X = matrix / its norm. (Jordan et al. 2024, Muon, the Newton-Schulz
    iteration.) In the matrix's own precision on a CPU, where bf16 products cost three times as much without bf16
    units; in bf16 on CUDA.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrix.to(torch.bfloat16) if matrix.is_cuda else matrix
    wide = matrix.shape[0] <= matrix.shape[1]
    x = x if wide else x.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.T).to(matrix.dtype)


@dataclass(frozen=True, slots=True)
class Muon:
    """The mean gradient of a matrix with all its singular values made equal: no direction is left behind.

    m <- mu m + (1 - mu) g;  w <- (1 - lr d) w - 0.2 sqrt(max(rows, columns)) lr orthogonal(mu m + (1 - mu) g)

    (Jordan et al. 2024; the factor of Liu et al. 2025, arXiv 2502.16982, section 2.2, gives steps of AdamW's size, so
    that one lr and one decay serve both.) For hidden matrices; the others are AdamW's. State: 4 bytes a weight.
    """

    hyper: Hyper

    def start(self, weights: Tensor) -> dict[str, Tensor]:
        return {"momentum_buffer": torch.zeros_like(weights)}

    def step(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor], states: States, *, lr: float, weight_decay: float
    ) -> None:
        mu = self.hyper.momentum
        for w, g, state in zip(weights, gradients, states, strict=True):
            state["momentum_buffer"].lerp_(g, 1 - mu)
            update = orthogonal(g.lerp(state["momentum_buffer"], mu))
            w.mul_(1 - lr * weight_decay).add_(update, alpha=-0.2 * math.sqrt(max(w.shape)) * lr)


@dataclass(frozen=True, slots=True)
class Adafactor:
    """AdamW without the mean of g, and with the mean of g^2 of a matrix kept as its rows' and columns' means only.

    v = rows columns^T / mean(rows);  u = g / sqrt(v);  w <- (1 - lr d) w - lr u / max(1, rms(u)),  b2 = 1 - t^-0.8

    (Shazeer and Stern 2018, arXiv 1804.04235, algorithm 4, with the rate from the schedule, not from the weights'
    size.) State: about nothing for a matrix (1 / rows + 1 / columns of 4 bytes a weight), 4 bytes a weight for a
    vector.
    """

    hyper: Hyper
    tiny = 1e-30

    def start(self, weights: Tensor) -> dict[str, Tensor]:
        if weights.ndim < 2:
            return {"step": _counter(), "exp_avg_sq": torch.zeros_like(weights)}
        return {
            "step": _counter(),
            "row": weights.new_zeros(weights.shape[:-1]),
            "column": weights.new_zeros(weights.shape[:-2] + weights.shape[-1:]),
        }

    def step(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor], states: States, *, lr: float, weight_decay: float
    ) -> None:
        for w, g, state in zip(weights, gradients, states, strict=True):
            state["step"] += 1
            fresh = float(state["step"]) ** -0.8
            square = g.square().add_(self.tiny)
            if "row" in state:
                row, column = state["row"].lerp_(square.mean(-1), fresh), state["column"].lerp_(square.mean(-2), fresh)
                scale = (row / row.mean(-1, keepdim=True)).rsqrt_()[..., None] * column.rsqrt()[..., None, :]
            else:
                scale = state["exp_avg_sq"].lerp_(square, fresh).rsqrt()
            update = scale.mul_(g)
            size = update.norm() / math.sqrt(update.numel())
            w.mul_(1 - lr * weight_decay).add_(update.div_(size.clamp(min=1.0)), alpha=-lr)


@dataclass(frozen=True, slots=True)
class ScheduleFree:
    """AdamW without a schedule: gradients are taken near the average of all steps, and the average is the result.

    y = (1 - b1) z + b1 x (the weights while training);  z <- z - lr (g / (sqrt(v / (1 - b2^t)) + eps) + d y);  x <-
    (1 - c) x + c z, c = lr^2 / sum of lr^2 so far (the largest lr so far: warm-up counts less)

    (Defazio et al. 2024, arXiv 2405.15682, algorithm 1.) State: 8 bytes a weight (z and v; x is (y - (1 - b1) z) / b1).
    """

    hyper: Hyper

    def start(self, weights: Tensor) -> dict[str, Tensor]:
        return {
            "step": _counter(),
            "lr_max": torch.zeros((), dtype=torch.float64),
            "weight_sum": torch.zeros((), dtype=torch.float64),
            "z": weights.detach().clone(),
            "exp_avg_sq": torch.zeros_like(weights),
        }

    def step(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor], states: States, *, lr: float, weight_decay: float
    ) -> None:
        b1, b2 = self.hyper.beta1, self.hyper.beta2
        for y, g, state in zip(weights, gradients, states, strict=True):
            state["step"] += 1
            state["lr_max"].clamp_(min=lr)
            share = float(state["lr_max"]) ** 2
            state["weight_sum"] += share
            state["exp_avg_sq"].mul_(b2).addcmul_(g, g, value=1 - b2)
            root = (state["exp_avg_sq"] / (1 - b2 ** float(state["step"]))).sqrt_().add_(self.hyper.eps)
            update = torch.div(g, root, out=root)
            if weight_decay:
                update.add_(y, alpha=weight_decay)
            c = share / max(float(state["weight_sum"]), 1e-300)
            y.add_(state["z"], alpha=b1 - 1)  # b1 x, with the z before the step
            state["z"].sub_(update, alpha=lr)
            y.mul_(1 - c).add_(state["z"], alpha=1 - b1 + b1 * c)

    def average(self, weights: Tensor, state: dict[str, Tensor]) -> Tensor:
        """x, of which `weights` hold y."""
        return weights.sub(state["z"], alpha=1 - self.hyper.beta1).div_(self.hyper.beta1)


@dataclass(frozen=True, slots=True)
class SGD:
    """Stochastic gradient descent with momentum b1: m <- b1 m + g + d w;  w <- w - lr m. State: 4 bytes a weight,
    none where b1 is 0."""

    hyper: Hyper

    def start(self, weights: Tensor) -> dict[str, Tensor]:
        return {"momentum_buffer": torch.zeros_like(weights)} if self.hyper.beta1 else {}

    def step(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor], states: States, *, lr: float, weight_decay: float
    ) -> None:
        for w, g, state in zip(weights, gradients, states, strict=True):
            step = g.add(w, alpha=weight_decay) if weight_decay else g
            if self.hyper.beta1:
                step = state["momentum_buffer"].mul_(self.hyper.beta1).add_(step)
            w.add_(step, alpha=-lr)
