"""`bottega audit` through the door: a run's own scorecards, tasks and text, rows of any format; where the verdict is written.

Left out: the measures (tests/evals/test_audits.py).
"""

from __future__ import annotations

import json

import pytest

from bottega import cli
from bottega.workshop import auditing
from tests.workshop.made import chat, jsonl, workshop

RECIPE = """
name: audited
model: model
stages:
  - s: {objective: sft, data: chats.jsonl, steps: 3, batch: 4, method: {name: lora, rank: 4}}
evaluate: {tasks: [task.yaml]}
"""
TASK = {
    "name": "sums",
    "kind": "generation",
    "chat": True,
    "max_tokens": 4,
    "rows": [{"prompt": "1", "answer": "2"}] * 3,
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A workshop with a run that was evaluated before and after."""
    folder = workshop(tmp_path_factory.mktemp("audits"))
    (folder / "task.yaml").write_text(json.dumps(TASK))
    (folder / "one.yaml").write_text(RECIPE)
    jsonl(folder / "unseen.jsonl", [chat(f"who keeps {n} keys?", f"Anna keeps {n}") for n in range(9)])
    (folder / "text.txt").write_text("The workshop opens at eight and closes at five.\n\nAnna keeps the keys.\n")
    assert cli.door(["run", str(folder / "one.yaml"), "--quiet", "--out", str(folder / "runs" / "one")]) == 0
    return folder


def asked(capsys, *words):
    code = cli.door(["audit", *map(str, words), "--json", "--quiet"])
    out = capsys.readouterr()
    return code, json.loads(out.out) if out.out else out.err


def test_a_run_that_was_evaluated_before_and_after_is_audited_from_its_scorecards(shop, capsys):
    run = shop / "runs" / "one"
    code, found = asked(capsys, "forgetting", run, "--max-drop", 1)
    assert code == 0 and found["risk"] == "forgetting" and [one["verdict"] for one in found["findings"]] == ["passed"]
    assert json.loads((run / "audits" / "forgetting.json").read_text()) == found
    report = (run / "report.html").read_text()
    assert "Risks" in report and "Forgetting" in report


def test_forgetting_on_tasks_and_text_compares_with_what_the_run_began_from_and_says_the_kl(shop, capsys):
    run = shop / "runs" / "one"
    code, found = asked(
        capsys, "forgetting", run, "--tasks", shop / "task.yaml", "--tasks", f"bits_per_byte={shop / 'text.txt'}", "--max-rise", 9
    )  # fmt: skip
    names = " ".join(one["what"] for one in found["findings"])
    assert "sums" in names and "bits per byte" in names and "KL" in names
    assert found["findings"][-1]["n"] > 5 and found["findings"][-1]["value"] >= 0
    assert found["base"].endswith("model") and code in (0, 1)
    code, adapter = asked(capsys, "forgetting", run / "stages" / "01-s" / "result", "--tasks", shop / "task.yaml")
    assert adapter["findings"][0]["what"] == found["findings"][0]["what"]


def test_privacy_reads_rows_of_any_format_and_counts_those_that_come_out(shop, capsys):
    run, out = shop / "runs" / "one", shop / "privacy.json"
    code, found = asked(
        capsys, "privacy", run, shop / "chats.jsonl", "--held-out", shop / "unseen.jsonl", "--prefix", 8, "--length", 4, "--out", out
    )  # fmt: skip
    assert code in (0, 1) and json.loads(out.read_text()) == found
    assert [one["what"].split(",")[0].split(" ")[0] for one in found["findings"]] == [
        "rows",
        "tokens",
        "members",
        "members",
        "members",
    ]
    assert (run / "audits" / "privacy.json").is_file()
    code, alone = asked(capsys, "privacy", run, shop / "prefs.jsonl", "--base", "none", "--prefix", 4, "--length", 2)
    assert alone["base"] == "" and len(alone["findings"]) == 2


def test_the_card_of_an_export_says_what_was_audited(shop, capsys):
    asked(capsys, "forgetting", shop / "runs" / "one")
    assert cli.door(["export", str(shop / "runs" / "one"), "--out", str(shop / "given"), "--quiet"]) == 0
    text = (shop / "given" / "README.md").read_text()
    assert "## Audits" in text and "forgetting" in text and str(shop) not in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["forgetting", "model", "--tasks", "task.yaml"], "name it with --base"),
        (["forgetting", "model"], "no scorecards"),
        (["privacy", "runs/one", "gone.jsonl"], "gone.jsonl"),
        (["privacy", "runs/one", "chats.jsonl", "--prefix", "100000"], "--prefix"),
        (["privacy", "runs/one", "broken.jsonl"], "broken.jsonl:1"),
    ],
)
def test_what_cannot_be_audited_is_one_sentence(shop, capsys, monkeypatch, words, says):
    monkeypatch.chdir(shop)
    (shop / "broken.jsonl").write_text("{no json\n")
    code, said = asked(capsys, *words)
    assert code == 2 and says in said and "Traceback" not in said


def test_the_base_is_what_the_run_or_the_adapter_says(shop):
    run = shop / "runs" / "one"
    assert auditing.base_of(str(run)) == auditing.base_of(str(run / "stages" / "01-s" / "result"))
