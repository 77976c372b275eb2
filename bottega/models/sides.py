"""Decoding of encoder-decoders: the prompts are read once, then written to, token by token, with transformers' own caches.

Left out: our static cache and masks (decode.py), and speculation.

Shapes: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from bottega.models import kinds


class SidesBatch:
    """Prompts padded on the right for the encoder; the decoder's rows are of one length."""

    def __init__(self, forward: Any, prompts: Sequence[Sequence[int]]) -> None:
        self.forward = forward
        start, end = kinds.start_of(forward.config), kinds.end_of(forward.config)
        read = [list(prompt) if prompt[-1] == end else [*prompt, end] for prompt in prompts]
        width = max(map(len, read))
        ids = torch.zeros((len(read), width), dtype=torch.long)
        mask = torch.zeros((len(read), width), dtype=torch.long)
        for row, one in enumerate(read):
            ids[row, : len(one)] = torch.tensor(one)
            mask[row, : len(one)] = 1
        self.mask_BT = mask.to(forward.device)
        inner: Any = forward.model.get_base_model() if hasattr(forward.model, "get_base_model") else forward.model
        states = inner.get_encoder()(input_ids=ids.to(forward.device), attention_mask=self.mask_BT)[0]
        self.states = states
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        begun = torch.tensor([list(start)] * len(read), device=forward.device)
        self.next = self._step(begun)

    def _step(self, ids_BT: Tensor) -> Tensor:
        out = self.forward.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.states),
            attention_mask=self.mask_BT,
            decoder_input_ids=ids_BT,
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.logits[:, -1]

    def logits(self) -> Tensor:
        """Logits (B, V) for the next token of every row."""
        return self.next

    def feed(self, ids_B: Tensor) -> None:
        """The tokens that were chosen."""
        self.next = self._step(ids_B[:, None])

    def keep(self, rows: Tensor) -> None:
        """Keep the rows listed."""
        self.cache.self_attention_cache.batch_select_indices(rows)
        self.cache.cross_attention_cache.batch_select_indices(rows)
        self.states, self.mask_BT = self.states.index_select(0, rows), self.mask_BT.index_select(0, rows)
        self.next = self.next.index_select(0, rows)
