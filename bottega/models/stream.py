"""A model larger than memory: its frozen decoder layers stay on disk and visit memory one at a time.

On a GPU a layer is read into page-locked host memory and copied from there into one of two slots of the device, both while
the layer before it is computed. Left out: training the streamed weights themselves (they are read only), and several processes.

Each layer's forward keeps its inputs alone; its backward reads the layer again, computes it again with the random state put
back, and differentiates that: the recompute is owned here, since what transformers does under gradient checkpointing would
keep every layer's weights for the backward pass.

The operations and their order are those of a resident model, so that outputs and gradients are equal bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bottega.core.devices import random_state, set_random_state
from bottega.core.errors import UserError
from bottega.models.tensorfiles import ALIGN, TensorFiles


class Piece(NamedTuple):
    """A tensor of a layer: the object in the module, what it is while the layer is away, its name in the files, and
    its place in a slot."""

    target: Tensor
    idle: Tensor
    name: str
    start: int
    num_bytes: int


class Stream:
    """Brings layers from `files` into two slots of memory; while one is used, a thread reads the next.

    Args:
        files: where the weights lie. layers: for each layer, (tensor of the module, its name in the files); the tensors'
            own dtype is what a layer is used in, and their device where. mapped: align tensors as a resident model does that
            has its file mapped (models/tensorfiles.py), else as torch does. keep: something that must live as long (a
            temporary folder).
    """

    def __init__(
        self, files: TensorFiles, layers: Sequence[Sequence[tuple[Tensor, str]]], *, mapped: bool, keep: Any = None
    ) -> None:
        self.files, self.keep = files, keep
        self.plans: list[list[Piece]] = []
        size = scratch = 0
        for layer in layers:
            here, plan = 0, []
            for target, name in layer:
                num_bytes = target.numel() * target.element_size()
                same = files.entry(name).dtype == target.dtype
                here += files.entry(name).start % ALIGN if mapped and same else 0
                plan.append(Piece(target, target.data, name, here, num_bytes))
                here = -(-(here + num_bytes) // ALIGN) * ALIGN
                if not same:
                    scratch = max(scratch, files.entry(name).num_bytes)
            self.plans.append(plan)
            size = max(size, here)
        self.num_bytes = size
        self.device = layers[0][0][0].device
        pinned = self.device.type == "cuda"
        self._slots = [torch.empty(size, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        self._near = self._slots
        if self.device.type != "cpu":
            self._near = [torch.empty(size, dtype=torch.uint8, device=self.device) for _ in range(2)]
        self._copies = torch.cuda.Stream(self.device) if pinned else None
        self._used: list[torch.cuda.Event | None] = [None, None]  # when the device has done with a slot
        self._scratch = torch.empty(scratch, dtype=torch.uint8)
        self._holds: list[int | None] = [None, None]
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="layer-stream")
        self._reading: tuple[int, int, Future[None]] | None = None  # layer, slot, when it is there

    def __deepcopy__(self, memo: dict[int, Any]) -> Stream:
        raise UserError("a streamed model cannot be copied in memory; load it without stream for this")

    @contextlib.contextmanager
    def visit(self, layer: int, then: int | None) -> Iterator[None]:
        """Layer `layer` is in its module inside; meanwhile layer `then` is read.

        Raises:
            Unsafe: a file was changed, cut short or cannot be read; it is named.
        """
        slot = self._bring(layer)
        self._prefetch(then, spare=slot)
        room = self._near[slot]
        plan = self.plans[layer]
        for piece in plan:
            own = room[piece.start : piece.start + piece.num_bytes]
            piece.target.data = own.view(piece.idle.dtype).view(piece.idle.shape)
        try:
            yield
        finally:
            for piece in plan:
                piece.target.data = piece.idle
            if self._copies is not None:
                self._used[slot] = torch.cuda.current_stream(self.device).record_event()

    def _bring(self, layer: int) -> int:
        """The slot that holds `layer`, read now if it was not foreseen."""
        if self._reading is not None:
            coming, slot, ready = self._reading
            self._reading = None
            ready.result()
            self._holds[slot] = coming
        if layer not in self._holds:
            self._holds[0] = None
            self._fill(layer, 0)
            self._holds[0] = layer
        return self._holds.index(layer)

    def _prefetch(self, layer: int | None, *, spare: int) -> None:
        if layer is None or layer in self._holds:
            return
        slot = 1 - spare
        self._holds[slot] = None
        self._reading = (layer, slot, self._reader.submit(self._fill, layer, slot))

    def _fill(self, layer: int, slot: int) -> None:
        room = self._slots[slot]
        for piece in self.plans[layer]:
            own = room[piece.start : piece.start + piece.num_bytes]
            if self.files.entry(piece.name).dtype == piece.idle.dtype:
                self.files.read_into(piece.name, own)
            else:
                found = self.files.read_into(piece.name, self._scratch)
                own.view(piece.idle.dtype).view(piece.idle.shape).copy_(found)
        if self._copies is not None:
            with torch.cuda.stream(self._copies):
                used = self._used[slot]
                if used is not None:
                    self._copies.wait_event(used)
                self._near[slot].copy_(room, non_blocking=True)
            self._copies.synchronize()  # in the reader's thread: a layer that is there is there for every stream
        elif self._near[slot] is not room:
            self._near[slot].copy_(room)


def absent(shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """A tensor of this shape that takes one number of memory: not-a-number, so that a layer used while it is away is
    never taken for one that is there."""
    value = float("nan") if dtype.is_floating_point else 0
    return torch.full((), value, dtype=dtype, device=device).expand(tuple(shape))


def is_absent(tensor: Tensor) -> bool:
    """Whether `tensor` stands for weights on disk."""
    return tensor.numel() > 1 and not any(tensor.stride())


def is_streamed(model: nn.Module) -> bool:
    """Whether layers of `model` lie on disk."""
    return any(isinstance(module, Streamed) for module in model.modules())


class Streamed(nn.Module):
    """A decoder layer whose weights lie on disk; called as the layer is.

    It shares the layer's whole state (children, mode, attributes), so that names, adapters and transformers' own code
    find what they know; only the call differs.
    """

    def __init__(self, layer: nn.Module, stream: Stream, number: int) -> None:
        object.__setattr__(self, "__dict__", layer.__dict__)
        self.__dict__["_visits"] = Visits(layer.forward, stream, number)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer returns."""
        visits: Visits = self.__dict__["_visits"]
        if not torch.is_grad_enabled():
            return visits.once(args, kwargs)
        learning = [p for p in self.parameters() if p.requires_grad and not is_absent(p)]
        call = _Call(visits, args, kwargs, training=self.training)
        if not learning and not any(tensor.requires_grad for tensor in call.tensors):
            return visits.once(args, kwargs)
        assert kwargs.get("past_key_values") is None, "a cache cannot be filled twice: train with use_cache=False"
        return call.join(_Recomputed.apply(call, len(call.tensors), *call.tensors, *learning))


class Visits:
    """How a layer is run while it is in memory."""

    def __init__(self, forward: Callable[..., Any], stream: Stream, number: int) -> None:
        self.forward, self.stream, self.number = forward, stream, number

    def once(self, args: Any, kwargs: Any) -> Any:
        """The layer's outputs without a trace for a backward pass; after the last layer comes the first again."""
        num_layers = len(self.stream.plans)
        with self.stream.visit(self.number, (self.number + 1) % num_layers):
            return self.forward(*args, **kwargs)

    def ahead(self) -> int | None:
        """What is needed next in a forward pass that a backward pass follows."""
        return self.number + 1 if self.number + 1 < len(self.stream.plans) else None

    def back(self) -> int | None:
        """What is needed next in a backward pass."""
        return self.number - 1 if self.number else None


class _Call:
    """One call of a layer: its tensors apart from the rest, and how to do it again."""

    def __init__(self, visits: Visits, args: Any, kwargs: Any, *, training: bool) -> None:
        self.visits = visits
        self.tensors: list[Tensor] = []
        self._form = _take((args, _open_prefix(kwargs, visits.number)), self.tensors)
        self._outputs: Any = None
        self._random = random_state() if training else None
        self._kind = visits.stream.device.type
        self._autocast = torch.is_autocast_enabled(self._kind)
        self._precision = torch.get_autocast_dtype(self._kind)

    def run(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The layer's output tensors; the layer must be in memory."""
        args, kwargs = _put(self._form, tensors)
        outputs: list[Tensor] = []
        with torch.autocast(self._kind, dtype=self._precision, enabled=self._autocast, cache_enabled=False):
            self._outputs = _take(self.visits.forward(*args, **_close_prefix(kwargs)), outputs)
        return tuple(outputs)

    def again(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """`run` with the random state that the forward pass had; the present one is put back."""
        if self._random is None:
            return self.run(tensors)
        present = random_state()
        set_random_state(self._random)
        try:
            return self.run(tensors)
        finally:
            set_random_state(present)

    def join(self, outputs: Sequence[Tensor]) -> Any:
        """Outputs in the form in which the layer returned them."""
        return _put(self._outputs, outputs)


class _Recomputed(torch.autograd.Function):
    """A layer's forward that keeps its inputs, and a backward that reads and computes the layer again."""

    @staticmethod
    def forward(ctx: Any, call: _Call, num_inputs: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.call, ctx.num_inputs = call, num_inputs
        ctx.save_for_backward(*tensors)
        with call.visits.stream.visit(call.visits.number, call.visits.ahead()):
            return call.run(tensors[:num_inputs])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        call, saved = ctx.call, ctx.saved_tensors
        inputs = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in saved[: ctx.num_inputs]]
        sources = [*inputs, *saved[ctx.num_inputs :]]
        wanted = [tensor for tensor in sources if tensor.requires_grad]
        with torch.enable_grad(), call.visits.stream.visit(call.visits.number, call.visits.back()):
            outputs = call.again(inputs)
            pairs = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if out.requires_grad]
            found = torch.autograd.grad(
                [out for out, _ in pairs], wanted, [grad for _, grad in pairs], allow_unused=True
            )
        by_source = {id(tensor): grad for tensor, grad in zip(wanted, found, strict=True)}
        return None, None, *(by_source.get(id(tensor)) for tensor in sources)


class _Slot(NamedTuple):
    """The place of a tensor in a form."""

    number: int


def _take(value: Any, tensors: list[Tensor]) -> Any:
    """`value` with its tensors moved into `tensors`, a `_Slot` in the place of each; tuples, lists and dicts are opened."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return _Slot(len(tensors) - 1)
    if type(value) in (tuple, list):
        return type(value)(_take(item, tensors) for item in value)
    if type(value) is dict:
        return {key: _take(item, tensors) for key, item in value.items()}
    return value


def _put(form: Any, tensors: Sequence[Tensor]) -> Any:
    """What `_take` took apart, with these tensors."""
    if isinstance(form, _Slot):
        return tensors[form.number]
    if type(form) in (tuple, list):
        return type(form)(_put(item, tensors) for item in form)
    if type(form) is dict:
        return {key: _put(item, tensors) for key, item in form.items()}
    return form


def _open_prefix(kwargs: dict[str, Any], layer: int) -> dict[str, Any]:
    """A packed row's learned keys and values (models/attention.py, Geometry) as tensors of the call: what reaches a layer
    unseen would get no gradient."""
    layout = kwargs.get("layout")
    if layout is None or layout.prefix_kv is None:
        return kwargs
    return {**kwargs, "layout": (layout, layout.prefix_kv(layer))}


def _close_prefix(kwargs: dict[str, Any]) -> dict[str, Any]:
    layout = kwargs.get("layout")
    if not isinstance(layout, tuple):
        return kwargs
    geometry, pair = layout
    return {**kwargs, "layout": dataclasses.replace(geometry, prefix_kv=lambda _: pair)}
