"""A static key/value cache for transformers' own model code, and the masks that go with left-padded rows.

Left out: quantised and paged caches; states of recurrent layers (such models decode without a cache).

Shapes: B rows, N key/value heads, S slots, T new positions, H head size. A row's slots are
[prefix][padding][prompt][reply].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from bottega.core.types import Inputs

GROWTH = 32
"""Slots by which room grows on CPU: attention over a view with 42 empty slots behind 150 took 1.0 ms, with 10 0.8, with
none 0.7 (64 rows, 2 heads of 32, one AMD EPYC core); growing by concatenation costs 0.5 a step, this a 32nd of it."""


class StaticKV(Cache):
    """Keys and values in tensors made ahead of need; a step writes in place and hands out views.

    Call `begin(T)` before each forward over T new positions. Slots at and after `end` hold nothing yet.
    """

    def __init__(self, num_slots: int, inputs: Inputs | None = None) -> None:
        super().__init__(layers=[])
        self.num_slots = num_slots
        self.num_prefix = inputs.num_prefix if inputs is not None else 0
        self.start = self.end = self.num_prefix
        self._inputs = inputs
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}

    def begin(self, num_new: int) -> None:
        """The next forward is over `num_new` positions."""
        self.start, self.end = self.end, self.end + num_new
        assert self.end <= self.num_slots, "the cache is full"

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write (B, N, T, H) of a layer; returns all of the layer so far, (B, N, end, H)."""
        keys = self._keys.get(layer_idx)
        if keys is None or keys.shape[2] < self.end:
            self._keys[layer_idx] = keys = self._room(key_states, layer_idx, 0)
            self._values[layer_idx] = self._room(value_states, layer_idx, 1)
        values = self._values[layer_idx]
        num_new = self.end - self.start
        keys.narrow(2, self.start, num_new).copy_(key_states)
        values.narrow(2, self.start, num_new).copy_(value_states)
        return keys.narrow(2, 0, self.end), values.narrow(2, 0, self.end)

    def _room(self, states: Tensor, layer: int, which: int) -> Tensor:
        """Room for the slots up to `end`, rounded up, with what was there before."""
        num_rows, num_heads, _, head_size = states.shape
        step = GROWTH if states.device.type == "cpu" else self.num_slots
        num_slots = min(self.num_slots, -(-self.end // step) * step)
        room = states.new_empty((num_rows, num_heads, num_slots, head_size))
        old = (self._keys, self._values)[which].get(layer)
        if old is not None:
            room.narrow(2, 0, self.start).copy_(old.narrow(2, 0, self.start))
        elif self._inputs is not None and self._inputs.num_prefix:
            room[:, :, : self._inputs.num_prefix] = self._inputs.prefix_kv(layer)[which].to(states.dtype)
        return room

    def keep(self, rows: Tensor) -> None:
        """Keep (or repeat) the rows listed, in that order."""
        for room in (self._keys, self._values):
            for layer, old in room.items():
                new = old.new_empty((len(rows), *old.shape[1:]))
                new.narrow(2, 0, self.end).copy_(old.narrow(2, 0, self.end).index_select(0, rows))
                room[layer] = new

    def join(self, other: StaticKV) -> tuple[int, int]:
        """Add the rows of `other` behind its own, right edges together; prefix slots stay at the front.

        Returns:
            By how many slots its own rows and those of `other` moved to the right.
        """
        before, end = self.num_prefix, max(self.end, other.end)
        moved = (end - self.end, end - other.end)
        left = max(cache.num_slots - cache.end for cache in (self, other))
        self.num_slots, step = end + left, GROWTH
        for mine, more in ((self._keys, other._keys), (self._values, other._values)):
            for layer, own in mine.items():
                added = more[layer]
                size = self.num_slots if own.device.type != "cpu" else min(self.num_slots, -(-end // step) * step)
                room = own.new_zeros((len(own) + len(added), own.shape[1], size, own.shape[3]))
                for rows, old, shift in ((room[: len(own)], own, moved[0]), (room[len(own) :], added, moved[1])):
                    rows[:, :, :before] = old[:, :, :before]
                    rows[:, :, before + shift : end] = old[:, :, before : end - shift]
                mine[layer] = room
        self.start = self.end = end
        return moved

    def trim(self, num_slots: int) -> None:
        """Drop so many slots right after the prefix, which no row needs any more."""
        before = self.num_prefix
        for room in (self._keys, self._values):
            for layer, old in room.items():
                room[layer] = torch.cat([old[:, :, :before], old[:, :, before + num_slots :]], 2)
        self.start, self.end = self.start - num_slots, self.end - num_slots
        self.num_slots -= num_slots

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many slots were filled before the forward in progress."""
        return self.start

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Number of keys that `update` returns, and the slot of the first."""
        return self.start + query_length, 0

    @property
    def is_compileable(self) -> bool:
        """False: transformers then leaves out masks that say nothing."""
        return False

    @property
    def is_initialized(self) -> bool:
        return bool(self._keys)


def windows_of(config: Any) -> dict[str, int | None] | None:
    """Kind of attention layer -> its sliding window (None: all), in transformers' own names of the kinds.

    A single kind is what the model's code takes as one mask; several are passed as a dict. None: a kind that is
    neither full nor sliding.
    """
    window = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True):
        window = None
    kinds = getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"]
    if not set(kinds) <= {"full_attention", "sliding_attention"}:
        return None
    return {kind: window if kind == "sliding_attention" else None for kind in kinds}


def causal_slots(start: int, end: int, *, num_prefix: int, window: int | None, device: torch.device) -> Tensor:
    """(end - start, end): which slots up to its own the query in each slot sees, within a window and the whole prefix."""
    query = torch.arange(start, end, device=device)[:, None]
    key = torch.arange(end, device=device)[None]
    seen = key <= query
    if window is not None:
        seen = seen & ((key > query - window) | (key < num_prefix))
    return seen


class Masks:
    """What each query of a left-padded batch sees, as boolean masks that transformers' models take as they are.

    valid_BS: slots that hold a token (True also for slots to come). Prefix slots are seen through any window.
    """

    def __init__(self, valid_BS: Tensor, num_prefix: int, windows: dict[str, int | None]) -> None:
        self.num_prefix = num_prefix
        self.windows = windows
        self.padded = not bool(valid_BS.all())
        self._open = {kind: valid_BS.clone() for kind in windows}
        self._closed_to = dict.fromkeys(windows, num_prefix)

    def prefill(self, num_new: int) -> Any:
        """(B, 1, T, end) for the first forward; None where the model's own causal mask says the same."""
        if not self.padded and not self.num_prefix:
            return None
        end = self.num_prefix + num_new
        return self._form({kind: self._block(kind, self.num_prefix, end) for kind in self.windows})

    def _block(self, kind: str, start: int, end: int) -> Tensor:
        valid_BS, window = self._open[kind], self.windows[kind]
        device = valid_BS.device
        seen = causal_slots(start, end, num_prefix=self.num_prefix, window=window, device=device)
        own = torch.arange(start, end, device=device)[:, None] == torch.arange(end, device=device)[None]
        # a padding position sees itself: a row of nothing would be 0/0
        return ((seen[None] & valid_BS[:, None, :end]) | own[None])[:, None]

    def step(self, end: int) -> Any:
        """(B, 1, 1, end) for one new token in slot end - 1; None when every slot is seen."""
        form = {}
        for kind, window in self.windows.items():
            valid_BS = self._open[kind]
            first = end - window if window is not None else 0
            if first > self._closed_to[kind]:
                valid_BS[:, self._closed_to[kind] : first] = False
                self._closed_to[kind] = first
            needed = self.padded or self._closed_to[kind] > self.num_prefix
            form[kind] = valid_BS[:, None, None, :end] if needed else None
        if all(mask is None for mask in form.values()):
            return None
        return self._form(
            {kind: m if m is not None else self._open[kind][:, None, None, :end] for kind, m in form.items()}
        )

    def _form(self, masks: dict[str, Tensor]) -> Any:
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def padding(self, end: int) -> Tensor:
        """(B, end) of 0 and 1, from which a model makes its own masks."""
        return self._open[next(iter(self._open))][:, :end].long()

    def join(self, other: Masks, moved: tuple[int, int], num_slots: int) -> None:
        """Add the rows of `other`; `moved`: by how many slots each went right (StaticKV.join)."""
        first = self.num_prefix
        for kind in self.windows:
            pair = zip((self._open[kind], other._open[kind]), moved)
            self._open[kind] = torch.cat([_moved(valid_BS, first, shift, num_slots) for valid_BS, shift in pair])
            closed = zip((self._closed_to[kind], other._closed_to[kind]), moved)
            self._closed_to[kind] = min(to + shift * (to > first) for to, shift in closed)
        self._look_for_padding()

    def num_unseen(self, end: int) -> int:
        """How many slots right after the prefix no row sees any more, of those before `end`."""
        seen_S = torch.stack([valid_BS[:, self.num_prefix : end].any(0) for valid_BS in self._open.values()]).any(0)
        return int(seen_S.int().argmax()) if bool(seen_S.any()) else end - self.num_prefix

    def trim(self, num_slots: int) -> None:
        """Drop so many slots right after the prefix."""
        first = self.num_prefix
        for kind, valid_BS in self._open.items():
            self._open[kind] = torch.cat([valid_BS[:, :first], valid_BS[:, first + num_slots :]], 1)
            self._closed_to[kind] = max(first, self._closed_to[kind] - num_slots)
        self._look_for_padding()

    def keep(self, rows: Tensor) -> None:
        """Keep the rows listed."""
        self._open = {kind: valid.index_select(0, rows) for kind, valid in self._open.items()}
        self._look_for_padding()

    def _look_for_padding(self) -> None:
        self.padded = not all(bool(valid[:, self.num_prefix :].all()) for valid in self._open.values())


def _moved(valid_BS: Tensor, first: int, shift: int, num_slots: int) -> Tensor:
    """Slots from `first` on moved right by `shift`, over `num_slots` slots: those left behind are padding, those to come open."""
    moved_BS = torch.ones((len(valid_BS), num_slots), dtype=torch.bool, device=valid_BS.device)
    kept = min(valid_BS.shape[1], num_slots - shift)
    moved_BS[:, first : first + shift] = False
    moved_BS[:, first + shift : kept + shift] = valid_BS[:, first:kept]
    return moved_BS


def left_padded(
    prompts: Sequence[Sequence[int]], *, num_prefix: int, num_slots: int, pad_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts against the right edge: ids (B, T), positions (B, T) counted from the prefix, and valid slots (B, S)."""
    width = max(len(prompt) for prompt in prompts)
    ids_BT = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    valid_BS = torch.ones((len(prompts), num_slots), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids_BT[row, width - len(prompt) :] = torch.as_tensor(list(prompt), dtype=torch.long)
        valid_BS[row, num_prefix : num_prefix + width - len(prompt)] = False
    lengths_B1 = torch.tensor([[len(prompt)] for prompt in prompts])
    positions_BT = (torch.arange(width)[None] - (width - lengths_B1)).clamp_(min=0) + num_prefix
    return ids_BT, positions_BT, valid_BS
