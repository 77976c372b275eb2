"""One batch being decoded: the next logits, the tokens fed back, finished rows dropped; and the probe that says how a
model may be decoded.

Left out: choosing tokens (sampling.py) and ending replies (stops.py).

Shapes: B rows, T positions, S cache slots, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from bottega.core.errors import UserError
from bottega.core.types import Inputs
from bottega.models import kinds
from bottega.models.kv import GROWTH, Masks, StaticKV, left_padded, windows_of
from bottega.models.sides import SidesBatch

Way = Literal["masks", "padded", "plain", "sides"]


class Batch(Protocol):
    """Rows in decoding."""

    def logits(self) -> Tensor:
        """Logits (B, V) for the next token of every row."""

    def feed(self, ids_B: Tensor) -> None:
        """The tokens that were chosen."""

    def keep(self, rows: Tensor) -> None:
        """Keep the rows listed."""


class Forward:
    """A causal language model as a function from ids to the logits at the last position."""

    def __init__(self, model: nn.Module, inputs: Inputs | None = None) -> None:
        whole: Any = model
        base = whole.get_base_model() if hasattr(model, "get_base_model") else whole
        self.model = model
        self.inputs = inputs
        self.config = base.config
        self.both_sides = kinds.kind_of(base.config) == "encoder-decoder"
        self.takes = frozenset(inspect.signature(base.forward).parameters)
        self.num_prefix = inputs.num_prefix if inputs is not None else 0

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter lies."""
        return next(self.model.parameters()).device

    def served(self) -> Inputs | None:
        """What is put before every sequence, as this model sees it."""
        return self.inputs.served(self.model) if self.inputs is not None else None

    def __call__(self, ids_BT: Tensor, **keywords: Any) -> Tensor:
        """Logits (B, V) at the last position; keywords that the model does not know are left out."""
        return self.tail(ids_BT, 1, **keywords)[:, -1]

    def tail(self, ids_BT: Tensor, num_last: int, **keywords: Any) -> Tensor:
        """Logits (B, num_last, V) at the last positions."""
        given = {name: value for name, value in keywords.items() if name in self.takes}
        if "logits_to_keep" in self.takes and ids_BT.shape[1] > num_last:
            given["logits_to_keep"] = num_last
        return self.model(input_ids=ids_BT, **given).logits[:, -num_last:]


SHARED_FROM = 16
"""Tokens that the prompts of a batch must begin with in common to be computed once (a system prompt, examples)."""


class CachedBatch:
    """Left-padded rows with a static cache; `way` says who makes the masks.

    Equal prompts are computed once and repeated; so is what all prompts begin with, where no layer has a window (a
    row's slots are then [prefix][shared][padding][own prompt][reply]: slots no longer stand as far apart as tokens).
    """

    def __init__(
        self, forward: Forward, prompts: Sequence[Sequence[int]], max_tokens: int, *, way: Way, share: int = SHARED_FROM
    ) -> None:
        self.forward, self.way = forward, way
        places: dict[tuple[int, ...], int] = {}
        repeats = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
        prompts = list(places)
        num_slots = forward.num_prefix + max(len(prompt) for prompt in prompts) + max_tokens
        device = forward.device
        windows = (windows_of(forward.config) if way == "masks" else None) or {"all": None}
        self.cache = StaticKV(num_slots, forward.served())
        front: Sequence[int] = ()
        if way == "masks" and not any(windows.values()) and len(prompts) > 1:
            front = prompts[0][: _num_common(prompts)]
            front = front if len(front) >= share else ()
        if front:
            self._share(front, len(prompts), windows)
            prompts = [prompt[len(front) :] for prompt in prompts]
        width, num_before = max(len(prompt) for prompt in prompts), forward.num_prefix + len(front)
        parts = left_padded(prompts, num_prefix=num_before, num_slots=num_slots, pad_id=max(0, _pad_id(forward.config)))
        ids_BT, positions_BT, valid_BS = (part.to(device) for part in parts)
        self.masks = Masks(valid_BS, num_before, windows)
        self.cache.begin(width)
        mask = self.masks.prefill(width) if way == "masks" else self.masks.padding(num_before + width)
        self.next = self._step(ids_BT, positions_BT, mask)
        self.positions_B1 = positions_BT[:, -1:]
        if len(repeats) > len(places):
            self.keep(torch.tensor(repeats, device=device))

    def _share(self, front: Sequence[int], num_rows: int, windows: dict[str, int | None]) -> None:
        """Compute what all rows begin with in one row, and repeat it."""
        parts = left_padded(
            [front], num_prefix=self.forward.num_prefix, num_slots=self.cache.num_slots, pad_id=0
        )  # nothing is padded in a single row
        ids_BT, positions_BT, valid_BS = (part.to(self.forward.device) for part in parts)
        self.cache.begin(len(front))
        self._step(ids_BT, positions_BT, Masks(valid_BS, self.forward.num_prefix, windows).prefill(len(front)))
        self.cache.keep(torch.zeros(num_rows, dtype=torch.long, device=self.forward.device))

    def _step(self, ids_BT: Tensor, positions_BT: Tensor, mask: Any) -> Tensor:
        return self.forward(
            ids_BT, position_ids=positions_BT, attention_mask=mask, past_key_values=self.cache, use_cache=True
        )

    def logits(self) -> Tensor:
        """Logits (B, V) for the next token of every row."""
        return self.next

    def feed(self, ids_B: Tensor) -> None:
        """One forward over the tokens that were chosen."""
        self.cache.begin(1)
        end = self.cache.end
        mask = self.masks.step(end) if self.way == "masks" else self.masks.padding(end)
        self.positions_B1 = self.positions_B1 + 1
        self.next = self._step(ids_B[:, None], self.positions_B1, mask)

    def keep(self, rows: Tensor) -> None:
        """Keep the rows listed."""
        self.cache.keep(rows)
        self.masks.keep(rows)
        self.positions_B1 = self.positions_B1.index_select(0, rows)
        self.next = self.next.index_select(0, rows)

    def join(self, other: CachedBatch) -> None:
        """Add the rows of `other`, which was opened the same way, behind its own."""
        moved = self.cache.join(other.cache)
        self.masks.join(other.masks, moved, self.cache.num_slots)
        self.positions_B1 = torch.cat([self.positions_B1, other.positions_B1])
        self.next = torch.cat([self.next, other.next])

    def trim(self, least: int = GROWTH) -> int:
        """Drop the slots at the front that no row sees any more, if they are at least so many; how many went."""
        unseen = self.masks.num_unseen(self.cache.end)
        if not 0 < least <= unseen:
            return 0
        self.cache.trim(unseen)
        self.masks.trim(unseen)
        return unseen


class PlainBatch:
    """Rows of one length, computed anew for every token: slow, and right for any causal model."""

    def __init__(self, forward: Forward, prompts: Sequence[Sequence[int]]) -> None:
        if forward.num_prefix:
            raise UserError(
                f"{forward.config.model_type} cannot take key/value prefixes in a cache: tune it with lora or full"
            )
        self.forward = forward
        self.ids_BT = torch.tensor([list(prompt) for prompt in prompts], device=forward.device)

    def logits(self) -> Tensor:
        """Logits (B, V) for the next token of every row."""
        return self.forward(self.ids_BT, use_cache=False)

    def feed(self, ids_B: Tensor) -> None:
        """The tokens that were chosen."""
        self.ids_BT = torch.cat([self.ids_BT, ids_B[:, None]], 1)

    def keep(self, rows: Tensor) -> None:
        """Keep the rows listed."""
        self.ids_BT = self.ids_BT.index_select(0, rows)


def _num_common(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with; each keeps at least one of its own."""
    low, high = min(map(tuple, prompts)), max(map(tuple, prompts))
    limit = min(len(prompt) for prompt in prompts) - 1
    return next((at for at in range(limit) if low[at] != high[at]), limit)


def _pad_id(config: Any) -> int:
    pad_id = getattr(config, "pad_token_id", None)
    return pad_id if isinstance(pad_id, int) else 0


def open_batch(
    forward: Forward, prompts: Sequence[Sequence[int]], max_tokens: int, *, way: Way, share: int = SHARED_FROM
) -> Batch:
    """The prompts, prefilled and ready for their first token."""
    if way == "plain":
        return PlainBatch(forward, prompts)
    if way == "sides":
        return SidesBatch(forward, prompts)
    return CachedBatch(forward, prompts, max_tokens, way=way, share=share)


def choose_way(forward: Forward) -> Way:
    """The first way whose logits equal those of each row alone without a cache: left-padded prefill, two steps and a
    dropped row.

    Costs a few forwards over at most 7 tokens; prompts that begin alike are tried too. Prefixes are left out of the comparison.
    """
    if forward.both_sides:
        return "sides"
    bare = Forward(forward.model)
    if windows_of(forward.config) is not None and _agrees(bare, "masks") and _agrees(bare, "masks", num_shared=2):
        return "masks"
    return "padded" if _agrees(bare, "padded") else "plain"


def _agrees(forward: Forward, way: Way, *, num_shared: int = 0) -> bool:
    num_tokens = forward.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    made = [(7 * step + 3) % num_tokens for step in range(14)]
    front = made[:num_shared]
    prompts, fed = (made[:5], front + made[5:7], front + made[7:8]), made[8:]
    try:
        batch = open_batch(forward, prompts, 3, way=way, share=num_shared or SHARED_FROM)
        got = [batch.logits()]
        for step in range(2):
            batch.feed(torch.tensor(fed[3 * step : 3 * step + 3], device=forward.device))
            got.append(batch.logits())
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError):
        return False  # the architecture does not take these arguments: the next way is tried
    coarse = next(forward.model.parameters()).dtype != torch.float32
    for row, prompt in enumerate(prompts):
        ids = list(prompt)
        for step, logits_BV in enumerate(got):
            alone_V = forward(torch.tensor([ids], device=forward.device), use_cache=False)[0].float()
            error = (logits_BV[row].float() - alone_V).abs().max()
            if not error <= (0.05 if coarse else 1e-4) * (1 + alone_V.abs().max()):
                return False
            if step < 2:
                ids.append(fed[3 * step + row])
    return True
