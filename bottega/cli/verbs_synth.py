"""The commands that make data, and recipes from it: synth, lab ...

Left out: their functions (workshop/synthesis.py, demo/lab.py).
"""

from __future__ import annotations

from typing import Any

import click

from bottega.cli.parts import call, cli, json_flag, lab, offline_flag, quiet_flag, verb


def teacher_options(function: Any) -> Any:
    """How an endpoint is reached."""
    for add in (
        click.option("--teacher-model", default="", metavar="NAME", help="The model's name at the endpoint."),
        click.option(
            "--tokenizer", default="", metavar="MODEL", help="Whose template writes prompts for --api completions."
        ),
        click.option("--key-env", default="", metavar="VARIABLE", help="The environment variable that holds the key."),
        click.option("--api", type=click.Choice(["chat", "completions"]), default="chat", show_default=True),
        click.option("--ca", default="", metavar="FILE", help="Certificates to trust instead of the system's."),
        click.option("--cert", default="", metavar="FILE", help="A certificate of our own, for the endpoint."),
        click.option("--cert-key", default="", metavar="FILE", help="Its key."),
        click.option("--insecure", is_flag=True, help="Accept any certificate."),
        click.option("--timeout", type=click.FloatRange(0.01), default=120.0, show_default=True, help="Seconds."),
        click.option("--concurrency", type=click.IntRange(1), default=32, show_default=True, help="Questions at once."),
        click.option(
            "--tries", type=click.IntRange(1), default=6, show_default=True, help="For one question, at most."
        ),
        click.option("--stream", is_flag=True, help="Ask for replies in pieces."),
    ):
        function = add(function)
    return function


def budget_options(function: Any) -> Any:
    """What may be spent, all runs of the folder together."""
    for add in (
        click.option("--budget-calls", type=click.IntRange(1), help="Calls to the teacher, at most."),
        click.option("--budget-tokens", type=click.IntRange(1), help="Tokens of prompts and replies, at most."),
        click.option("--budget-minutes", type=click.FloatRange(0, min_open=True), help="Minutes of this run, at most."),
        click.option("--budget-cost", type=click.FloatRange(0, min_open=True), help="Money at the prices given."),
        click.option("--price-in", type=click.FloatRange(0), default=0.0, help="Money per million prompt tokens."),
        click.option("--price-out", type=click.FloatRange(0), default=0.0, help="Money per million reply tokens."),
    ):
        function = add(function)
    return function


@verb(
    cli,
    "synth",
    "bottega synth my-taxonomy --teacher template --documents contexts --out data",
    "bottega synth my-taxonomy --teacher http://localhost:8000/v1 --teacher-model big --out data --samples 200",
)
@click.argument("taxonomy")
@click.option("--teacher", required=True, metavar="T", help="template, an endpoint's address up to /v1, or a model.")
@click.option("--out", required=True, metavar="DIR", help="The folder of the rows, and of the journal of answers.")
@click.option(
    "--flow", metavar="NAME|FILE", help="Default: the flow for each leaf's kind. InstructLab's pipelines too."
)
@click.option("--base", metavar="REF", help="Only leaves changed since this git reference.")
@click.option("--samples", type=click.IntRange(1), default=30, show_default=True, help="Rows wanted of each leaf.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--layout", type=click.Choice(["instructlab"]), help="Also InstructLab's own files and recipes.")
@click.option("--only", multiple=True, metavar="GLOB", help="Leaves or folders of them; repeat it.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leaves or folders to leave out; repeat it.")
@click.option("--language", default="", metavar="CODE", help="en, it, fi; default: each leaf's own.")
@click.option(
    "--documents",
    default="",
    metavar="FOLDER",
    help="For knowledge leaves; fetch: from where each says; contexts: their seeds'.",
)
@click.option("--chunk", type=click.IntRange(200), default=4000, show_default=True, help="Characters of a chunk.")
@click.option(
    "--held-out",
    type=click.FloatRange(0, 0.9),
    default=0.2,
    show_default=True,
    help="Share of seeds kept for test.jsonl.",
)
@click.option(
    "--paraphrases",
    type=click.IntRange(0, 4),
    default=2,
    show_default=True,
    help="Other wordings of each of those, by the teacher.",
)
@click.option(
    "--against", multiple=True, metavar="FILE", help="An evaluation set whose items no row may hold; repeat it."
)
@click.option("--estimate", is_flag=True, help="Say what it would take, after ten calls, and stop.")
@budget_options
@teacher_options
@json_flag
@quiet_flag
@offline_flag
def synth_command(taxonomy: str, as_json: bool, **options: Any) -> int:
    """Rows to train on from a taxonomy and a teacher; the same command goes on where it was stopped."""
    return call("synth", as_json=as_json, taxonomy=taxonomy, **options)


@verb(lab, "example", "bottega lab example parish")
@click.argument("out")
@click.option("--seed", type=int, default=0, show_default=True, help="Another one, another parish.")
@json_flag
def lab_example_command(out: str, as_json: bool, **options: Any) -> int:
    """A small invented taxonomy with documents, tests and a replay file, to learn the whole way on."""
    return call("lab example", as_json=as_json, out=out, **options)


@verb(
    lab,
    "recipe",
    "bottega lab recipe --short parish/short --long parish/long --skills parish/skills --replay parish/replay.jsonl "
    "--tasks parish/tasks --model garzone --out parish/lab",
)
@click.option(
    "--short", multiple=True, metavar="FOLDER", help="Knowledge with short answers, as `synth` wrote it; repeat it."
)
@click.option("--long", multiple=True, metavar="FOLDER", help="Knowledge with long answers; repeat it.")
@click.option("--skills", multiple=True, metavar="FOLDER", help="Skills; repeat it.")
@click.option(
    "--replay", multiple=True, metavar="FILE", help="What the model knew before, rehearsed in every phase; repeat it."
)
@click.option(
    "--tasks", multiple=True, metavar="TASK", help="Measured before and after: tasks, or a folder of them; repeat it."
)
@click.option("--model", required=True, help="A Hub id, a folder, or garzone.")
@click.option("--out", required=True, metavar="FOLDER", help="Where recipe.yaml and its data go.")
@click.option("--method", default="full", show_default=True, help="How the model is tuned: full, lora, ...")
@click.option("--stacked", is_flag=True, help="The same rows in one stage, with as many steps as the phases.")
@click.option(
    "--form", multiple=True, metavar="NAME=SHARE", help="closed, grounded (document first) or raft; repeat it."
)
@click.option(
    "--distractors",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="raft: other documents beside the right one.",
)
@click.option(
    "--golden",
    type=click.FloatRange(0, 1),
    default=0.8,
    show_default=True,
    help="raft: how often the right one is there.",
)
@click.option(
    "--per-leaf", type=click.IntRange(0), default=0, show_default=True, help="Rows of a leaf at most; 0: all."
)
@click.option(
    "--least", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True, help="Least share of a leaf."
)
@click.option("--epochs", type=float, default=10.0, show_default=True, help="Times through each phase's own rows.")
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Rows a step.")
@click.option("--lr", type=float, default=None, help="Peak learning rate; default: what is usual for the method.")
@click.option(
    "--judge", default="", metavar="MODEL", help="Rates answers to the held-out seeds; default: words in common."
)
@click.option("--judge-key-env", default="", metavar="VARIABLE", help="The variable with the judge's key.")
@click.option("--choose", metavar="METRIC", help="Choose each phase's checkpoint by this metric of the held-out seeds.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@json_flag
def lab_recipe_command(as_json: bool, **options: Any) -> int:
    """One recipe that learns in phases (short answers, long answers, skills) from what `synth` made; prints its plan."""
    return call("lab recipe", as_json=as_json, **options)


@verb(lab, "import", "bottega lab import ~/.local/share/instructlab --out parish")
@click.argument("home")
@click.option("--out", required=True, metavar="FOLDER", help="A new folder.")
@click.option("--model", help="In place of the one that its configuration names.")
@json_flag
def lab_import_command(home: str, as_json: bool, **options: Any) -> int:
    """An InstructLab home's configuration, taxonomy and data sets, with a list of what was not carried over."""
    return call("lab import", as_json=as_json, home=home, **options)


@verb(lab, "teachers", "bottega lab teachers by-one by-another")
@click.argument("folders", nargs=-1, required=True)
@json_flag
def lab_teachers_command(folders: tuple[str, ...], as_json: bool) -> int:
    """What several teachers made of the same leaves: rows kept, why others went, variety, cost, questions asked alike."""
    return call("lab teachers", as_json=as_json, folders=folders)
