"""From a rehearsal to the memory of a run: what each part holds, the moments that compete for the peak, and what the
process takes.

Left out: time (plan_time.py). Everything here is arithmetic on numbers; bytes throughout.

A run's peak is that of its worst moment. The moments are: reading the weights, the self-check, a training step, and
folding an adapter into its base at the end. On a CPU the process is larger than its tensors by what the allocator keeps:
`Fit`, measured.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bottega.workshop.plan_rehearsal import Rehearsal, Work

Shape = tuple[int, ...]
MOST_CHURNING = 4.0
"""Micro-batches after which the heap has grown as it will (the calibration table holds up to four)."""
CHECK_BYTES = 3 * 8 * 1020 * 256
"""What the self-check's fingerprints hold for a moment: three pieces of 64-bit numbers."""
NF4_BITS, INT8_BITS = 4.127, 8.0
"""A weight in NF4: 4 bits, 8 / 64 for its block's scale and 32 / (64 * 256) for that one's (arXiv 2305.14314, section 3);
int8: 8 bits and a scale a row, which is left out."""


def _moments(numbers: int) -> Callable[[Shape], float]:
    return lambda shape: 4.0 * numbers * math.prod(shape)


def _eight_bit(shape: Shape) -> float:
    """Two moments of a byte each and a scale for 256 of them; small tensors stay in fp32."""
    count = math.prod(shape)
    return 8.0 * count if count < 4096 else 2.0 * count * (1 + 4 / 256)


def _factored(shape: Shape) -> float:
    """Adafactor: a row and a column of second moments instead of a matrix (arXiv 1804.04235, section 3)."""
    return 4.0 * (math.prod(shape[:-1]) + math.prod(shape) / shape[-2] if len(shape) > 1 else math.prod(shape))


def _muon(shape: Shape) -> float:
    """Momentum for matrices; AdamW's two moments for the rest."""
    return 4.0 * math.prod(shape) * (1 if len(shape) == 2 else 2)


STATES: dict[str, Callable[[Shape], float]] = {
    "adamw": _moments(2),
    "adamw8bit": _eight_bit,
    "lion": _moments(1),
    "muon": _muon,
    "adafactor": _factored,
    "schedule_free": _moments(2),
    "sgd": _moments(1),
}
"""Optimizer -> bytes of its state for a parameter of a shape."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What a stage needs. All but the names are linear in a model's depth, so two depths give every other.

    weights: as trained (quantised or streamed ones smaller); read: bytes of weight files that are mapped while they are
    read; rest as in Rehearsal.
    """

    weights: float
    read: float
    largest: float
    trainable: float
    total: float
    gradients: float
    states: float
    first_peak: float
    later_peak: float
    churn: float
    head: float
    forward: Work
    work: Work
    tokens: float


def needs_of(r: Rehearsal, *, optimizer: str, file_bytes_each: float, dtype_bytes: float = 4.0) -> Needs:
    """What a rehearsed stage needs with an optimizer.

    Args:
        file_bytes_each: bytes a weight takes on disk; where it is what memory takes, the file itself is mapped and nothing
        is read twice.
    """
    masters = 4.0 * r.trainable if dtype_bytes < 4 else 0.0  # a copy in fp32 that the optimizer moves
    states = total_states(r.learning, r.tables, optimizer) + masters
    return Needs(
        weights=r.weights,
        read=0.0 if file_bytes_each == dtype_bytes else r.total * file_bytes_each,
        largest=r.largest,
        trainable=r.trainable,
        total=r.total,
        gradients=r.gradients,
        states=states,
        first_peak=r.first_peak,
        later_peak=r.later_peak,
        churn=r.churn,
        head=r.head,
        forward=r.forward,
        work=r.work,
        tokens=r.tokens,
    )


def deeper(low: Needs, high: Needs, *, at: tuple[int, int], depth: int) -> Needs:
    """The needs at `depth` layers, on the line through two depths.

    >>> from bottega.workshop.plan_rehearsal import Work
    >>> one = Needs(**dict.fromkeys((f.name for f in dataclasses.fields(Needs)), 10.0) | {"forward": Work(), "work": Work(bytes=4.0)})
    >>> two = Needs(**dict.fromkeys((f.name for f in dataclasses.fields(Needs)), 12.0) | {"forward": Work(), "work": Work(bytes=5.0)})
    >>> found = deeper(one, two, at=(2, 3), depth=6)  # 10 + 4 * 2, 4 + 4 * 1
    >>> found.weights, found.work.bytes
    (18.0, 8.0)
    """
    share = (depth - at[0]) / (at[1] - at[0])

    def on_line(a: float, b: float) -> float:
        return a + (b - a) * share

    values: dict[str, Any] = {}
    for field in dataclasses.fields(Needs):
        a, b = getattr(low, field.name), getattr(high, field.name)
        values[field.name] = _deeper_work(a, b, on_line) if isinstance(a, Work) else on_line(a, b)
    values |= {"largest": max(low.largest, high.largest), "tokens": low.tokens, "head": low.head}
    return Needs(**values)


def _deeper_work(a: Work, b: Work, on_line: Callable[[float, float], float]) -> Work:
    sizes = {*a.products, *b.products}
    return Work(
        products={size: on_line(a.products.get(size, 0.0), b.products.get(size, 0.0)) for size in sizes},
        attention=on_line(a.attention, b.attention),
        bytes=on_line(a.bytes, b.bytes),
        kernels=on_line(a.kernels, b.kernels),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """How much larger a process is than its tensors, measured on this kind of device.

    bytes = constant + factor * tensors + churn * (bytes allocated in a step). On a CPU the C library's heap keeps gaps: an
    aligned block that was freed does not hold the next one of its size (measured: glibc 2.36; with every block mapped the
    excess is gone, and the time half as much again).
    """

    constant: float
    factor: float
    churn: float = 0.0

    def of(self, tensors: float, churn: float = 0.0) -> float:
        """Bytes of the process above a bare interpreter with everything imported.

        >>> Fit(constant=10, factor=1, churn=0.1).of(100, 50)
        115.0
        """
        return self.constant + self.factor * tensors + self.churn * churn


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes by part at the worst moment, and of each moment. tensors: the peak; process: with the allocator's share and the
    interpreter."""

    parts: dict[str, float]
    moments: dict[str, float]
    worst: str
    tensors: float
    process: float


def memory_of(
    needs: Needs,
    *,
    micro_batches: float,
    merges: bool,
    self_check: bool,
    kept: float = 0.0,
    fit: Fit,
    interpreter: float,
) -> Memory:
    """The peak of a stage.

    Args:
        micro_batches: a step; from the second on, all gradients are there while activations grow. merges: an adapter is
        folded in at the
            end, in a copy of the model. kept: rows and cached reference log-probabilities.
    """
    step = max(needs.first_peak, needs.later_peak if micro_batches > 1 else 0.0)
    moments = {
        "reading the weights": needs.weights + needs.read,
        "a training step": needs.weights + needs.states + step,
    }
    if self_check:
        moments["the self-check"] = needs.weights + needs.states + min(CHECK_BYTES, 6 * needs.largest)
    if merges:
        moments["merging"] = 2 * needs.weights + needs.states + needs.largest
    moments = {name: value + kept for name, value in moments.items()}
    worst = max(moments, key=lambda name: moments[name])
    tensors = moments[worst]
    parts = {"weights": needs.weights}
    if worst in ("a training step", "the self-check", "merging"):
        parts["optimizer states"] = needs.states
    if worst == "a training step":
        head = min(needs.head, max(0.0, step - needs.gradients))
        parts |= {"gradients": min(needs.gradients, step), "logits": head}
        parts["activations"] = max(0.0, step - parts["gradients"] - head)
    parts["rows and caches"] = kept
    named = sum(parts.values())
    if tensors - named > 0.5:
        parts[worst] = tensors - named
    process = fit.of(tensors, needs.churn * min(MOST_CHURNING, max(1.0, micro_batches)))
    parts |= {"allocator": process - tensors, "interpreter": interpreter}
    return Memory(parts=parts, moments=moments, worst=worst, tensors=tensors, process=process + interpreter)


def quantised(
    needs: Needs, *, linear_numbers: float, largest_linear: float, kind: str, weight_bytes: float = 4.0
) -> Needs:
    """The same stage on a base whose decoder's linear layers are kept in 4 or 8 bits (a frozen one).

    Args:
        linear_numbers: weights in those layers. largest_linear: bytes of the largest, which is dequantised when used. weight_bytes:
            of a weight before.
    """
    bits = {"nf4": NF4_BITS, "int8": INT8_BITS}[kind]
    saved = linear_numbers * (weight_bytes - bits / 8)
    extra = 2 * largest_linear
    return dataclasses.replace(
        needs,
        weights=needs.weights - saved,
        first_peak=needs.first_peak + extra,
        later_peak=needs.later_peak + extra,
    )


def streamed(needs: Needs, *, layers_bytes: float, num_layers: int) -> Needs:
    """The same stage with frozen layers on disk: two slots of one layer each in memory. (The caller rehearsed it with
    checkpointing, which is what streaming computes.)"""
    return dataclasses.replace(needs, weights=needs.weights - layers_bytes * (1 - 2 / max(2, num_layers)), read=0.0)


def total_states(shapes: Sequence[Shape], tables: Sequence[Shape], optimizer: str) -> float:
    """Bytes of an optimizer's state over parameters of these shapes; Muon leaves the vocabulary's tables to AdamW."""
    of = STATES[optimizer]
    return sum(map(of, shapes)) + sum(map(STATES["adamw"] if optimizer == "muon" else of, tables))
