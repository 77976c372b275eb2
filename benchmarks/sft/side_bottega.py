"""Our side: the packed loop, built from the library's functions as `bottega run` builds it.

Left out: the recipe and the run folder's papers, which are no part of a step.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
from collections.abc import Mapping
from pathlib import Path

import measure

from bottega.core.types import Row
from bottega.data import formats, prepare
from bottega.models.load import load
from bottega.models.methods import method
from bottega.train import objectives
from bottega.train.assemble import assemble
from bottega.train.loop import Loop
from bottega.train.settings import LoopSettings
from bottega.train.source import Dataset


class Marks:
    """A progress display that shows nothing and marks each step on the meter."""

    def __init__(self, meter: measure.Meter) -> None:
        self.meter = meter
        self.notes: list[str] = []

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step has ended."""
        self.meter.mark(step)

    def note(self, line: str) -> None:
        """Kept for the result."""
        self.notes.append(line)


def same(made: list[Row], wanted: list[dict]) -> None:
    """Our rows must be the tokens that every side trains on."""
    for row, other in zip(made, wanted, strict=True):
        assert list(row.branches[0].ids) == other["ids"], "other tokens than the workload's"
        assert [int(t > 0) for t in row.branches[0].trains] == other["trains"], "another mask than the workload's"


def main() -> None:
    """Train one epoch and write the result."""
    options = measure.arguments()
    measure.quiet(options.threads)
    loaded = load(str(options.work / "model"))
    made, _ = prepare.rows(formats.samples(options.work / "chat.jsonl"), loaded.tokenizer, kind="chat", max_tokens=2048)
    same(made, measure.rows(options.work, "train"))
    attached = method(options.tune, **({"rank": options.rank} if options.tune == "lora" else {})).attach(loaded.model)
    source = Dataset(made, batch=options.batch, seed=0, shuffle=False)
    settings = LoopSettings(steps=source.steps_per_epoch, lr=options.lr, schedule="constant")
    meter = measure.Meter()
    marks = Marks(meter)
    parts = assemble(
        attached,
        objectives.spec("sft"),
        source,
        settings,
        vocabulary=loaded.model.config.vocab_size,
        pad_id=loaded.tokenizer.pad_token_id,
        packed=loaded.packs,
    )
    loop = Loop(parts, settings, Path(options.scratch), marks)
    run(loop, meter, options.profile)
    attached.model.eval()
    loss = measure.held_out_loss(lambda ids: attached.model(input_ids=ids).logits, options.work)
    measure.write(
        options.out,
        meter,
        packages=("torch", "transformers", "peft", "bottega"),
        setting="packed micro-batches (defaults), self-check on",
        loss=loss,
        notes=marks.notes,
    )


def run(loop: Loop, meter: measure.Meter, profile: str) -> None:
    """Train; on request under a profiler, whose table goes to stderr."""
    if profile == "torch":
        import torch

        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            meter.start()
            loop.run()
        table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=40, max_name_column_width=60)
        print(table, file=sys.stderr)
    elif profile == "python":
        with cProfile.Profile() as profiler:
            meter.start()
            loop.run()
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(40)
    else:
        meter.start()
        loop.run()


if __name__ == "__main__":
    main()
