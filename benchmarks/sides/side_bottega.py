"""Our side: the packed loop, built from the library's functions as `bottega run` builds it.

Left out: the recipe and the run folder's papers, which are no part of a step.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import measure

from bottega.core.types import Preference, Row, Turn, Where
from bottega.data import blocks, formats, prepare
from bottega.models.generate import Generator
from bottega.models.load import load
from bottega.models.methods import method
from bottega.train import objectives
from bottega.train.assemble import assemble
from bottega.train.loop import Loop
from bottega.train.scoring import with_reference
from bottega.train.settings import LoopSettings, most_tokens
from bottega.train.source import Dataset

PACKAGES = ("torch", "transformers", "peft", "bottega")
SETTINGS = {
    "full": "packed micro-batches (defaults), self-check on",
    "lora": "packed micro-batches (defaults), self-check on",
    "pretrain": "blocks in a grid (defaults), self-check on",
    "dpo": "shared prompts, reference scored first (counted), defaults, self-check on",
    "generate": "defaults",
}


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


def rows_of(part: str, work: Path, tokenizer: Any) -> list[Row]:
    """The part's rows, read from its text and compared with the ids that every side trains on."""
    if part == "pretrain":
        texts, _ = prepare.rows(formats.samples(work / "texts.jsonl"), tokenizer, kind="text", max_tokens=2048)
        wanted = measure.blocks(work, "train")
        cut = list(blocks.blocks(texts, length=len(wanted[0])))[: len(wanted)]
        assert [list(row.branches[0].ids) for row in cut] == wanted, "other blocks than the workload's"
        return cut
    if part == "dpo":
        pairs = measure.pairs(work)
        samples = [preference(pair, number) for number, pair in enumerate(pairs)]
        made, _ = prepare.rows(samples, tokenizer, kind="preference", max_tokens=2048)
        for row, pair in zip(made, pairs, strict=True):
            sides = [list(row.prefix.ids) + list(branch.ids) for branch in row.branches]
            wanted = [pair["prompt_ids"] + pair[side] for side in ("chosen_ids", "rejected_ids")]
            assert sides == wanted, "other tokens than the workload's"
        return made
    made, _ = prepare.rows(formats.samples(work / "chat.jsonl"), tokenizer, kind="chat", max_tokens=2048)
    for row, other in zip(made, measure.rows(work, "train"), strict=True):
        assert list(row.branches[0].ids) == other["ids"], "other tokens than the workload's"
        assert [int(t > 0) for t in row.branches[0].trains] == other["trains"], "another mask than the workload's"
    return made


def preference(pair: Mapping[str, Any], number: int) -> Preference:
    """One pair as the library has it."""
    return Preference(
        prompt=(Turn(role="user", content=pair["question"]),),
        chosen=(Turn(role="assistant", content=pair["chosen"]),),
        rejected=(Turn(role="assistant", content=pair["rejected"]),),
        where=Where("pairs.jsonl", number),
    )


def main() -> None:
    """Run the part and write the result."""
    options = measure.arguments()
    measure.quiet(options.threads)
    loaded = load(str(options.work / "model"))
    meter = measure.Meter()
    if options.part.startswith("generate"):
        generate(options, loaded.model, meter)
        return
    made = rows_of(options.part, options.work, loaded.tokenizer)
    attached = method(options.tune, **({"rank": options.rank} if options.tune == "lora" else {})).attach(loaded.model)
    source = Dataset(made, batch=options.batch, seed=0, shuffle=False)
    settings = LoopSettings(steps=source.steps_per_epoch, lr=options.lr, schedule="constant")
    marks = Marks(meter)
    parts = assemble(
        attached,
        objectives.spec(options.part if options.part in ("pretrain", "dpo") else "sft"),
        source,
        settings,
        vocabulary=loaded.model.config.vocab_size,
        pad_id=loaded.tokenizer.pad_token_id,
        packed=loaded.packs,
    )
    if options.part == "dpo":
        with meter.also():
            limit = most_tokens(settings.micro_tokens, parts.device)
            known = with_reference(parts, made, micro_tokens=limit, cache=None, key="", note=marks.note)
        parts.source = Dataset(known, batch=options.batch, seed=0, shuffle=False)
    loop = Loop(parts, settings, Path(options.scratch), marks)
    run(loop, meter, options.profile)
    attached.model.eval()
    loss = measure.final_loss(lambda ids: attached.model(input_ids=ids).logits, options)
    measure.write(options.out, meter, packages=PACKAGES, setting=SETTINGS[options.part], loss=loss, notes=marks.notes)


def generate(options: argparse.Namespace, model: Any, meter: measure.Meter) -> None:
    """Greedy replies to the part's prompts."""
    prompts = measure.prompts(options.work, options.part)
    sampler = Generator(model)
    sampler.sample(prompts[:2], max_tokens=2, temperature=0.0, stop_ids=[], batch=2)
    meter.start()
    found = sampler.sample(prompts, max_tokens=measure.NEW_TOKENS, temperature=0.0, stop_ids=[], batch=len(prompts))
    meter.mark()
    replies = [list(reply.ids) for reply in found]
    loss = measure.replies_loss(lambda ids: model(input_ids=ids).logits, prompts, replies)
    measure.write(options.out, meter, packages=PACKAGES, setting=SETTINGS["generate"], loss=loss)


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
