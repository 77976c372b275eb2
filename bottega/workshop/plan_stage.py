"""One stage of a recipe planned: its rows, what its step needs, and what that comes to in memory, seconds and disk.

Left out: other ways to run it (plan_ways.py), devices (plan_devices.py) and printing (plan.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bottega.core.types import Row
from bottega.models.formed import rows_at_once
from bottega.train.objectives import OBJECTIVES
from bottega.train.settings import LoopSettings
from bottega.workshop import plan_rehearsal, plan_shape
from bottega.workshop.build import settings_of
from bottega.workshop.plan_memory import Memory, Needs, deeper, memory_of, needs_of, quantised, streamed
from bottega.workshop.plan_rehearsal import Work
from bottega.workshop.plan_rows import StageRows, most_tokens
from bottega.workshop.plan_shape import Shape
from bottega.workshop.plan_target import Target
from bottega.workshop.plan_time import seconds, terms
from bottega.workshop.recipe import Stage

ROW_BYTES, TOKEN_BYTES, REFERENCE_BYTES = 1200, 8, 4
"""Memory of a row beside its tokens, of a token (id and weight), and of a cached reference log-probability."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How a stage is run, as far as memory knows: method with its options, and the loop's settings by name."""

    method: str
    options: Mapping[str, Any]
    loop: Mapping[str, Any]

    @property
    def base(self) -> str:
        """How the base's linear layers are kept: full, nf4 or int8."""
        return str(self.options.get("base", "nf4")) if self.method == "qlora" else "full"

    def but(self, **loop: Any) -> Way:
        """The same with other settings."""
        return dataclasses.replace(self, loop={**self.loop, **loop})


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """A stage's numbers on a device. step_s: device or CPU seconds of a step; train_s, reference_s, evaluate_s: of the whole;
    disk: bytes written; terms: a step's work in seconds of the device's rates."""

    way: Way
    needs: Needs
    memory: Memory
    step_s: float
    train_s: float
    reference_s: float
    evaluate_s: float
    disk: float
    terms: dict[str, float]

    @property
    def total_s(self) -> float:
        return self.train_s + self.reference_s + self.evaluate_s


def way_of(stage: Stage) -> Way:
    """The way that a stage's recipe says."""
    return Way(method=stage.method.name, options=dict(stage.method.options), loop=stage.loop)


@dataclass(kw_only=True, eq=False)
class Rehearsals:
    """Rehearses one micro-batch of one model in many ways, each once."""

    shape: Shape
    rows: tuple[Row, ...]
    objective: str
    done: dict[str, Needs] = field(default_factory=dict)

    def needs(self, way: Way) -> Needs:
        """What the micro-batch needs in this way, for the whole depth of the model."""
        key = repr((way.method, sorted(way.options.items()), [way.loop.get(name) for name in REHEARSED]))
        if key not in self.done:
            at = plan_shape.depths(self.shape.config, least=int(way.options.get("active", 0)))
            if at is None:
                self.done[key] = self._at(self.shape.config, self.shape.num_layers, way)
            else:
                low, high = (self._at(plan_shape.at_depth(self.shape.config, n), n, way) for n in at)
                self.done[key] = deeper(low, high, at=at, depth=self.shape.num_layers)
        return self.done[key]

    def _at(self, config: Any, depth: int, way: Way) -> Needs:
        stream, precision = bool(way.loop.get("stream")), str(way.loop["precision"])
        low = precision == "bf16-true"
        name, options = way.method, dict(way.options)
        if name == "qlora":  # the same layers on the same shapes; what the base weighs is reckoned below
            name = "lora"
            options = {key: value for key, value in options.items() if key not in ("base", "merge_kl")}
        made = plan_shape.on_meta(config, name, options, dtype="bfloat16" if low else "float32")
        rehearsal = plan_rehearsal.rehearse(
            made.attached,
            self.rows,
            needs=OBJECTIVES[self.objective].needs,
            packed=made.packs and made.attached.packs,
            checkpointing=_recomputed(way.loop) if way.loop["checkpointing"] or stream else None,
            precision=precision,
        )
        each = 2.0 if low else 4.0
        on_disk = 2.0 if self.shape.file_bytes is None else self.shape.file_bytes / self.shape.numbers
        found = needs_of(
            rehearsal,
            optimizer=str(way.loop["optimizer"]),
            file_bytes_each=4.0 if on_disk > 3 else 2.0,
            dtype_bytes=each,
        )
        stack = made.stack * each
        if way.base != "full":
            largest = made.largest_linear * 4.0
            found = quantised(
                found, linear_numbers=made.linear, largest_linear=largest, kind=way.base, weight_bytes=each
            )
            stack -= rehearsal.weights - found.weights
        return streamed(found, layers_bytes=stack, num_layers=depth) if stream else found


def _recomputed(loop: Mapping[str, Any]) -> LoopSettings:
    names = ("recompute_every", "recompute_keep")
    return LoopSettings(steps=1, **{name: loop[name] for name in names if name in loop})


REHEARSED = ("checkpointing", "recompute_every", "recompute_keep", "precision", "optimizer", "stream")
"""Settings that a rehearsal depends on."""


def predict(
    stage: Stage, rehearsals: Rehearsals, rows: StageRows, target: Target, *, way: Way | None = None
) -> Predicted:
    """Memory, seconds and disk of a stage on a device.

    Args:
        way: another than the recipe's. rows: its micro_batches are those of the way's micro_tokens.
    """
    way = way or way_of(stage)
    share = min(1.0, most_tokens(way.loop) / max(1, rows.heavy_tokens))
    found = scaled_micro(rehearsals.needs(way), share)
    found = elsewhere(found, way.loop, device=target.kind)
    if target.kind != "cpu":
        found = with_more_logits(found, getattr(rehearsals.shape.config, "vocab_size", 0))
    splits = max(rows.micro_batches, rows.step_tokens / max(1, most_tokens(way.loop)))
    reference = any(need.startswith("ref.") for need in OBJECTIVES[stage.objective.name].needs)
    kept = rows.rows * ROW_BYTES + rows.tokens * TOKEN_BYTES + (rows.trained * REFERENCE_BYTES if reference else 0)
    memory = memory_of(
        found,
        micro_batches=splits,
        merges=stage.merges,
        self_check=stage.loop["self_check"] > 0,
        kept=kept if target.kind == "cpu" else 0.0,
        fit=target.fit,
        interpreter=target.interpreter,
    )
    one = terms(step_work(found, rows), target.rates)
    step_s = seconds(one, target.factors)
    forward = terms(_per_step(found.forward, found, rows), target.rates, steps=0)
    forward_s = seconds(forward, target.factors) / max(1.0, rows.step_tokens)
    settings = settings_of(stage, max(1, -(-rows.rows // stage.batch)))
    evaluations = rows.steps // settings.eval_every if settings.eval_every and stage.validation else 0
    return Predicted(
        way=way,
        needs=found,
        memory=memory,
        step_s=step_s,
        train_s=step_s * rows.steps,
        reference_s=forward_s * rows.tokens if reference else 0.0,
        evaluate_s=forward_s * rows.held_out * evaluations,
        disk=_disk(stage, found, rows, reference),
        terms=one,
    )


def step_work(found: Needs, rows: StageRows) -> Work:
    """The work of a step: its micro-batches, and the optimizer's passes over what learns."""
    work = _per_step(found.work, found, rows)
    passes = (
        found.gradients * 6 + found.states * 2
    )  # weight read and written, gradient read; clipping reads twice, writes once
    return dataclasses.replace(work, bytes=work.bytes + passes)


def _per_step(work: Work, found: Needs, rows: StageRows) -> Work:
    """A micro-batch's work for all tokens of a step."""
    heavy = sum(float(len(row.prefix.ids) + len(b.ids)) ** 2 for row in rows.heaviest for b in row.branches)
    return work.scaled(
        tokens=rows.step_tokens / max(1.0, found.tokens),
        attention=rows.step_squares / max(1.0, heavy),
        kernels=rows.micro_batches,
    )


def _disk(stage: Stage, found: Needs, rows: StageRows, reference: bool) -> float:
    """Checkpoints kept (with the one being written), the result, and the cache."""
    adapter = stage.method.name not in ("full", "lisa")
    model = found.trainable * 4.0 if adapter else found.total * 4.0
    saves = min(stage.loop["keep"], 5) + 1
    result = found.total * 4.0 if stage.merges or not adapter else model
    return saves * (model + found.states) + result + (rows.trained * REFERENCE_BYTES if reference else 0.0)


def elsewhere(found: Needs, loop: Mapping[str, Any], *, device: str) -> Needs:
    """The needs where states, activations or gradients do not stay: on disk, in host memory beside a GPU, or stepped at once."""
    places = ("file",) if device == "cpu" else ("file", "host")
    if loop.get("optimizer_states") in places:
        found = dataclasses.replace(found, states=2 * found.largest)  # one tensor's at a time
    first, later = found.first_peak, found.later_peak
    if loop.get("step_in_backward"):
        gone = max(0.0, found.gradients - found.largest)
        first, later = max(first - gone, found.largest), max(later - gone, found.largest)
        found = dataclasses.replace(found, gradients=min(found.gradients, found.largest))
    if loop.get("saved_activations") in places:
        first, later = (
            found.gradients + found.head + (peak - found.gradients - found.head) * AWAY for peak in (first, later)
        )
    return dataclasses.replace(found, first_peak=first, later_peak=later)


AWAY = 0.15
"""Of the activations, what is in use while the rest lies elsewhere (some of one layer's, of a few layers)."""


def with_more_logits(found: Needs, vocabulary: int) -> Needs:
    """The needs on a GPU, which holds more rows of logits at once than the rehearsal did (models/formed.py)."""
    if not found.head or not vocabulary:
        return found
    held = min(rows_at_once("cuda", vocabulary, plan_rehearsal.HEAD_CHUNK), found.tokens)
    more = 4.0 * plan_rehearsal.HEAD_BUFFERS * max(0.0, held - plan_rehearsal.HEAD_CHUNK) * vocabulary
    return dataclasses.replace(
        found, head=found.head + more, first_peak=found.first_peak + more, later_peak=found.later_peak + more
    )


def scaled_micro(found: Needs, share: float) -> Needs:
    """The needs with micro-batches `share` as long: what is not gradients shrinks with the tokens."""

    def shrunk(peak: float) -> float:
        return found.gradients + max(0.0, peak - found.gradients) * share

    return dataclasses.replace(found, first_peak=shrunk(found.first_peak), later_peak=shrunk(found.later_peak))
