"""Several tensors into one: linear, SLERP, task arithmetic, TIES and DARE, as pure functions, and the table of their names.

Left out: files and adapters (blend_files.py, blend_adapters.py).

A task vector is tau_i = theta_i - theta_0: what tuning added to the common start theta_0. TIES trims over all of a vector's tensors, as
the paper does; two passes find the magnitude from which on entries stay, so that models larger than memory can be merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from bottega.core.errors import UserError

Blend = Callable[..., Tensor]


def linear(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted sum: theta = sum_i w_i theta_i (model soups, arXiv 2203.05482, with weights that sum to 1).

    >>> linear([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])], [0.5, 0.5])
    tensor([2., 4.])
    """
    out = torch.zeros_like(tensors[0])
    for tensor, weight in zip(tensors, weights, strict=True):
        out += weight * tensor
    return out


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Walk the arc from `a` (t = 0) to `b` (t = 1), so that the length does not sag in the middle as on the straight line.

    theta = sin((1 - t) W) / sin W * a + sin(t W) / sin W * b, where cos W = <a, b> / (|a| |b|) (Shoemake 1985, section 3.3).
    Where the two are parallel, opposite or zero the arc is not defined and the straight line is taken.
    """
    norms = a.double().norm() * b.double().norm()
    cosine = float((a.double() * b.double()).sum() / norms) if float(norms) > 0 else 1.0
    if abs(cosine) > 1 - 1e-9:
        return (1 - t) * a + t * b
    angle = torch.acos(torch.tensor(cosine, dtype=torch.float64))
    first, second = torch.sin((1 - t) * angle) / torch.sin(angle), torch.sin(t * angle) / torch.sin(angle)
    return float(first) * a + float(second) * b


def task_arithmetic(base: Tensor, tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Add what each tuning added: theta = theta_0 + sum_i w_i (theta_i - theta_0) (arXiv 2212.04089, section 2)."""
    return base + linear([tensor - base for tensor in tensors], weights)


def least_kept(chunks: Callable[[], Iterable[Tensor]], density: float) -> float:
    """The magnitude from which on a task vector's entries are among the largest `density` of them all, exactly, in float32.

    Args:
        chunks: gives the vector's tensors, in any order; asked twice, so that no two of them need be held. The bits of a float that is
            not negative order as the number does: the first pass counts by the upper 16, the second within the bin that decides.
    """
    upper = torch.zeros(1 << 15, dtype=torch.int64)
    for tensor in chunks():
        upper += torch.bincount(_bits(tensor) >> 16, minlength=1 << 15)
    total = int(upper.sum())
    keep = max(1, round(density * total)) if total else 0
    if keep >= total:
        return 0.0
    above = upper.flip(0).cumsum(0).flip(0)  # entries in this bin or higher
    place = int((above >= keep).nonzero()[-1])
    left = keep - int(above[place] - upper[place])
    lower = torch.zeros(1 << 16, dtype=torch.int64)
    for tensor in chunks():
        bits = _bits(tensor)
        lower += torch.bincount(bits[bits >> 16 == place] & 0xFFFF, minlength=1 << 16)
    within = lower.flip(0).cumsum(0).flip(0)
    last = int((within >= left).nonzero()[-1])
    return float(torch.tensor([place << 16 | last], dtype=torch.int32).view(torch.float32)[0])


def _bits(tensor: Tensor) -> Tensor:
    return tensor.float().abs().flatten().view(torch.int32)


def trim(tau: Tensor, least: float) -> Tensor:
    """The entries of at least this magnitude; the others become 0 (TIES, step 1)."""
    return torch.where(tau.float().abs() >= least, tau, 0.0)


def ties(base: Tensor, tensors: Sequence[Tensor], weights: Sequence[float], *, least: Sequence[float]) -> Tensor:
    """Trim each task vector, elect one sign a number, average those that agree (arXiv 2306.01708, algorithm 1).

    gamma = sgn(sum_i w_i tau_i); theta = theta_0 + (sum over {i: sgn tau_i = gamma} of w_i tau_i) / (sum of those w_i). With equal
    weights that is the paper's disjoint mean with lambda = 1.

    Args:
        least: for each task vector the magnitude from which on its entries stay (`least_kept` over all its tensors); equal ones at
            the edge all stay.
    """
    taus = torch.stack([trim(tensor - base, bound) for tensor, bound in zip(tensors, least, strict=True)])
    shares = torch.tensor(list(weights), dtype=taus.dtype).view(-1, *[1] * base.dim())
    elected = (shares * taus).sum(0).sign()
    agrees = (taus.sign() == elected) & (elected != 0)
    total = (shares * agrees).sum(0)
    merged = (shares * taus * agrees).sum(0) / torch.where(total == 0, 1.0, total)
    return base + merged


def dare(
    base: Tensor, tensors: Sequence[Tensor], weights: Sequence[float], *, density: float = 0.5, seed: int = 0
) -> Tensor:
    """Drop entries of each task vector at random and rescale the rest, so that each keeps its mean (arXiv 2311.03099, section 3.2).

    theta = theta_0 + sum_i w_i m_i tau_i / density, m_i ~ Bernoulli(density).

    Args:
        density: the share that stays, above 0 to 1. seed: of the masks; the same seed gives the same masks.
    """
    random = torch.Generator().manual_seed(seed)
    taus = []
    for tensor in tensors:
        mask = torch.rand(base.shape, generator=random) < density
        taus.append((tensor - base) * mask / density)
    return base + linear(taus, weights)


METHODS = {
    "linear": "weighted sum; needs no base",
    "slerp": "the arc between two; needs no base",
    "task_arithmetic": "base plus the weighted differences",
    "ties": "trim, elect signs, average what agrees",
    "dare": "drop at random and rescale",
}
NEED_BASE = ("task_arithmetic", "ties", "dare")


def check(method: str, weights: Sequence[float], density: float) -> None:
    """Refuse a combination that has no meaning.

    Raises:
        UserError: an unknown method, a weight or density out of range, SLERP of other than two.
    """
    if method not in METHODS:
        raise UserError(f"there is no merge method {method!r}; there are: {', '.join(METHODS)}")
    if not 0 < density <= 1:
        raise UserError(f"density {density} is outside 0 to 1; TIES keeps 0.2, DARE 0.5")
    if any(not abs(weight) < 1e6 for weight in weights):
        raise UserError(f"the weights {list(weights)} are not all finite numbers below 1e6; 0 to 1 is usual")
    if method == "slerp" and (len(weights) != 2 or min(weights) < 0 or sum(weights) <= 0):
        raise UserError(f"slerp goes between two models with weights of at least 0, not {list(weights)}; use linear")
    if method == "ties" and min(weights) <= 0:
        raise UserError(f"ties needs weights above 0, not {list(weights)}; subtract with task_arithmetic")


def blend(  # noqa: PLR0913
    method: str,
    base: Tensor | None,
    tensors: Sequence[Tensor],
    weights: Sequence[float],
    *,
    density: float,
    seed: int,
    least: Sequence[float] = (),
) -> Tensor:
    """One tensor by the method's name; SLERP's t is the second weight's share of both, `least` what TIES keeps of each."""
    if method == "slerp":
        return slerp(tensors[0], tensors[1], weights[1] / sum(weights))
    if method == "linear":
        return linear(tensors, weights)
    assert base is not None
    if method == "ties":
        return ties(base, tensors, weights, least=least)
    if method == "dare":
        return dare(base, tensors, weights, density=density, seed=seed)
    return task_arithmetic(base, tensors, weights)
