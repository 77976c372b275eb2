"""Optimizers by name, over a method's parameter groups (weight decay is off norms, biases and other vectors there).

Left out: the update rules (rules.py) and the places where states can live (offload.py). One class serves all rules:
bf16 and fp16 weights get an fp32 copy that the rule moves, states may live elsewhere, and a step may happen inside
the backward pass.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bottega.core.errors import UserError
from bottega.train.offload import Resident, Store
from bottega.train.rules import SGD, Adafactor, AdamW, AdamW8bit, Hyper, Lion, Muon, Rule, ScheduleFree, bitsandbytes

OPTIMIZERS: dict[str, Callable[[Hyper], Rule]] = {
    "adamw": AdamW,
    "adamw8bit": AdamW8bit,
    "lion": Lion,
    "muon": Muon,
    "adafactor": Adafactor,
    "schedule_free": ScheduleFree,
    "sgd": SGD,
}
WHOLE = ("adamw8bit", "muon", "adafactor")
"""Optimizers that look at a whole tensor, and so cannot step a shard of it."""
LOW = (torch.bfloat16, torch.float16)


class Optimizer:
    """Steps the parameters of `param_groups`, dicts with `params`, `rule`, `lr`, `lr_scale` and `weight_decay`.

    `state` holds, by parameter, the rule's tensors, and `master` (fp32) for weights kept in 16 bits: an update below
    their last bit is not lost but adds up there.

    Args:
        store: where states live between steps. in_backward: a parameter steps as soon as its gradient is complete
        inside `stepping(True)`, and the gradient is freed; `used` then holds the squared norms of the gradients of
        the last step, `bad` says which one was not finite.
    """

    def __init__(self, groups: list[dict[str, Any]], *, store: Store | None = None, in_backward: bool = False) -> None:
        self.param_groups = groups
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}
        self.store = store or Resident()
        self.in_backward = in_backward
        self._armed = False
        self._squares, self.bad = 0.0, ""
        self.used: dict[nn.Parameter, float] = {}
        pairs = [(p, group) for group in groups for p in group["params"]] if in_backward else []
        self._hooks = [p.register_post_accumulate_grad_hook(self._hook(group)) for p, group in pairs]

    @torch.no_grad()
    def step(self) -> None:
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            members = [p for p in group["params"] if p.grad is not None]
            plain = [p for p in members if self.store.resident and p.dtype not in LOW]
            if plain:
                states = [self._state(p, group["rule"]) for p in plain]
                gradients = [p.grad for p in plain]
                group["rule"].step(plain, gradients, states, lr=group["lr"], weight_decay=group["weight_decay"])
            for p in members if not plain else [p for p in members if p.dtype in LOW]:
                self._one(p, group)

    def _one(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        """One parameter's step: its state comes here and goes back, its copy in fp32 moves and is rounded."""
        assert parameter.grad is not None
        kept = self._state(parameter, group["rule"])
        state = self.store.fetch(kept, parameter.device)
        master = state.get("master")
        weights = parameter.detach() if master is None else master
        gradient = parameter.grad.to(weights.dtype)
        group["rule"].step([weights], [gradient], [state], lr=group["lr"], weight_decay=group["weight_decay"])
        if master is not None:
            parameter.copy_(master)
        self.store.put(kept, state)

    def _state(self, parameter: nn.Parameter, rule: Rule) -> dict[str, Tensor]:
        if parameter not in self.state:
            master = parameter.detach().float() if parameter.dtype in LOW else None
            fresh = rule.start(parameter.detach() if master is None else master)
            self.state[parameter] = self.store.keep(fresh | ({} if master is None else {"master": master}))
        return self.state[parameter]

    def load(self, parameter: nn.Parameter, state: dict[str, Tensor]) -> None:
        """Take a parameter's state as a checkpoint held it."""
        home = {name: value.to(parameter.device) if value.ndim else value for name, value in state.items()}
        self.state[parameter] = self.store.keep(home)

    def moves_unseen(self, parameter: nn.Parameter) -> bool:
        """Whether the fp32 copy of a 16-bit weight has moved by less than the weight's last bit shows."""
        master = self.state.get(parameter, {}).get("master")
        return master is not None and not torch.equal(master, parameter.detach().to(master))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients."""
        assert set_to_none
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @contextlib.contextmanager
    @torch.no_grad()
    def averaged(self) -> Iterator[None]:
        """The weights to evaluate and to save, where the rule knows better ones than those it trains at; put back bit
        for bit after."""
        before: list[tuple[nn.Parameter, Tensor]] = []
        for group in self.param_groups:
            average = getattr(group["rule"], "average", None)
            for p in group["params"] if average is not None else ():
                if p in self.state:
                    state = self.store.fetch(self.state[p], p.device)
                    before.append((p, p.detach().clone()))
                    p.copy_(average(state.get("master", p.detach()), state))  # type: ignore[misc]
        try:
            yield
        finally:
            with torch.no_grad():
                for p, value in before:
                    p.copy_(value)

    @contextlib.contextmanager
    def stepping(self, last: bool) -> Iterator[None]:
        """Around the backward pass of a micro-batch: in the last one of a step, parameters may step inside it.

        Before the last, gradients add up as always: the step is the same, but its gradients are held until then.
        """
        self._armed = self.in_backward and last
        if self._armed:
            self._squares, self.bad = 0.0, ""
            self.used = {}
        try:
            yield
        finally:
            self._armed = False

    def _hook(self, group: dict[str, Any]) -> Callable[[Tensor], None]:
        @torch.no_grad()
        def after(parameter: Any) -> None:
            if not self._armed:
                return
            size = float(parameter.grad.float().square().sum())
            self.used[parameter] = size
            self._squares += size
            if not math.isfinite(size) or self.bad:
                self.bad = self.bad or f"a tensor of shape {tuple(parameter.shape)}"
            else:
                self._one(parameter, group)
            parameter.grad = None

        return after

    def norm_in_backward(self) -> float:
        """The norm of the gradient that the last step in a backward pass used up (not finite: from there on nothing stepped)."""
        return math.sqrt(self._squares) if math.isfinite(self._squares) else self._squares

    def close(self) -> None:
        """Take the hooks off: another optimizer takes over."""
        for hook in self._hooks:
            hook.remove()


def make(
    name: str,
    groups: list[dict[str, Any]],
    *,
    lr: float,
    weight_decay: float,
    hyper: Hyper,
    hidden: Collection[int] = (),
    store: Store | None = None,
    in_backward: bool = False,
) -> Optimizer:
    """The optimizer `name` over `groups`, whose `weight_decay` and `lr_scale` are factors on the values given here.

    Args:
        hidden: ids of the hidden matrices, which alone are Muon's; its others are AdamW's.

    Raises:
        UserError: the name is not in the table, or its library is not installed.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"optimizer {name!r} is not known: use one of {', '.join(OPTIMIZERS)}")
    if name == "adamw8bit":
        bitsandbytes()
    rule, rest = OPTIMIZERS[name](hyper), AdamW(hyper)
    clean = []
    for group in groups:
        own = [p for p in group["params"] if name != "muon" or id(p) in hidden]
        others = [p for p in group["params"] if name == "muon" and id(p) not in hidden]
        for params, which in ((own, rule), (others, rest)):
            if params:
                clean.append(
                    {
                        "params": params,
                        "rule": which,
                        "lr": lr,
                        "lr_scale": group.get("lr_scale", 1.0),
                        "weight_decay": weight_decay * group.get("weight_decay", 1.0),
                    }
                )
    return Optimizer(clean, store=store, in_backward=in_backward)
