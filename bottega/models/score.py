"""The Scorer: trunk, head and per-token statistics in one forward, the only way training calls a model.

Left out: losses (train/objectives) and sampling (models/generate.py). One view per backward: adapters that are switched
between a forward and its backward would be recomputed wrongly under checkpointing.

Shapes: B rows, T positions, D width, S supervised positions, Q sequences, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from bottega.core.types import Attached, Inputs, Scores, Targets
from bottega.models import attention, heads, kinds, tail
from bottega.models.attention import Geometry
from bottega.models.formed import rows_at_once
from bottega.models.layout import Layout, placed
from bottega.models.place import place_of
from bottega.models.reward import ADAPTER, worn
from bottega.models.tail import part_of

PER_TOKEN = {"nll", "logp", "entropy", "value", "divergence", "step_reward"}
"""Needs that read the hidden states of supervised positions alone."""
View = Literal["policy", "reference", "reward"]


def _mean(flat: Tensor, layout: Layout) -> Tensor:
    """(Q, D): each sequence's hidden states averaged, as encoders are read; a decoder's last one has seen all the others."""
    lengths_Q = layout.last_Q - layout.first_Q + 1
    sequence = torch.arange(layout.num_sequences, device=flat.device).repeat_interleave(lengths_Q)
    before_Q = lengths_Q.cumsum(0) - lengths_Q
    at = torch.arange(len(sequence), device=flat.device) + (layout.first_Q - before_Q)[sequence]
    total = flat.new_zeros(layout.num_sequences, flat.shape[-1]).index_add(0, sequence, flat[at])
    return total / lengths_Q[:, None]


class Scorer(nn.Module):
    """Wraps a model with its method attached; DDP and FSDP2 wrap the Scorer, so that every parameter is reached through one forward.

    Args:
        attached: what a Method returned.
        vocabulary: number of token ids the model knows.
        head_chunk: rows of logits held at once on a CPU (a GPU holds more: models/formed.py).
        precision: fp32 or bf16-true (as the weights are), bf16 or fp16 (matrix products only). compiled: compile the trunk.
        value: adds a value head (D -> 1) for PPO; zero at the start.
        reference: a frozen copy of the stage's first model, where switching the adapter off is not that.
        saving: gives what a forward pass runs in, to say where what it saves for the backward pass waits.
    """

    def __init__(
        self,
        attached: Attached,
        *,
        vocabulary: int,
        head_chunk: int = 256,
        precision: str = "fp32",
        compiled: bool = False,
        value: bool = False,
        reference: nn.Module | None = None,
        saving: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        super().__init__()
        self.model = attached.model
        self.inputs = attached.inputs
        self.reference_kind = attached.reference_kind
        self.reference = [reference]  # in a list: its parameters are not this module's
        self.head = heads.find_head(attached.model, vocabulary)
        self.head_chunk = rows_at_once(place_of(attached.model).type, vocabulary, head_chunk)
        self.precision = precision
        self.saving = saving
        self.compiled = torch.compile(heads.trunk(attached.model)) if compiled else None
        config = heads.causal_model(attached.model).config
        self.kind = kinds.kind_of(config)
        self.first_position = kinds.first_position(heads.causal_model(attached.model)) if self.kind == "encoder" else 0
        self.value = nn.Linear(config.hidden_size, 1).to(place_of(attached.model)) if value else None
        if self.value is not None:
            nn.init.zeros_(self.value.weight)
            nn.init.zeros_(self.value.bias)
        self.reward = attached.reward
        self.tail = self.kind == "decoder" and self.head.kind != "own" and tail.install(attached.model)
        self.teacher = [attached.teacher]  # in a list, as the reference

    def sampled_at(self, temperature: float) -> None:
        """From now on log-probabilities are those of logits / temperature, as a Sampler at that temperature draws from."""
        self.head = replace(self.head, temperature=temperature)

    def forward(self, layout: Layout, targets: Targets, needs: Sequence[str], view: View = "policy") -> Scores:
        """Compute `needs` of one micro-batch.

        Args:
            needs: any of nll (), logp (S,), entropy (S,), value (S,), step_reward (S,), divergence (S,), reward (Q,), embedding
                (Q, D), labels (Q, C), tags (S, C); S and Q as in `targets`, C labels.
            view: whose numbers: the policy's, or the reference's or the joined reward model's (no gradient).

        Returns:
            The scores by need.
        """
        device = next(self.parameters()).device
        layout, targets = placed(layout, device), placed(targets, device)
        with self._as(view) as model, self._autocast(layout.ids_BT.device.type), self._saves():
            part = part_of(layout.at_S, layout.ids_BT.shape[1]) if self.tail and set(needs) <= PER_TOKEN else None
            arguments = self._arguments(model, layout, self.inputs if view == "policy" else None, part)
            if "labels" in needs or "tags" in needs:
                return self._labels(needs, model, layout, arguments)
            if self.head.kind == "own" and {"nll", "logp", "entropy"} & set(needs):
                return self._own(needs, model, layout, targets, arguments)
            hidden_SD, flat = self._hidden(model, layout, arguments)
            scores: Scores = {}
            for need in needs:
                if need == "divergence":
                    scores[need] = self._divergence(model, hidden_SD, layout)
                    continue
                scores[need] = self._statistic(need, model, hidden_SD, flat, layout, targets)
            return scores

    def _autocast(self, device: str) -> contextlib.AbstractContextManager[Any]:
        if self.precision in ("fp32", "bf16-true"):
            return contextlib.nullcontext()
        return torch.autocast(device, dtype=torch.float16 if self.precision == "fp16" else torch.bfloat16)

    def _saves(self) -> contextlib.AbstractContextManager[Any]:
        return self.saving() if torch.is_grad_enabled() else contextlib.nullcontext()

    @contextlib.contextmanager
    def _as(self, view: View) -> Iterator[nn.Module]:
        if view == "policy":
            yield self.model
            return
        with torch.no_grad():
            if view == "reward":
                with worn(self.model, ADAPTER):
                    yield self.model
            elif self.reference[0] is not None:
                yield self.reference[0]
            elif self.reference_kind == "off":
                with (
                    cast(Any, self.model).disable_adapter()
                    if hasattr(self.model, "disable_adapter")
                    else contextlib.nullcontext()
                ):
                    yield self.model
            else:
                raise AssertionError("no reference: the method needs a copy or cached log-probabilities")

    def _arguments(
        self, model: nn.Module, layout: Layout, inputs: Inputs | None, part: Tensor | None = None
    ) -> dict[str, Any]:
        """What the model is called with: ids, positions, how the row is packed or padded, and the part of it that is asked for."""
        if layout.source_BT is not None:
            sides = {"input_ids": layout.source_BT, "attention_mask": layout.source_mask_BT}
            return {**sides, "decoder_input_ids": layout.ids_BT, "use_cache": False}
        positions_BT, extra = layout.positions_BT, dict[str, Any]()
        if layout.geometry is not None:
            config = heads.causal_model(model).config
            assert config._attn_implementation == attention.NAME, (
                "packed rows need packed attention: see attention.install"
            )
            # a geometry of its own for this view: under checkpointing the layers read it again in the backward pass
            if inputs is not None:
                extra["layout"] = replace(layout.geometry, prefix_kv=inputs.served(model).prefix_kv, tail=part)
            else:
                extra["layout"] = Geometry(blocks=layout.geometry.blocks, tail=part)
                positions_BT = positions_BT - layout.geometry.num_prefix
        call = {"input_ids": layout.ids_BT, "attention_mask": layout.mask_BT}
        if self.kind == "encoder":  # alone in its row, a sequence starts where the family lets it start
            return call | (extra and {"position_ids": positions_BT + self.first_position, **extra})
        if kinds.is_labeller(heads.causal_model(model)):  # right padding moves no token: the family counts by itself
            return call | {"use_cache": False}
        return call | {"position_ids": positions_BT, "use_cache": False, **extra}

    def _labels(self, needs: Sequence[str], model: nn.Module, layout: Layout, arguments: dict[str, Any]) -> Scores:
        """Label scores by the model's own head: (Q, C), one row a sequence, or (S, C) at the tokens that have a tag."""
        logits = heads.causal_model(model)(**arguments).logits.float()
        if "labels" in needs:
            assert logits.dim() == 2, "a head for labels reads one sequence a row"
            return {"labels": logits}
        return {"tags": logits.reshape(-1, logits.shape[-1])[layout.at_S]}

    def _hidden(self, model: nn.Module, layout: Layout, arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Hidden states at the supervised positions (S, D) and all of them (B*T, D)."""
        grid = layout.geometry is None and torch.is_grad_enabled()  # one shape a run: anything else would compile anew
        call = self.compiled if self.compiled is not None and grid and model is self.model else heads.trunk(model)
        out = call(**arguments)[0]
        flat = out.reshape(-1, out.shape[-1])
        return flat[layout.at_S], flat

    def _divergence(self, model: nn.Module, hidden_SD: Tensor, layout: Layout) -> Tensor:
        """(S,) distances to the teacher's distributions; its row is laid out as the student's is."""
        (teacher,) = self.teacher
        assert teacher is not None, "no teacher: `attached.teacher` holds it"
        layer, told = heads.causal_model(model).get_output_embeddings(), self._arguments(teacher.model, layout, None)
        return teacher.divergences(hidden_SD, layer, self.head, told, layout.at_S, self.head_chunk)

    def _statistic(
        self, need: str, model: nn.Module, hidden_SD: Tensor, flat: Tensor, layout: Layout, targets: Targets
    ) -> Tensor:
        if need == "value":
            assert self.value is not None, "no value head: build the Scorer with value=True"
            return self.value(hidden_SD.to(self.value.weight.dtype))[:, 0].float()
        if need == "step_reward":
            assert self.reward is not None, "no reward head: `attached.reward` holds it"
            return self.reward(hidden_SD)
        if need == "reward":
            assert self.reward is not None, "no reward head: `attached.reward` holds it"
            return self.reward(_mean(flat, layout) if self.kind == "encoder" else flat[layout.last_Q])
        if need == "embedding":
            pooled_QD = _mean(flat, layout) if self.kind == "encoder" else flat[layout.last_Q]
            return torch.nn.functional.normalize(pooled_QD.float(), dim=-1)
        layer = heads.causal_model(model).get_output_embeddings()
        if need == "nll":
            return heads.nll_total(hidden_SD, layer, self.head, targets.labels_S, targets.weights_S, self.head_chunk)
        if need == "logp":
            return heads.token_logp(hidden_SD, layer, self.head, targets.labels_S, self.head_chunk)
        assert need == "entropy", f"unknown need {need!r}"
        return heads.token_entropy(hidden_SD, layer, self.head, self.head_chunk)

    def _own(
        self, needs: Sequence[str], model: nn.Module, layout: Layout, targets: Targets, arguments: dict[str, Any]
    ) -> Scores:
        """Logits by the model itself, for a head that nothing simple equals: (S, V) at once, in one forward pass."""
        if layout.ids_BT.shape[0] == 1 and self.kind == "decoder":
            arguments = {**arguments, "logits_to_keep": layout.at_S}
        out = heads.causal_model(model)(**arguments, output_hidden_states="value" in needs)
        whole = out.logits
        logits_SV = whole[0] if "logits_to_keep" in arguments else whole.reshape(-1, whole.shape[-1])[layout.at_S]
        logp_SV = torch.log_softmax(logits_SV.float() / self.head.temperature, -1)
        logp_S = logp_SV.gather(1, targets.labels_S[:, None])[:, 0]
        scores: Scores = {"nll": -(targets.weights_S * logp_S).sum(), "logp": logp_S}
        if "entropy" in needs:
            scores["entropy"] = -(logp_SV.exp() * logp_SV).sum(-1)
        if "value" in needs:
            assert self.value is not None, "no value head: build the Scorer with value=True"
            last = out.hidden_states[-1]
            scores["value"] = self.value(last.reshape(-1, last.shape[-1])[layout.at_S].to(self.value.weight.dtype))[
                :, 0
            ].float()
        return {need: scores[need] for need in needs}
