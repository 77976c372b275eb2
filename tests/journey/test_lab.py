"""From a taxonomy to a model that knows it, on the bundled base: the way of docs/how-to/lab.md (rows L16, L18, L20).

Left out: what the demo shows. Slow: some twelve minutes.
"""

import json
import time

import pytest
import yaml

from bottega.core import rundir
from bottega.demo.lab import example
from bottega.evals.compare import compare
from bottega.workshop.phases import write_recipe
from bottega.workshop.report_files import read
from bottega.workshop.stages import run
from bottega.workshop.synthesis import synth

pytestmark = pytest.mark.slow
LR = 3.5e-4


@pytest.fixture(scope="module")
def parish(tmp_path_factory):
    """The example with its three folders of rows, and how long making them took."""
    folder = tmp_path_factory.mktemp("lab") / "parish"
    example(folder)
    began = time.monotonic()
    taxonomy, documents = str(folder / "taxonomy"), str(folder / "documents")
    for name, flow in (("short", "reader"), ("long", "reader_long")):
        words = {"teacher": "garzone", "flow": flow, "samples": 150, "only": ("knowledge",), "documents": documents}
        synth(taxonomy, out=str(folder / name), quiet=True, **words)
    synth(
        taxonomy,
        teacher="template",
        out=str(folder / "skills"),
        samples=200,
        only=("compositional_skills",),
        quiet=True,
    )
    return folder, time.monotonic() - began


def recipe(folder, name, **more):
    words = {"replay": [str(folder / "replay.jsonl")], "tasks": [str(folder / "tasks")], "model": "garzone", "lr": LR}
    given = {source: [str(folder / source)] for source in ("short", "long", "skills")} | words | more
    write_recipe(folder / name, **given)
    return folder / name / "recipe.yaml"


def measured(folder):
    """Each task compared before and after."""
    cards = list(read(folder).cards.values())
    return {one.task: one for one in compare(cards[0], cards[-1]).tasks}


def test_a_leaf_becomes_a_better_model_in_ten_minutes_and_phases_and_stacked_are_compared(parish):
    folder, making_s = parish
    began = time.monotonic()
    run(recipe(folder, "phased"), out=folder / "runs" / "phased", quiet=True)
    assert making_s + time.monotonic() - began < 600
    phased = measured(folder / "runs" / "phased")
    knowledge, courtesy = phased["knowledge"].difference, phased["courtesy"].difference
    assert knowledge.n >= 200 and knowledge.low > 0.25, "in wordings that no seed and no text of the base uses"
    assert courtesy.n >= 200 and courtesy.low > 0.03
    assert len(phased["knowledge"].groups) == 4 and all(
        group.verdict == "improved" for group in phased["knowledge"].groups
    )
    assert phased["old_world"].difference.value > -0.25, "forgetting is measured, and bounded"
    page = (folder / "runs" / "phased" / "report.html").read_text()
    assert "knowledge, told apart" in page and "How answers changed" in page

    run(recipe(folder, "stacked", stacked=True), out=folder / "runs" / "stacked", quiet=True)
    stacked = measured(folder / "runs" / "stacked")
    assert stacked["knowledge"].difference.low > 0.1
    print({name: (one.difference.value, stacked[name].difference.value) for name, one in phased.items()})


def test_seeds_alone_teach_less_than_seeds_with_synthetic_rows_in_as_many_steps(parish):
    folder, _ = parish
    seeds = folder / "seeds"
    seeds.mkdir()
    rows = []
    for path in sorted((folder / "taxonomy").rglob("qna.yaml")):
        leaf = str(path.parent.relative_to(folder / "taxonomy"))
        for seed in yaml.safe_load(path.read_text())["seed_examples"]:
            for one in seed.get("questions_and_answers", [seed]):
                turns = [("user", one["question"]), ("assistant", str(one["answer"]))]
                messages = [{"role": role, "content": text} for role, text in turns]
                rows.append({"messages": messages, "metadata": {"leaf": leaf}})
    (seeds / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    knows = [row for row in rows if row["metadata"]["leaf"].startswith("knowledge")]
    (seeds / "knows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in knows))
    files = {"alone": [str(seeds / "knows.jsonl")], "both": [str(seeds / "knows.jsonl"), str(folder / "short")]}
    found = {}
    for name, short in files.items():
        path = recipe(folder, name, short=short, long=[], skills=[], tasks=[str(folder / "tasks" / "knowledge.yaml")])
        plan = yaml.safe_load(path.read_text())
        plan["stages"][0]["short"]["steps"] = 250
        rundir.atomic_write(path, yaml.safe_dump(plan))
        run(path, out=folder / "runs" / name, quiet=True)
        found[name] = list(read(folder / "runs" / name).cards.values())[-1]
    (one,) = compare(found["alone"], found["both"]).tasks
    assert one.difference.n >= 200 and one.difference.low > 0, one.difference
    print(one.difference)
