"""From the work of a step to seconds: a device's rates, and how real steps compare with them.

Left out: measuring rates (calibrate.py). Everything here is arithmetic on numbers.

t(step) = sum over terms of a_i * t_i, where t_i is the work of a kind divided by the device's rate for it: matrix products
by their smallest dimension, attention, everything else by the bytes it moves, and a fixed price for each call. The a_i are what
real steps showed over these (calibration.json): 1 would mean that a step runs each kind of work as fast as the
micro-benchmark did.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bottega.workshop.plan_rehearsal import Work

TERMS = ("products", "attention", "bytes", "calls", "step")
ITERATIONS = 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What a device does in a second. products: FLOP/s by the smallest dimension of a matrix product; attention: FLOP/s;
    bytes: B/s of element-wise work; call_s: seconds a call."""

    products: Mapping[int, float]
    attention: float
    bytes: float
    call_s: float

    def product(self, size: int) -> float:
        """FLOP/s of products whose smallest dimension is `size`: on the line between measured sizes (in logarithms)."""
        known = sorted(self.products)
        if size <= known[0]:
            return self.products[known[0]] * size / known[0]
        if size >= known[-1]:
            return self.products[known[-1]]
        above = next(k for k in known if k >= size)
        below = max(k for k in known if k <= size)
        if above == below:
            return self.products[size]
        share = math.log(size / below) / math.log(above / below)
        return math.exp((1 - share) * math.log(self.products[below]) + share * math.log(self.products[above]))

    def to_json(self) -> dict[str, object]:
        """As written to a file."""
        products = {str(size): rate for size, rate in self.products.items()}
        return {"products": products, "attention": self.attention, "bytes": self.bytes, "call_s": self.call_s}

    @staticmethod
    def from_json(data: Mapping[str, object]) -> Rates:
        """As read from a file."""
        products: Mapping[str, float] = data["products"]  # type: ignore[assignment]
        return Rates(
            products={int(size): float(rate) for size, rate in products.items()},
            attention=float(data["attention"]),  # type: ignore[arg-type]
            bytes=float(data["bytes"]),  # type: ignore[arg-type]
            call_s=float(data["call_s"]),  # type: ignore[arg-type]
        )


def terms(work: Work, rates: Rates, *, steps: float = 1.0) -> dict[str, float]:
    """Seconds of each kind of work at a device's rates; `step` counts optimizer steps, whose fixed price is fitted.

    >>> rates = Rates(products={64: 100.0, 256: 400.0}, attention=50.0, bytes=10.0, call_s=0.5)
    >>> terms(Work(products={64: 200.0, 256: 400.0}, attention=100.0, bytes=20.0, kernels=4), rates)
    {'products': 3.0, 'attention': 2.0, 'bytes': 2.0, 'calls': 2.0, 'step': 1.0}
    """
    return {
        "products": sum(flops / rates.product(size) for size, flops in work.products.items()),
        "attention": work.attention / rates.attention,
        "bytes": work.bytes / rates.bytes,
        "calls": work.kernels * rates.call_s,
        "step": steps,
    }


def seconds(found: Mapping[str, float], factors: Mapping[str, float]) -> float:
    """The weighted sum of `terms`."""
    return sum(found[name] * factors[name] for name in TERMS)


def fit(examples: Sequence[Mapping[str, float]], measured: Sequence[float], names: Sequence[str]) -> dict[str, float]:
    """Factors of the parts called `names` that make the least relative squares error, none of them negative.

    minimise sum over runs of ((sum_i a_i t_i - t) / t)^2, a_i >= 0: coordinate descent, which ends at the optimum of a
    convex problem.
    """
    t = np.asarray(measured)
    x = np.asarray([[one[name] for name in names] for one in examples]) / t[:, None]
    gram, wanted, factors = x.T @ x, x.sum(0), np.zeros(len(names))
    for _ in range(ITERATIONS):
        before = factors.copy()
        for i in range(len(names)):
            if gram[i, i] > 0:
                factors[i] = max(0.0, factors[i] + (wanted[i] - gram[i] @ factors) / gram[i, i])
        if np.abs(factors - before).max() < 1e-12:
            break
    return dict(zip(names, factors.tolist(), strict=True))
