"""The one training loop: rows from a source, laid down, scored, turned into terms, summed to a gradient, stepped.

Left out: what the numbers mean (objectives), what is trained (methods), where rows come from (sources), and every decision
of a recipe (workshop/build.py).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bottega.core import devices
from bottega.core.errors import UserError
from bottega.core.rundir import append_jsonl, trim_jsonl
from bottega.core.types import Attached, Progress, Row, Source, Spec, Targets, Tokens
from bottega.data.pack import micro_batches
from bottega.models.layout import Layout, lay
from bottega.models.score import Scorer
from bottega.train import checkpoint, parallel
from bottega.train.coupled import coupled_backward
from bottega.train.guards import SelfCheck, check_finite, heaviest, memory_errors
from bottega.train.metrics import averages
from bottega.train.schedule import scale_at
from bottega.train.settings import LoopSettings

LOOK_AHEAD = 10_000
"""Steps among which the heaviest is looked for."""
PRELUDE_SHARE = 0.02
"""Of the run's tokens, what trying the heaviest micro-batch first may cost."""


@dataclass(kw_only=True, slots=True, eq=False)
class Parts:
    """What `assemble` built: the loop's hands."""

    attached: Attached
    spec: Spec
    source: Source
    scorer: Scorer
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    rebuild: Callable[[], None]
    world: parallel.World
    packed: bool
    pad_id: int
    save_model: Callable[[str], None]
    validate: Callable[[int], Mapping[str, float]] | None = None


@dataclass(kw_only=True, slots=True)
class Outcome:
    """How a run ended: steps done, the best evaluation and its step, the last metrics, why it stopped."""

    step: int = 0
    best: float | None = None
    best_step: int = -1
    reason: str = "steps"
    last: dict[str, float] = field(default_factory=dict)


class Loop:
    """Runs `parts` under `settings` in `folder`, where checkpoints/, metrics.jsonl and timing.jsonl lie.

    The weights, optimizer, random state, data cursor and logged losses after any kill and resume equal those of a run that was
    never killed, bit for bit on one CPU with the same number of threads.
    """

    def __init__(self, parts: Parts, settings: LoopSettings, folder: Path, progress: Progress) -> None:
        self.parts, self.settings, self.folder, self.progress = parts, settings, folder, progress
        self.outcome = Outcome()
        self.step = 0
        self.bad_evaluations = 0
        self.cursor: dict[str, Any] = {}
        self.tokens_seen = 0
        self.saved_step = -1
        learn = sum(p.numel() for p in parts.scorer.parameters() if p.requires_grad)
        self.flops_per_token = 4 * sum(p.numel() for p in parts.scorer.parameters()) + 2 * learn
        self.check: SelfCheck | None = None

    def run(self) -> Outcome:
        """Continue from the newest good checkpoint, or start, and train to the end."""
        (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        self._resume()
        self.parts.wrapped.train()
        if self.step == 0:
            self._prelude()
        with append_jsonl(self.folder / "metrics.jsonl") as log, append_jsonl(self.folder / "timing.jsonl") as timing:
            while self.step < self.settings.steps and self.outcome.reason == "steps":
                began, cpu = time.perf_counter(), time.process_time()
                line = self.one_step()
                now = time.process_time()
                spent = {
                    "step": self.step,
                    "seconds": time.perf_counter() - began,
                    "cpu_s": now - cpu,
                    "process_s": now,
                }
                due = self._due(self.settings.eval_every)
                if due:
                    line |= self._evaluate()
                log.write(line)
                timing.write(spent | {"tokens": line["tokens"]})
                self.outcome.last = {k: v for k, v in line.items() if k != "step"}
                self.progress.update(self.step, self.outcome.last | self._rates(line["tokens"], spent["seconds"]))
                if self._due(self.settings.save_every) or self.outcome.reason != "steps":
                    log.sync()
                    self._save()
        self.outcome.step = self.step
        return self.outcome

    def _rates(self, tokens: int, seconds: float) -> dict[str, float]:
        """What only the live view shows: tokens per second, model FLOPs utilisation (2 FLOPs a weight forward, 2 for the gradient
        of activations, 2 more where the weight learns; attention not counted), memory in GB."""
        speed = tokens / max(seconds, 1e-9)
        return {
            "tokens/s": speed,
            "mfu": speed * self.flops_per_token / devices.peak_flops(),
            "GB": devices.memory_gb(),
        }

    def _due(self, every: int) -> bool:
        return self.step == self.settings.steps or (every > 0 and self.step % every == 0)

    def _resume(self) -> None:
        path = checkpoint.newest_good(self.folder / "checkpoints", self.progress.note)
        if path is not None:
            before_step = self.parts.attached.before_step
            if before_step is not None and before_step(checkpoint.step_of(path) + 1):
                self.parts.rebuild()
            state = checkpoint.restore(path, scorer=self.parts.scorer, optimizer=self.parts.optimizer)
            self.step, self.cursor = state["step"], state["cursor"]
            self.tokens_seen, self.bad_evaluations = state["tokens_seen"], state["bad_evaluations"]
            self.outcome = Outcome(**state["outcome"])
            if self.outcome.reason == "interrupted":  # a signal had asked for this checkpoint; now it goes on
                self.outcome.reason = "steps"
            self.parts.source.restore(self.cursor)
            if state["threads"] != torch.get_num_threads():
                self.progress.note(
                    f"this run used {state['threads']} threads before and {torch.get_num_threads()} now: "
                    "it continues, but not bit for bit"
                )
            self.progress.note(f"continuing after step {self.step}")
        for name in ("metrics.jsonl", "timing.jsonl"):
            trim_jsonl(self.folder / name, lambda line: line["step"] <= self.step)

    def _save(self) -> None:
        if self.parts.world.rank != 0 or self.saved_step == self.step:
            return
        self.saved_step = self.step
        state = {
            "step": self.step,
            "cursor": self.cursor,
            "tokens_seen": self.tokens_seen,
            "bad_evaluations": self.bad_evaluations,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "outcome": {
                "step": self.step,
                "best": self.outcome.best,
                "best_step": self.outcome.best_step,
                "reason": self.outcome.reason,
                "last": self.outcome.last,
            },
        }
        folder = self.folder / "checkpoints"
        checkpoint.save(
            folder,
            self.step,
            scorer=self.parts.scorer,
            optimizer=self.parts.optimizer,
            save_model=self.parts.save_model,
            loop=state,
        )
        checkpoint.prune(folder, keep=self.settings.keep, spare=[self.outcome.best_step])

    def _prelude(self) -> None:
        """The heaviest micro-batch that will come is tried before the first step; everything it touched is put back.

        It is left out where it would cost over a fiftieth of the run: that run meets it soon by itself.
        """
        if self.settings.self_check:
            self.check = SelfCheck(self.parts.scorer, steps=min(self.settings.self_check, self.settings.steps))
        if self.parts.spec.coupled:
            return
        step, tokens = heaviest(self.parts.source.ahead(min(self.settings.steps, LOOK_AHEAD)))
        rows = max(self._plan(step), key=lambda batch: sum(row.num_tokens for row in batch), default=[])
        if not rows or sum(row.num_tokens for row in rows) > PRELUDE_SHARE * tokens:
            return
        before = checkpoint.random_state()
        with self._memory():
            layout, targets = self._lay(rows)
            self._terms(layout, targets, {unit: 1.0 for unit in self.parts.spec.units}).backward()
        self.parts.optimizer.zero_grad(set_to_none=True)
        checkpoint.set_random_state(before)

    @contextlib.contextmanager
    def _memory(self):
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            clear = memory_errors(error)
            if clear is None:
                raise
            raise clear from error

    def _lay(self, rows: Sequence[Row]) -> tuple[Layout, Targets]:
        num_prefix = self.parts.attached.inputs.num_prefix if self.parts.attached.inputs else 0
        return lay(rows, packed=self.parts.packed, pad_id=self.parts.pad_id, num_prefix=num_prefix)

    def _plan(self, rows: Sequence[Row]) -> list[list[Row]]:
        """This rank's rows in micro-batches; every rank has equally many, an empty one where rows run out."""
        world = self.parts.world
        mine = rows[world.rank :: world.size]
        sizes = [
            row.num_tokens
            if self.parts.packed
            else len(row.branches) * max(len(row.prefix.ids) + len(b.ids) for b in row.branches)
            for row in mine
        ]
        plan = micro_batches(sizes, max_tokens=self.settings.micro_tokens, packed=self.parts.packed)
        wanted = parallel.most(world, len(plan))
        if len(plan) < wanted and len(mine) >= wanted:
            plan = micro_batches(
                sizes, max_tokens=self.settings.micro_tokens, packed=self.parts.packed, at_least=wanted
            )
        batches = [[mine[i] for i in members] for members in plan]
        return batches + [[] for _ in range(wanted - len(batches))]

    def one_step(self) -> dict[str, Any]:
        """Take one optimizer step and return its line of the log."""
        parts, settings = self.parts, self.settings
        if parts.attached.before_step is not None and parts.attached.before_step(self.step + 1):
            parts.rebuild()
        rows, self.cursor = parts.source.next()
        if parts.spec.prepare is not None:
            rows = parts.spec.prepare(rows, self._score)
        scale = scale_at(
            self.step,
            steps=settings.steps,
            schedule=settings.schedule,
            warmup=settings.warmup,
            decay=settings.decay,
            floor=settings.floor,
        )
        for group in parts.optimizer.param_groups:
            group["lr"] = settings.lr * scale * group.get("lr_scale", 1.0)
        with self._memory():
            sums, counts = self._backward(rows)
        metrics = averages(sums, counts)
        learned = [p for p in parts.scorer.parameters() if p.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(learned, settings.clip if settings.clip > 0 else float("inf"))
        norm_value = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        check_finite(metrics["loss"], norm_value, step=self.step + 1, rows=rows, module=parts.scorer, sums=metrics)
        if self.check is not None:
            self.check.after_backward(parts.scorer)
        parts.optimizer.step()
        parts.optimizer.zero_grad(set_to_none=True)
        if parts.attached.after_step is not None and parts.attached.after_step(self.step + 1):
            parts.rebuild()
        self.step += 1
        self._check_done(metrics["loss"])
        parts.source.tell([row.index for row in rows], [], metrics)
        tokens = counts["seen"]
        self.tokens_seen += int(tokens)
        return {
            "step": self.step,
            **metrics,
            "lr": settings.lr * scale,
            "gradient_norm": norm_value,
            "tokens": int(tokens),
            "rows": int(counts["rows"]),
        }

    def _check_done(self, loss: float) -> None:
        if loss == 0.0:
            raise UserError(
                f"step {self.step}: the loss is exactly 0, so no token is being learned: look at the rows with `data inspect`"
            )
        if self.check is not None and self.step >= self.check.steps:
            self.check.finish(self.parts.scorer, self.progress.note)
            self.check = None

    def _backward(self, rows: Sequence[Row]) -> tuple[dict[str, float], dict[str, float]]:
        """Gradient of the global batch into .grad; the sums of its metrics and the counts of its units."""
        parts, world = self.parts, self.parts.world
        batches = self._plan(rows)
        if parts.spec.coupled:
            laid = [self._lay(batch) for batch in batches if batch]
            return coupled_backward(parts.wrapped, parts.spec, laid, world)
        laid = [self._lay(batch or [_nothing(rows[0])]) for batch in batches]
        local = {"tokens": 0.0, "rows": 0.0, "seen": 0.0}
        for batch, (_, targets) in zip(batches, laid, strict=True):
            local["tokens"] += float(targets.weights_S.sum()) if batch else 0.0
            local["rows"] += len(batch)
            local["seen"] += sum(row.num_tokens for row in batch)
        counts = parallel.total(world, local)
        counts |= {"pairs": counts["rows"], "one": 1.0}
        if counts["tokens"] == 0:
            raise UserError(f"step {self.step + 1}: none of the {len(rows)} rows has a token to learn")
        sums: dict[str, float] = {}
        for number, (layout, targets) in enumerate(laid):
            with parallel.synced(parts.wrapped, number == len(laid) - 1):
                loss = self._terms(layout, targets, counts, sums if batches[number] else {})
                (loss * world.size).backward()
        return parallel.total(world, sums), counts

    def _terms(
        self, layout: Layout, targets: Targets, counts: Mapping[str, float], sums: dict[str, float] | None = None
    ) -> torch.Tensor:
        """One micro-batch's loss: sum over terms of weight * total / count[unit]; metrics are added to `sums`."""
        own = [need for need in self.parts.spec.needs if not need.startswith("ref.")]
        scores = self.parts.wrapped(layout, targets, own)
        for need in self.parts.spec.needs:
            if need.startswith("ref."):
                scores[need] = (
                    targets.tokens[need]
                    if need in targets.tokens
                    else self.parts.wrapped(layout, targets, (need.removeprefix("ref."),), "reference")[
                        need.removeprefix("ref.")
                    ]
                )
        terms, metrics = self.parts.spec.objective(scores, targets)
        if sums is not None:
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return sum(term.weight * term.total / counts[term.unit] for term in terms.values())  # type: ignore[return-value]

    def _score(self, rows: Sequence[Row], needs: Sequence[str], view: str = "policy") -> list[dict[str, Any]]:
        """Per row, arrays of `needs` over its supervised tokens, without gradient: for `prepare`."""
        from bottega.train.scoring import score_rows

        return score_rows(self.parts, rows, needs, view=view, micro_tokens=self.settings.micro_tokens)

    def _evaluate(self) -> dict[str, float]:
        """Evaluation metrics with `eval.` in front; random state and mode are put back, the best is remembered and saved."""
        if self.parts.validate is None:
            return {}
        before = checkpoint.random_state()
        self.parts.wrapped.eval()
        try:
            with torch.no_grad():
                found = dict(self.parts.validate(self.step))
        finally:
            self.parts.wrapped.train()
            checkpoint.set_random_state(before)
        if self.settings.early_stop:
            self._early_stop(found)
        return {f"eval.{name}": value for name, value in found.items()}

    def _early_stop(self, found: Mapping[str, float]) -> None:
        name = self.settings.early_stop
        if name not in found:
            raise UserError(f"early_stop watches {name!r}, but the evaluation gives {', '.join(found) or 'nothing'}")
        value, best = found[name], self.outcome.best
        better = best is None or (value < best if self.settings.early_stop_mode == "min" else value > best)
        if better:
            self.outcome.best, self.outcome.best_step, self.bad_evaluations = value, self.step, 0
            self._save()
            return
        self.bad_evaluations += 1
        if self.bad_evaluations >= self.settings.patience:
            where = f"best {best:.4g} at step {self.outcome.best_step}"
            self.outcome.reason = f"no better {name} in {self.bad_evaluations} evaluations ({where})"


def _nothing(row: Row) -> Row:
    """`row` with nothing to learn: keeps ranks in step where a rank has no rows left."""

    def mute(tokens: Tokens) -> Tokens:
        return Tokens(tokens.ids, [0.0] * len(tokens.ids))

    return Row(
        index=-1,
        prefix=mute(row.prefix),
        branches=tuple(mute(b) for b in row.branches),
        extras=row.extras,
        tokens={name: () for name in row.tokens},
    )
