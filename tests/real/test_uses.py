"""Every use of recipes/uses beats a stated baseline on held-out rows, on the bundled model (row U1).

Left out: the recipes' other checks (test_recipes.py). The baselines are what one would do without a model, or without tuning.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from bottega import cli
from bottega.core.types import Reply
from bottega.evals.runner import Scorecard
from bottega.evals.tasks import load_task
from bottega.grade.intervals import paired
from bottega.grade.labels import pr_auc
from bottega.grade.scorers import find_scorer
from bottega.workshop.stages import run

USES = Path(__file__).resolve().parents[2] / "recipes" / "uses"
NAMES = sorted(path.stem for path in USES.glob("*.yaml"))
HEAD = ("Command:", "Data:", "Hardware:", "Time:", "Score:", "Baseline:")


@pytest.fixture(scope="module")
def uses(tmp_path_factory):
    """The recipes beside data that make.py wrote."""
    folder = tmp_path_factory.mktemp("uses")
    for path in USES.glob("*.yaml"):
        shutil.copy(path, folder)
    (folder / "data").mkdir()
    for name, text in maker().files():
        (folder / "data" / name).write_text(text, encoding="utf-8")
    return folder


def maker():
    spec = importlib.util.spec_from_file_location("make_uses", USES / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def held(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / "data" / f"{name}-held.jsonl").read_text().splitlines()]


def word_by_word(request: str) -> str:
    """Each word's entry of the dictionary, an article as the noun's own; what is not in it stays."""
    module = maker()
    words = {word: f"{article} {noun}" for word, (article, noun) in (module.NOUNS | module.PEOPLE).items()}
    words |= {"not": "non", "does": "", **module.VERBS}
    said = [words.get(word, word) for word in re.findall(r"[a-z]+", request.partition(":")[2].lower()) if word != "the"]
    text = " ".join(word for word in said if word)
    return f"{text[0].upper()}{text[1:]}."


def baseline(folder: Path, name: str, row: dict) -> str:
    request = row.get("request", "")
    if name == "summary":
        return request.split("\n")[1].split(". ")[0]
    if name == "question-answering":
        return request.split("\n")[0]
    if name == "translation":
        return word_by_word(request)
    if name == "writing":
        return request.split("\n")[1]
    if name == "patient-questions":
        return maker().UNSURE
    learned = [json.loads(line) for line in (folder / "data" / f"{name}.jsonl").read_text().splitlines()]
    return Counter(one["messages"][-1]["content"] for one in learned).most_common(1)[0][0]


@pytest.mark.parametrize("name", NAMES)
def test_a_use_parses_and_its_head_says_what_it_costs_and_gives(uses, name, capsys):
    text = (USES / f"{name}.yaml").read_text()
    lines = {word: line for word in HEAD for line in text.splitlines() if line.startswith(f"# {word}")}
    assert set(lines) == set(HEAD) and f"bottega run recipes/uses/{name}.yaml" in text
    assert re.search(r"\d", lines["Score:"]) and re.search(r"\d", lines["Baseline:"])
    assert cli.door(["run", str(uses / f"{name}.yaml"), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == name


@pytest.mark.parametrize("name", [name for name in NAMES if name != "fraud"])
def test_held_out_requests_are_in_no_training_row(uses, name):
    learned = (uses / "data" / f"{name}.jsonl").read_text()
    rows = held(uses, name)
    assert len(rows) == 200
    asked = [json.dumps(row.get("request") or row["messages"])[1:-1] for row in rows]
    assert not [one for one in asked if one in learned]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "fraud"])
def test_a_use_beats_its_baseline_on_held_out_rows(uses, name, tmp_path):
    run(str(uses / f"{name}.yaml"), out=tmp_path, quiet=True)
    card = Scorecard.from_json(json.loads((tmp_path / "scorecards" / "1-after.json").read_text()))
    task = load_task(uses / "data" / f"{name}-task.yaml")
    metric = task.metric if isinstance(task.metric, dict) else {"name": task.metric}
    score = find_scorer(metric["name"], {key: value for key, value in metric.items() if key != "name"})
    rows = {row["answer"]: row for row in held(uses, name)}
    reply = Reply(text="")
    items = card.scores[0].items
    simple = [score(reply._replace(text=baseline(uses, name, rows[item.truth])), item.truth) for item in items]
    gained = paired(simple, [item.value for item in items], seed=0)
    print(f"{name}: baseline {sum(simple) / len(simple):.3f}, tuned {card.scores[0].value:.3f}, {gained}")
    assert gained.low > 0.1


@pytest.mark.slow
def test_fraud_is_found_better_than_by_the_best_single_column(uses, tmp_path):
    facts = run(str(uses / "fraud.yaml"), out=tmp_path, quiet=True).stages["learn"]
    learned, asked = (list(csv.DictReader((uses / "data" / name).open())) for name in ("fraud.csv", "fraud-held.csv"))
    best = 0.0
    for column in ("country", "hour", "card_days", "shop"):
        share = {}
        for value in {row[column] for row in learned}:
            its = [row["fraud"] == "yes" for row in learned if row[column] == value]
            share[value] = sum(its) / len(its)
        found = pr_auc([share.get(r[column], 0.0) for r in asked], [r["fraud"] == "yes" for r in asked])
        best = max(best, found)
    print(f"fraud: best single column {best:.3f}, tuned {facts['eval.pr_auc']:.3f}")
    assert facts["eval.pr_auc"] > best + 0.05
