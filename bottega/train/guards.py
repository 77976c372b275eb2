"""What is checked while training: that everything that should learn does, and nothing else; the worst batch first.

Left out: losses that are not finite or spike (watch.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from bottega.core.errors import UserError
from bottega.core.types import Row
from bottega.models.stream import is_absent
from bottega.train.sharded import full

FINGERPRINT_CHUNK = 256
"""Times 1,020 numbers are looked at together: as 64-bit numbers a whole tensor would take six times its own memory."""


def fingerprint(tensor: Tensor) -> int:
    """A sum over the tensor's bits that changes whenever one value does (up to chance), cheap enough for every weight."""
    if is_absent(tensor):  # weights on disk: the file's own, which nothing writes
        tensor = tensor.as_strided((1,), (1,))
    flat = tensor.detach().contiguous().reshape(-1)
    flat = (flat.clone() if flat.storage_offset() else flat).view(torch.uint8)
    whole = flat[: len(flat) // 4 * 4].view(torch.int32)
    weights = torch.arange(1, 1021, device=flat.device).repeat(FINGERPRINT_CHUNK)
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for chunk in whole.split(len(weights)):
        total += (chunk.to(torch.int64) * weights[: len(chunk)]).sum()
    return int(total) ^ int(flat[len(flat) // 4 * 4 :].to(torch.int64).sum())


class SelfCheck:
    """Watches the first `steps` steps: every trainable parameter gets a gradient and moves, every frozen one stays, but for those
    that are `taught` between steps.

    A parameter whose gradient is exactly zero at one step may be right (LoRA's A at step 1), and so is an expert's that has
    none, for no token was sent to it; one that has had a gradient and has not moved is not.
    """

    def __init__(self, module: nn.Module, *, steps: int, taught: frozenset[str] = frozenset()) -> None:
        self.steps, self.taught = steps, taught
        self.before = {name: fingerprint(full(p)) for name, p in module.named_parameters()}
        self.moving = {name for name, p in module.named_parameters() if p.requires_grad}
        self.had_gradient: set[str] = set()
        self.reached: set[str] = set()

    def after_backward(self, module: nn.Module, used: Mapping[nn.Parameter, float] | None = None) -> None:
        """Called before the optimizer's step; `used` holds the squared norms of gradients that are used up already.

        Raises:
            UserError: a trainable parameter is not reached by the loss.
        """
        for name, p in module.named_parameters():
            if not p.requires_grad:
                continue
            self.moving.add(name)
            if used and p in used:
                self.had_gradient |= {name} if used[p] > 0 else set()
                continue
            if p.grad is None and "expert" in name:  # none of the batch's tokens was sent to it: `finish` says so
                continue
            if p.grad is None:
                raise UserError(
                    f"{name} is to be trained but the loss does not reach it: leave it out of the method's targets"
                )
            self.reached.add(name)
            if name not in self.had_gradient and bool((full(p.grad) != 0).any()):
                self.had_gradient.add(name)

    def finish(
        self, module: nn.Module, note: Callable[[str], None], unseen: Callable[[nn.Parameter], bool] = lambda p: False
    ) -> None:
        """Called after `steps` steps; `unseen` says of a weight in 16 bits whether it moved by less than its last bit.

        Raises:
            UserError: a frozen parameter changed, or a trainable one with gradients did not.
        """
        after = {name: fingerprint(full(p)) for name, p in module.named_parameters()}
        changed = [n for n in after if n not in self.moving | self.taught and after[n] != self.before[n]]
        if changed:
            raise UserError(
                f"{len(changed)} frozen parameters changed while training, {changed[0]} first: please report this model"
            )
        stuck = [
            n for n, p in module.named_parameters() if n in self.moving and after[n] == self.before[n] and not unseen(p)
        ]
        dead = [n for n in stuck if n in self.had_gradient]
        if dead:
            raise UserError(
                f"{len(dead)} parameters had gradients but did not move in {self.steps} steps, {dead[0]} first: raise lr"
            )
        quiet = sorted(set(stuck) - set(dead))
        frozen = len(after) - len(self.moving)
        line = f"self-check: {len(self.moving) - len(quiet)} trainable tensors moved, {frozen} frozen ones did not"
        unsent = [name for name in quiet if name not in self.reached]
        line += f"; {len(quiet)} had no gradient yet ({quiet[0]} ...)" if quiet else ""
        note(line + (f"; {len(unsent)} of them are experts that no token was sent to" if unsent else ""))


def heaviest(steps: Iterable[Sequence[Row]]) -> tuple[Sequence[Row], int]:
    """The step with most tokens among `steps`, and the tokens of all of them."""
    most: Sequence[Row] = ()
    weight = total = 0
    for rows in steps:
        tokens = sum(row.num_tokens for row in rows)
        total += tokens
        if tokens > weight:
            most, weight = rows, tokens
    return most, total


def out_of_memory(error: BaseException) -> str | None:
    """What an out-of-memory error says; None for any other error."""
    text = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        return text.splitlines()[0][:120] if text else "out of memory"
    return None


def too_small(cause: str) -> str:
    """The sentence for a row that does not fit alone, with the settings that would help."""
    return (
        f"one row at a time does not fit in memory ({cause}): lower max_tokens, set checkpointing: true, "
        "or use method: lora"
    )
