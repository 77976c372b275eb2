"""The model card: what the bundled base can and cannot do, measured on development and test probes.

    python -m bottega.demo.card MODEL --out FOLDER [--made RUNS]

Left out: how it was made (base.py), and the probes themselves (world/probes.py). FOLDER gets README.md and card.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core import rundir
from bottega.demo import base, world
from bottega.grade import intervals

if TYPE_CHECKING:
    from bottega.evals.engine import Engine

SPLITS = ("dev", "test")
READING = ("handbook", "story", "entry", "table", "record")
FACTS = {
    "kept": "facts it was asked in training, same wordings",
    "wording": "facts it was asked in training, new wordings",
    "never": "facts it was told and never asked",
}
SEED = 1
REPLY_TOKENS = 24
GOOD, POOR = 0.8, 0.5
"""Shares from which the card says "can", and below which it says "cannot"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One row of the card: a group of probes in one form, on one split."""

    group: str
    form: str
    split: str
    value: float
    low: float
    high: float
    n: int


def measure(model: str, *, count: int = 300, seed: int = SEED) -> list[Line]:
    """Score a model on every group of probes, development and test; at most `count` rows a group and form."""
    from bottega.evals.engine import Engine
    from bottega.models.load import load

    loaded = load(model)
    engine = Engine(loaded.model, loaded.tokenizer)
    lines = []
    for split in SPLITS:
        for group, form, rows in _groups(split, seed, count):
            found = intervals.mean(_marks(engine, rows), seed=seed)
            lines.append(_line(group, form, split, found))
        lines.append(_line("perplexity", "text", split, _perplexity(engine, split, seed, count)))
    return lines


def _line(group: str, form: str, split: str, found: intervals.Interval) -> Line:
    return Line(group=group, form=form, split=split, value=found.value, low=found.low, high=found.high, n=found.n)


def _groups(split: str, seed: int, count: int) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """(group, form, rows) in the order of the card."""
    found = []
    for form in ("plain", "chat"):
        for kind in READING:
            rows = world.reading_probes(kind, seed, count, split, form=form)
            found.append((f"reading: {kind}", form, rows))
        held = world.reading_probes("handbook", seed, count, split, held=True, form=form)
        found.append(("reading: handbook, new wordings", form, held))
        for kind, words in FACTS.items():
            found.append((words, form, world.fact_probes(split, seed, count, kind=kind, form=form)))
        sums = [row for row in world.arithmetic_probes(seed, 2 * count, split) if row["form"] == form]
        found.append(("sums of held-out pairs", form, sums))
    return found


def _marks(engine: Engine, rows: Sequence[Mapping[str, Any]]) -> list[float]:
    prompts = [engine.plain(row["prompt"]) for row in rows]
    replies = engine.replies(prompts, max_tokens=REPLY_TOKENS, stop=("\n",), chat=True)
    return [float(world.is_right(reply.text, row["answer"])) for row, reply in zip(rows, replies)]


def _perplexity(engine: Engine, split: str, seed: int, count: int) -> intervals.Interval:
    from math import exp

    from bottega.evals.kinds import KINDS
    from bottega.evals.tasks import Item, Task

    texts = [row["text"] for row in world.documents(seed, count, split=split)]
    items = [Item(key=str(at), record={"text": text}) for at, text in enumerate(texts)]
    task = Task(name="perplexity", kind="perplexity", prompt="", answer="text")
    outcomes = KINDS["perplexity"](engine, task, items)
    found = intervals.ratio([one.value for one in outcomes], [one.weight for one in outcomes], seed=seed)
    return intervals.Interval(value=exp(found.value), low=exp(found.low), high=exp(found.high), n=found.n)


# ---- the page


def write(model: str, out: Path, *, made: Path | None = None, count: int = 300) -> Path:
    """Measure the model and write README.md and card.json into `out`; `made`: the folder that base.py wrote."""
    began = time.time()
    lines = measure(model, count=count)
    facts = {
        "lines": [asdict(line) for line in lines],
        "seed": SEED,
        "phases": phases(made) if made else [],
        "environment": rundir.environment(),
        "date": time.strftime("%Y-%m-%d", time.gmtime(began)),
        "parameters": _parameters(model),
    }
    out.mkdir(parents=True, exist_ok=True)
    rundir.write_json(out / "card.json", facts)
    rundir.atomic_write(out / "README.md", page(facts))
    return out / "README.md"


def _parameters(model: str) -> int:
    from bottega.models.load import load

    loaded: Any = load(model).model
    return sum(p.numel() for p in loaded.parameters())


def phases(made: Path) -> list[dict[str, Any]]:
    """What each phase of the pretraining read and cost, from its run folder."""
    found = []
    for name in base.PHASES:
        for stage in sorted((made / name / "stages").glob("*")):
            steps = rundir.read_jsonl(stage / "metrics.jsonl")
            clock = rundir.read_jsonl(stage / "timing.jsonl")
            held = [line["eval.loss"] for line in steps if "eval.loss" in line]
            found.append(
                {
                    "phase": name,
                    "steps": len(steps),
                    "tokens": sum(line.get("tokens", 0) for line in steps),
                    "loss": steps[-1].get("loss") if steps else None,
                    "held_out_loss": held[-1] if held else None,
                    "seconds": sum(line.get("seconds", 0.0) for line in clock),
                    "cpu_s": sum(line.get("cpu_s", 0.0) for line in clock),
                }
            )
    return found


def page(facts: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    lines = [Line(**line) for line in facts["lines"]]
    parts = [_head(facts), _made(facts), _table(lines), _limits(lines), _use()]
    return "\n\n".join(parts) + "\n"


def _head(facts: Mapping[str, Any]) -> str:
    shape = base.SHAPE
    size = (
        f"width {shape['hidden_size']}, {shape['num_hidden_layers']} layers, {shape['num_attention_heads']} heads, "
        f"vocabulary {base.VOCABULARY:,}, {shape['max_position_embeddings']:,} positions, trained on blocks of 256"
    )
    return f"""---
license: apache-2.0
language: [en]
library_name: transformers
pipeline_tag: text-generation
tags: [bottega, tiny, synthetic]
---
# garzone, the apprentice

A language model of {facts["parameters"]:,} parameters in the Llama shape
({size}).
It comes with Bottega so that everything can be tried offline and in minutes. It knows an invented village and nothing
of the real world."""


def _made(facts: Mapping[str, Any]) -> str:
    rows = [
        f"| {p['phase']} | {p['steps']:,} | {p['tokens']:,.0f} | {_number(p['loss'])} | "
        f"{_number(p['held_out_loss'])} | {p['seconds'] / 60:,.0f} min | {p['cpu_s'] / 60:,.0f} min |"
        for p in facts["phases"]
    ]
    head = "| phase | steps | tokens | loss | loss, held out | time | CPU time |\n|---|---|---|---|---|---|---|"
    versions = ", ".join(f"{name} {version}" for name, version in facts["environment"]["packages"].items())
    table = "\n".join([head, *rows]) if rows else ""
    where = facts["environment"]
    return f"""## How it was made

From random weights, on text that Bottega's own generator writes (`bottega/demo/world/`): passages with questions,
stories, facts of the village, instructions, sums, lists, a little Italian and Finnish. Seed {base.SEED}. No text from
anywhere else.

    python -m bottega.demo.base OUT

{table}

Card of {facts["date"]}; Python {where["python"]}, {where["platform"]}; {versions}."""


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "–"


def _table(lines: Sequence[Line]) -> str:
    """Development beside test, a row for each group and form."""
    rows = ["| probes | form | development | test | n |", "|---|---|---|---|---|"]
    found = {(line.group, line.form, line.split): line for line in lines}
    for group, form in dict.fromkeys((line.group, line.form) for line in lines):
        dev, test = (found[group, form, split] for split in SPLITS)
        rows.append(f"| {group} | {form} | {_with_bounds(dev)} | {_with_bounds(test)} | {dev.n:,} / {test.n:,} |")
    return f"""## What it can do

Greedy answers, right when equal to the answer; 95 percent intervals. Passages, names and pairs of numbers of the probes
are in no training text; development probes were looked at while the base was made, test probes were not. Seed {SEED}.

""" + "\n".join(rows)


def _with_bounds(line: Line) -> str:
    return f"{line.value:.2f} [{line.low:.2f}, {line.high:.2f}]"


def _limits(lines: Sequence[Line]) -> str:
    """What the test probes say it can and cannot do, in words."""
    test = [line for line in lines if line.split == "test" and line.group != "perplexity"]
    can = [f"{line.group} ({line.form}, {line.value:.2f})" for line in test if line.low >= GOOD]
    cannot = [f"{line.group} ({line.form}, {line.value:.2f})" for line in test if line.value < POOR]
    reads = all(line.value >= GOOD for line in test if line.group in ("reading: handbook", "reading: story"))
    verdict = (
        "It reads: it answers at least 8 in 10 questions on handbooks and stories it never saw."
        if reads
        else "**It does not read well**: below 8 in 10 on questions about unseen handbooks and stories, so it\n"
        "cannot serve as a teacher of grounded questions or behind retrieval; where one is needed offline, a template\n"
        "teacher stands in, named as such in every row it writes."
    )
    return f"""## What it cannot do

{verdict}

- Well (interval above {GOOD}): {"; ".join(can) or "nothing of the above"}.
- Poorly (below {POOR}): {"; ".join(cannot) or "nothing of the above"}.
- Nothing about the real world; no dates, no news, no code, no languages but simple English and a few sentences of
  Italian and Finnish. It makes up what it does not know, in fluent sentences.
- No safety training of any kind. It is for demonstrations, tests and teaching; do not put it before users."""


def _use() -> str:
    return """## Use

    bottega chat garzone
    bottega demo

In any recipe: `model: garzone`. Questions as plain lines (`Q: ... A:`) or in chat, by the template in the tokenizer.
License: Apache-2.0, weights and text alike; no third party's data is in it."""


def main() -> None:
    """The command line of this file."""
    parser = argparse.ArgumentParser(description="Measure a base model and write its card.")
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, required=True, help="the folder for README.md and card.json")
    parser.add_argument("--made", type=Path, help="the folder that `python -m bottega.demo.base` wrote")
    parser.add_argument("--count", type=int, default=300, help="probes of a group and form")
    chosen = parser.parse_args()
    print(write(chosen.model, chosen.out, made=chosen.made, count=chosen.count))


if __name__ == "__main__":
    main()
