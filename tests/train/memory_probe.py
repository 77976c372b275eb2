"""Memory of the loss, of optimizer states and of saved activations: `python -m tests.train.memory_probe FOLDER`.

A process of its own, which prints one JSON object of bytes. Run it with MALLOC_MMAP_THRESHOLD_ set, so that what is
freed is given back at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from bottega.models import heads
from bottega.models.heads import Head
from bottega.train import offload, optim
from bottega.train.rules import Hyper

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
VOCABULARY, WIDTH = 16_000, 16
SHORT, LONG = 512, 3072


def held(name: str) -> float:
    """A line of /proc/self/status in bytes: VmRSS (now), VmHWM (its peak), RssAnon (what no file backs)."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return float(line.split()[1]) * 1024


def peak_of(work: Callable[[], None]) -> float:
    """Bytes by which resident memory grew at most during `work`."""
    CLEAR.write_text("5")  # the peak begins anew
    before = held("VmRSS")
    work()
    return held("VmHWM") - before


def loss_and_gradient(kind: str, positions: int, layer: torch.nn.Linear) -> None:
    """One loss over `positions` and its gradient."""
    hidden = torch.randn(positions, WIDTH, requires_grad=True)
    labels, ones = torch.arange(positions) % VOCABULARY, torch.ones(positions)
    head = Head(kind="linear")
    if kind == "plain":
        torch.nn.functional.cross_entropy(layer(hidden), labels).backward()
    elif kind == "entropy":
        heads.token_entropy(hidden, layer, head, 256).sum().backward()
    else:
        weights = ones if kind == "nll" else ones / 2
        heads.nll_total(hidden, layer, head, labels, weights, 256).backward()


def states(place: str, folder: Path) -> float:
    """Anonymous bytes that AdamW's states of 8 million weights take."""
    weight = torch.nn.Parameter(torch.zeros(8_000_000))
    weight.grad = torch.ones_like(weight)
    before = held("RssAnon")
    store = offload.make_store(place, folder)
    optimizer = optim.make("adamw", [{"params": [weight]}], lr=1e-3, weight_decay=0, hyper=Hyper(), store=store)
    optimizer.step()
    return held("RssAnon") - before


def activations(place: str, folder: Path) -> tuple[float, torch.Tensor]:
    """Anonymous bytes that ten exponentials, each of which saves its result of 16 MB, hold for the backward pass; the gradient."""
    x = torch.linspace(0, 1e-3, 4_000_000).requires_grad_()
    keeping = offload.activations(place, folder, [])
    before = held("RssAnon")
    with keeping():
        y = x
        for _ in range(10):
            y = (y * 0.1).exp()
    grown = held("RssAnon") - before
    y.sum().backward()
    assert x.grad is not None
    return grown, x.grad


def main() -> None:
    """Everything once."""
    folder = Path(sys.argv[1])
    layer = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)
    found: dict[str, float] = {}
    for kind in ("nll", "weighted", "entropy", "plain"):
        loss_and_gradient(kind, SHORT, layer)  # whatever is set up once
        for positions in (SHORT, LONG):
            found[f"{kind} {positions}"] = peak_of(lambda n=positions, k=kind: loss_and_gradient(k, n, layer))
    for place in ("device", "file"):
        found[f"states {place}"] = states(place, folder)
    gradients = []
    for place in ("device", "file"):
        found[f"activations {place}"], gradient = activations(place, folder)
        gradients.append(gradient)
    assert torch.equal(*gradients)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
