"""The one training loop: a batch from a source, its gradient, a step; evaluated, logged and saved when due.

Left out: how a batch becomes a gradient (step.py), how the loop's state is kept (resume.py), what the numbers mean (objectives),
what is trained (methods), where rows come from (sources), and every decision of a recipe (workshop/build.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bottega.core import devices
from bottega.core.errors import Diverged, UserError
from bottega.core.types import Progress, Row
from bottega.train import evaluation, fit, parallel, resume
from bottega.train.diagnosis import locate
from bottega.train.guards import SelfCheck
from bottega.train.metrics import attention_flops, averages, flops, log_to
from bottega.train.parts import Fit, Outcome, Parts
from bottega.train.precision import finish_gradient
from bottega.train.schedule import scale_at
from bottega.train.settings import LoopSettings, most_tokens
from bottega.train.step import Stopped, penalise
from bottega.train.watch import Why, sentence

__all__ = ["Loop", "Outcome", "Parts"]


class Loop:
    """Runs `parts` under `settings` in `folder`, where checkpoints/, metrics.jsonl and timing.jsonl lie.

    The weights, optimizer, random state, data cursor and logged losses after any kill and resume equal those of a run that was
    never killed, bit for bit on one CPU with the same number of threads.
    """

    def __init__(self, parts: Parts, settings: LoopSettings, folder: Path, progress: Progress) -> None:
        self.parts, self.settings, self.folder, self.progress = parts, settings, folder, progress
        self.state = resume.State(fit=Fit(tokens=most_tokens(settings.micro_tokens, parts.device)))
        self.saved_step = -1
        self.work, self.labels = flops(parts.scorer), 0.0
        self.attention, self.squares = attention_flops(parts.scorer), 0
        self.check: SelfCheck | None = None

    @property
    def step(self) -> int:
        """Steps done."""
        return self.state.step

    @property
    def outcome(self) -> Outcome:
        """How it stands."""
        return self.state.outcome

    def run(self) -> Outcome:
        """Continue from the newest good checkpoint, or start, and train to the end."""
        (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        if self.parts.attached.adapting is not None:
            self.parts.attached.adapting.begin(self.settings.steps)
        if self.parts.device == "cpu" and self.settings.fills_memory:
            devices.keep_heap()
        self.state = resume.resume(self.parts, self.settings, self.folder, self.progress.note)
        parallel.distinct_noise(self.parts.world, self.step)
        for note in self.parts.notes:
            self.progress.note(note)
        self.parts.wrapped.train()
        if self.step < self.settings.self_check:
            steps = min(self.settings.self_check, self.settings.steps)
            self.check = SelfCheck(self.parts.scorer, steps=steps, taught=self.parts.taught)
        if self.step == 0:
            self.state.fit = fit.begin(self.parts, self.settings, self.progress.note)
            if self.settings.on_nonfinite == "rollback":
                self._save()  # what a failure before the first checkpoint goes back to
        while (self.step < self.settings.steps or self.state.owed) and self.outcome.reason == "steps":
            self._train()
        self.outcome.step = self.step
        return self.outcome

    def _train(self) -> None:
        """Steps with their logs, to the end of the run or to a roll-back, after which the logs are shorter."""
        writes = self.parts.world.rank == 0
        with (
            log_to(self.folder / "metrics.jsonl", writes) as log,
            log_to(self.folder / "timing.jsonl", writes) as timing,
        ):
            done = self.step - 1
            while (self.step < self.settings.steps or self.state.owed) and self.outcome.reason == "steps":
                began, cpu = time.perf_counter(), time.process_time()
                if self.state.owed is not None:  # the step is done; what was stopped is its evaluation
                    line, spent = self.state.owed["line"], self.state.owed["spent"]
                    self.state.owed, self.saved_step = None, -1
                else:
                    done = self.step
                    line = self.one_step()
                    if self.step <= done:
                        break
                    now = time.process_time()
                    spent = {
                        "step": self.step,
                        "seconds": time.perf_counter() - began,
                        "cpu_s": now - cpu,
                        "process_s": now,
                    }
                if self._due(self.settings.eval_every):
                    try:
                        line |= self._evaluate()
                    except Stopped:
                        self._owe(line, spent)
                        break
                log.write(line)
                rates = self._rates(line["tokens"], spent["seconds"])
                timing.write(
                    spent | {"tokens": line["tokens"], "mfu": rates["mfu"], "flops": self._flops(line["tokens"])}
                )
                shown = {k: v for k, v in line.items() if k != "step"}
                if "loss" in line:  # not the step of a batch that gave none
                    self.outcome.last = shown
                self.progress.update(self.step, shown | rates)
                pinned = self.step in self.settings.pin
                if pinned or self._due(self.settings.save_every) or self.outcome.reason != "steps":
                    log.sync()
                    self._save()
        if self.step <= done and self.parts.world.rank == 0:
            resume.trim(self.folder, self.state)

    def _rates(self, tokens: int, seconds: float) -> dict[str, float]:
        """What the live view shows: tokens per second, model FLOPs utilisation (`metrics.flops` of this step, over its
        seconds and the peak of all devices), memory in GB."""
        seconds = max(seconds, 1e-9)
        return {
            "tokens/s": tokens / seconds,
            "mfu": self._flops(tokens) / seconds / (devices.peak_flops(str(self.parts.place)) * self.parts.world.size),
            "GB": devices.memory_gb(str(self.parts.place)),
        }

    def _flops(self, tokens: int) -> float:
        """Operations of the step just done."""
        return tokens * self.work.per_token + self.labels * self.work.per_label + self.squares * self.attention

    def _due(self, every: int) -> bool:
        return self.step == self.settings.steps or (every > 0 and self.step % every == 0)

    def _save(self) -> None:
        if self.saved_step != self.step:
            self.saved_step = self.step
            resume.save(self.parts, self.settings, self.folder, self.state, self.progress.note)

    def one_step(self) -> dict[str, Any]:
        """Take one optimizer step and return its line of the log."""
        parts, settings, state = self.parts, self.settings, self.state
        if parts.attached.before_step is not None and parts.attached.before_step(state.step + 1):
            parts.rebuild()
        before, random = state.cursor, devices.random_state()
        rows, state.cursor = parts.source.next()
        if parts.spec.prepare is not None:
            rows = parts.spec.prepare(rows, self._score)
        lr = self._set_rate()
        heard: dict[int, float] | None = {} if parts.source.listens else None
        step = state.step + 1
        try:
            sums, counts = fit.gradient(parts, rows, state.fit, step=step, heard=heard, note=self.progress.note)
        except Stopped:
            return self._take_back(before, random)
        metrics, self.labels = averages(sums, counts), counts["tokens"]
        self.squares = sum(row.num_tokens**2 for row in rows)
        scaled = parts.loss_scale
        metrics |= penalise(parts)
        norm = finish_gradient(parts.scorer.parameters(), parts.optimizer, clip=settings.clip, scale=scaled, step=step)
        overflow = scaled is not None and math.isfinite(metrics["loss"]) and not scaled.judge(norm, step)
        why = None if overflow else state.watch.judge(metrics["loss"], norm, settings)
        if why is not None:
            return self._leave_out(why, rows, metrics | {"gradient_norm": norm}, counts, lr)
        if not overflow:
            if self.check is not None:
                self.check.after_backward(parts.scorer, parts.optimizer.used)
            parts.optimizer.step()
            if parts.attached.adapting is not None:
                parts.attached.adapting.after_update(step)
        elif scaled is not None:
            self.progress.note(
                f"step {step}: fp16 overflowed; the step is skipped, the loss is now scaled by {scaled.value:g}"
            )
        parts.optimizer.zero_grad(set_to_none=True)
        if parts.attached.after_step is not None and parts.attached.after_step(state.step + 1):
            parts.rebuild()
        state.step += 1
        self._check_done(metrics["loss"])
        if state.watch.take(metrics["loss"]) and settings.spikes == "warn":
            self.progress.note(f"step {state.step}: loss {metrics['loss']:.4g} is a spike; it was learned from")
        parts.source.tell([row.index for row in rows], [heard[row.index] for row in rows] if heard else [], metrics)
        state.tokens_seen += int(counts["seen"])
        return self._line(metrics, counts, lr, norm)

    def _owe(self, line: dict[str, Any], spent: dict[str, Any]) -> None:
        """An evaluation that was stopped in the middle: the step before it is saved, and what goes on begins with it."""
        self.state.owed = {"line": line, "spent": spent}
        self.outcome.reason, self.saved_step = "interrupted", -1
        self._save()

    def _take_back(self, cursor: dict[str, Any], random: Mapping[str, Any]) -> dict[str, Any]:
        """A batch that was stopped in the middle was never begun: what is saved continues with it."""
        self.parts.optimizer.zero_grad(set_to_none=True)
        self.state.cursor = cursor
        devices.set_random_state(random)
        if self.step:
            self.outcome.reason = "interrupted"
            self._save()
        self.outcome.reason = "interrupted"
        return {}

    def _line(
        self, metrics: Mapping[str, float], counts: Mapping[str, float], lr: float, norm: float
    ) -> dict[str, Any]:
        """The step's line of the log."""
        skipped, scaled = len(self.state.watch.skipped), self.parts.loss_scale
        return {
            "step": self.step,
            **metrics,
            "lr": lr,
            **({"gradient_norm": norm} if math.isfinite(norm) else {}),
            "tokens": int(counts["seen"]),
            "rows": int(counts["rows"]),
            **({"skipped": skipped} if skipped else {}),
            **({"loss_scale": scaled.value, "overflows": scaled.skipped} if scaled is not None else {}),
        }

    def _leave_out(
        self, why: Why, rows: Sequence[Row], metrics: dict[str, float], counts: Mapping[str, float], lr: float
    ) -> dict[str, Any]:
        """A batch that must not be learned from: weights and optimizer stay, or go back, or the run stops.

        Raises:
            Diverged: the policy says stop, or too many batches were left out.
        """
        state, settings, norm = self.state, self.settings, metrics.pop("gradient_norm")
        self.parts.optimizer.zero_grad(set_to_none=True)
        entry: dict[str, Any] = {"step": state.step + 1, "why": why, "loss": metrics["loss"]}
        if why == "spike":
            entry |= {"limit": state.watch.limit, "rows": [row.index for row in rows]}
        else:
            layer, indices = locate(self.parts, rows)
            entry |= {"loss": str(metrics["loss"]), "norm": str(norm), "layer": layer, "rows": indices}
        said = sentence(entry)
        if why == "non-finite" and settings.on_nonfinite == "stop":
            raise Diverged(
                f"{said}: the weights are as before this step; lower lr, look at these rows, or set on_nonfinite: skip"
            )
        state.watch.skip(entry, max_skips=settings.max_skips)
        self.progress.note(f"{said}: left out ({len(state.watch.skipped)} so far)")
        if why == "non-finite" and settings.on_nonfinite == "rollback":
            self.state = resume.roll_back(self.parts, self.folder, state, self.progress.note)
            self.saved_step = self.step
            return {}
        if self.parts.world.rank == 0:
            resume.write_skipped(self.folder, state.watch)
        if self.parts.attached.after_step is not None and self.parts.attached.after_step(state.step + 1):
            self.parts.rebuild()
        state.step += 1
        line = self._line(metrics, counts, lr, norm)
        return {name: value for name, value in line.items() if math.isfinite(value)}

    def _set_rate(self) -> float:
        """The schedule's learning rate for the step that comes, set on every group."""
        settings = self.settings
        scale = scale_at(
            self.step,
            steps=settings.steps,
            schedule=settings.schedule,
            warmup=settings.warmup,
            decay=settings.decay,
            floor=settings.floor,
        )
        for group in self.parts.optimizer.param_groups:
            group["lr"] = settings.lr * scale * group.get("lr_scale", 1.0)
        return settings.lr * scale

    def _check_done(self, loss: float) -> None:
        if loss == 0.0 and not self.parts.spec.signed:
            raise UserError(
                f"step {self.step}: the loss is exactly 0, so no token is being learned: look at the rows with `data inspect`"
            )
        if self.check is not None and self.step >= self.check.steps:
            self.check.finish(self.parts.scorer, self.progress.note, self.parts.optimizer.moves_unseen)
            self.check = None

    def _score(self, rows: Sequence[Row], needs: Sequence[str], view: str = "policy") -> list[dict[str, Any]]:
        """Per row, arrays of `needs` over its supervised tokens, without gradient: for `prepare`."""
        from bottega.train.scoring import score_rows

        return score_rows(
            self.parts, rows, needs, view=view, micro_tokens=most_tokens(self.settings.micro_tokens, self.parts.device)
        )

    def _evaluate(self) -> dict[str, float]:
        """Evaluation metrics with `eval.` in front; the best is remembered and saved."""
        if self.parts.validate is None:
            return {}
        found = evaluation.evaluate(self.parts, self.step)
        if self.settings.early_stop and evaluation.is_best(self.settings, self.state, found):
            self._save()
        return {f"eval.{name}": value for name, value in found.items()}
