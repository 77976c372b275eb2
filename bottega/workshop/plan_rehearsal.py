"""One training step on tensors without content: what it holds, at its peak, and what it computes, for any model from its config.

Left out: rows (plan_rows.py), what the numbers come to in bytes of a process and in seconds (plan_memory.py, plan_time.py).

The model's own code, the method and the optimizer run on fake tensors (shapes and lifetimes are real, there is no data), and
every operation is counted on its way. So no formula here knows a family: what a layer keeps for its backward pass is seen.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bottega.core.types import Attached, Row
from bottega.models import heads
from bottega.models.heads import Head
from bottega.models.layout import Layout, lay
from bottega.train import recompute
from bottega.train.settings import LoopSettings

HEAD_CHUNK = 256
"""Rows of logits that the Scorer holds at once."""
HEAD_BUFFERS = 3
"""Chunks of logits alive inside one chunk of the head: logits, their softmax, their gradient."""
MAPPED_BYTES = 32 * 2**20
"""Blocks from this size on are mapped and given back whole by the C library; smaller ones leave gaps in its heap."""
VIEWS = frozenset(
    "view _unsafe_view t transpose expand slice unsqueeze squeeze detach select permute alias split unbind as_strided "
    "reshape lift_fresh split_with_sizes".split()
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a micro-batch computes. products: FLOPs of matrix products by their smallest dimension (a power of two);
    attention: FLOPs inside attention kernels; bytes: read and written by everything else; kernels: calls."""

    products: dict[int, float] = field(default_factory=dict)
    attention: float = 0.0
    bytes: float = 0.0
    kernels: float = 0.0

    def scaled(self, *, tokens: float = 1.0, attention: float = 1.0, kernels: float = 1.0) -> Work:
        """The same with `tokens` times the products and bytes, `attention` times the attention, `kernels` times the calls."""
        return Work(
            products={size: flops * tokens for size, flops in self.products.items()},
            attention=self.attention * attention,
            bytes=self.bytes * tokens,
            kernels=self.kernels * kernels,
        )

    @property
    def flops(self) -> float:
        """All floating-point operations of products and attention."""
        return sum(self.products.values()) + self.attention

    def to_json(self) -> dict[str, Any]:
        """As written to a file."""
        products = {str(size): flops for size, flops in sorted(self.products.items())}
        return {"products": products, "attention": self.attention, "bytes": self.bytes, "kernels": self.kernels}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Work:
        """As read from a file."""
        products = {int(size): float(flops) for size, flops in data["products"].items()}
        return Work(products=products, attention=data["attention"], bytes=data["bytes"], kernels=data["kernels"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """What one micro-batch of a model needs, in bytes (and numbers of parameters).

    weights: the model's tensors, buffers too; largest: the biggest of them; trainable, total: numbers of parameters;
    gradients: what backward leaves behind; first_peak: the most that the first micro-batch of a step holds above weights
    (its new gradients counted); later_peak: the same where all gradients are there already; churn: bytes allocated on the
    way in blocks of the heap, freed or not; head: the part of these that logits and their gradients are; learning,
    tables: shapes of what learns, the vocabulary's apart. forward, work: of one micro-batch, without and with its backward pass.
    """

    weights: float
    largest: float
    trainable: float
    total: float
    gradients: float
    first_peak: float
    later_peak: float
    churn: float
    head: float
    learning: tuple[tuple[int, ...], ...]
    tables: tuple[tuple[int, ...], ...]
    forward: Work
    work: Work
    tokens: int


class Watch(TorchDispatchMode):
    """Counts the bytes of storages alive and the work of every operation that passes."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.churn = 0.0
        self._known: dict[int, weakref.ref[Any]] = {}
        self.products: Counter[int] = Counter()
        self.attention = self.bytes = self.kernels = 0.0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operation(*args, **(kwargs or {}))
        name = operation.name().partition("::")[2].partition(".")[0]
        if operation.namespace == "prim":
            return out
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        if name == "_linear_cross_entropy_batch_chunked":
            self.live += HEAD_BUFFERS * HEAD_CHUNK * args[1].shape[0] * 4
            self.hold(made)
            self.live -= HEAD_BUFFERS * HEAD_CHUNK * args[1].shape[0] * 4
        else:
            self.hold(made)
        if name not in VIEWS:
            self._work(name, args, made)
        return out

    def hold(self, tensors: Sequence[Tensor]) -> None:
        """Count the storages of `tensors` as alive until they go."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in self._known:
                continue

            def gone(_: Any, key: int = key, size: int = size) -> None:
                self.live -= size
                self._known.pop(key, None)

            self.live += size
            self.churn += size if size < MAPPED_BYTES else 0
            self._known[key] = weakref.ref(storage, gone)
        self.peak = max(self.peak, self.live)

    def taken(self) -> Work:
        """The work since the last call."""
        work = Work(products=dict(self.products), attention=self.attention, bytes=self.bytes, kernels=self.kernels)
        self.products = Counter()
        self.attention = self.bytes = self.kernels = 0.0
        return work

    def _work(self, name: str, args: Any, made: Sequence[Tensor]) -> None:
        self.kernels += 1
        given = [x for x in tree_leaves(args) if isinstance(x, Tensor)]
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            left, right = given[-2:]
            self._product(left.shape[-2], left.shape[-1], right.shape[-1], left.shape[0] if name[0] == "b" else 1)
        elif name == "_grouped_mm":
            self._product(given[0].shape[-2], given[0].shape[-1], given[1].shape[-1], 1)
        elif name == "_linear_cross_entropy_batch_chunked":
            rows, width, vocabulary = given[0].shape[0], given[0].shape[1], given[1].shape[0]
            gradients = sum(
                x.numel() > 1 for x in made
            )  # formed in the forward pass: of the hidden states, and of the head
            for _ in range(1 + max(1, gradients)):
                self._product(rows, width, vocabulary, 1, smallest=min(HEAD_CHUNK, width))
        elif "scaled_dot_product" in name:
            backward = "backward" in name
            query, key = (given[1], given[2]) if backward else (given[0], given[1])
            pairs = query.shape[-2] * key.shape[-2] * (0.5 if query.shape[-2] == key.shape[-2] else 1.0)
            batch = query.numel() / query.shape[-1] / query.shape[-2]
            self.attention += (10 if backward else 4) * batch * pairs * query.shape[-1]
        else:
            self.bytes += sum(x.numel() * x.element_size() for x in [*given, *made])

    def _product(self, rows: int, inner: int, columns: int, batch: int, smallest: int | None = None) -> None:
        small = max(1, smallest or min(rows, inner, columns))
        self.products[1 << (small - 1).bit_length()] += 2 * batch * rows * inner * columns


def rehearse(
    attached: Attached,
    rows: Sequence[Row],
    *,
    needs: Sequence[str],
    packed: bool,
    checkpointing: LoopSettings | None = None,
    precision: str = "fp32",
) -> Rehearsal:
    """Run the micro-batch `rows` twice, on fake tensors.

    Args:
        attached: a method on a model whose parameters lie on the meta device; they become fake ones here.
        needs: what the objective reads (nll, logp, entropy, embedding). packed: rows share one row of tokens.
        checkpointing: None, or settings with what is computed again.
    """
    module: Any = attached.model
    with FakeTensorMode(allow_non_fake_inputs=True):
        holder = nn.ModuleList([module] + [x for x in [attached.inputs] if isinstance(x, nn.Module)])
        materialise(holder)
        module.train()
        if checkpointing:
            recompute.enable(heads.causal_model(module), checkpointing)
        watch = Watch()
        named = dict(holder.named_parameters())
        watch.hold([*named.values(), *holder.buffers()])
        base, peaks = watch.live, []
        num_prefix = attached.inputs.num_prefix if attached.inputs is not None else 0
        with watch:
            for _ in range(2):
                layout, targets = lay(rows, packed=packed, num_prefix=num_prefix)
                watch.peak, watch.churn = watch.live, 0
                watch.taken()
                loss = _forward(module, attached, layout, targets, needs, precision)
                forward = watch.taken()
                loss.backward()
                del loss
                peaks.append(watch.peak - base)
            work, left = _sum(forward, watch.taken()), watch.live - base
            del layout, targets
            gradients = sum(p.grad.numel() * p.grad.element_size() for p in named.values() if p.grad is not None)
    tables = _tables(heads.causal_model(module))
    sizes = [(p.numel(), p.element_size(), p.requires_grad) for p in named.values()]
    return Rehearsal(
        weights=base,
        largest=max(count * size for count, size, _ in sizes),
        trainable=sum(count for count, _, learns in sizes if learns),
        total=sum(count for count, _, _ in sizes),
        gradients=gradients,
        first_peak=max(peaks[0], left),
        later_peak=max(peaks[1], left),
        churn=watch.churn,
        learning=tuple(tuple(p.shape) for p in named.values() if p.requires_grad and id(p) not in tables),
        tables=tuple(tuple(p.shape) for p in named.values() if p.requires_grad and id(p) in tables),
        head=_head_bytes(module, rows, needs),
        forward=forward,
        work=work,
        tokens=sum(row.num_tokens for row in rows),
    )


def _tables(model: Any) -> set[int]:
    """The identities of the embedding's and the head's matrices."""
    both = [model.get_input_embeddings(), model.get_output_embeddings()]
    return {id(layer.weight) for layer in both if layer is not None}


def _head_bytes(module: Any, rows: Sequence[Row], needs: Sequence[str]) -> float:
    """Chunks of logits, the hidden states at supervised positions and their gradient."""
    layer = heads.causal_model(module).get_output_embeddings()
    if layer is None or not {"nll", "logp", "entropy"} & set(needs):
        return 0.0
    supervised = sum(sum(1 for w in part.trains if w) for row in rows for part in (row.prefix, *row.branches))
    vocabulary, width = layer.weight.shape[:2]
    return 4.0 * (HEAD_BUFFERS * HEAD_CHUNK * vocabulary + 2 * supervised * width)


def materialise(module: nn.Module) -> None:
    """Put fake tensors on the CPU in the places of all meta ones, ties kept; called inside a FakeTensorMode."""
    made: dict[int, Any] = {}
    part: Any
    for part in module.modules():
        for name, old in list(part._parameters.items()):
            if old is not None:
                if id(old) not in made:
                    fresh = torch.empty(old.shape, dtype=old.dtype, device="cpu")
                    made[id(old)] = nn.Parameter(fresh, requires_grad=old.requires_grad)
                part._parameters[name] = made[id(old)]
        for name, old in list(part._buffers.items()):
            if old is not None:
                if id(old) not in made:
                    made[id(old)] = torch.empty(old.shape, dtype=old.dtype, device="cpu")
                part._buffers[name] = made[id(old)]


def _sum(a: Work, b: Work) -> Work:
    products = {size: a.products.get(size, 0.0) + b.products.get(size, 0.0) for size in {*a.products, *b.products}}
    return Work(
        products=products,
        attention=a.attention + b.attention,
        bytes=a.bytes + b.bytes,
        kernels=a.kernels + b.kernels,
    )


def _forward(
    module: Any, attached: Attached, layout: Layout, targets: Any, needs: Sequence[str], precision: str
) -> Tensor:
    """Trunk, head and a loss of what the objective reads, as the Scorer computes them."""
    arguments: dict[str, Any] = {
        "input_ids": layout.ids_BT,
        "attention_mask": None,  # its shape costs little, and its content is not known here
        "position_ids": layout.positions_BT,
        "use_cache": False,
    }
    if layout.geometry is not None:
        kv = attached.inputs.served(module).prefix_kv if attached.inputs is not None else None
        arguments["layout"] = dataclasses.replace(layout.geometry, prefix_kv=kv)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with torch.autocast("cpu", dtype=half or torch.bfloat16, enabled=half is not None):
        out = heads.trunk(module)(**arguments)[0]
        flat = out.reshape(-1, out.shape[-1])
        return _loss(module, flat, layout, targets, needs)


def _loss(module: Any, flat: Tensor, layout: Layout, targets: Any, needs: Sequence[str]) -> Tensor:
    layer = heads.causal_model(module).get_output_embeddings()
    if "embedding" in needs or layer is None:
        return F.normalize(flat[layout.last_Q].float(), dim=-1).sum()
    hidden = flat[layout.at_S]
    head = Head(kind="linear" if type(layer) is nn.Linear else "module")
    total: Tensor = torch.zeros(())
    if "nll" in needs and head.kind == "linear":
        options = nn.LinearCrossEntropyOptions(chunking_method=None, batch_chunk_size=HEAD_CHUNK)
        total = total + F.linear_cross_entropy(
            hidden, layer.weight, targets.labels_S, linear_bias=layer.bias, reduction="sum", options=options
        )
    elif {"nll", "logp"} & set(needs):
        total = total + heads.token_logp(hidden, layer, head, targets.labels_S, HEAD_CHUNK).sum()
    if "entropy" in needs:
        total = total + heads.token_entropy(hidden, layer, head, HEAD_CHUNK).sum()
    return total
