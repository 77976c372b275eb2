"""Task files of lm-evaluation-harness and InstructLab, read as they are (rows E1, L19)."""

from __future__ import annotations

import json

import pytest

from bottega.core.errors import UserError
from bottega.evals.runner import evaluate
from bottega.evals.tasks import items, load_task
from bottega.models.load import load

MINE = """
task: capitals
output_type: multiple_choice
dataset_path: json
dataset_kwargs: {data_files: {test: elsewhere/rows.jsonl}}
doc_to_text: "{{ question.strip() }}\\n{% for c in choices %}{{ loop.index }}. {{ c }}\\n{% endfor %}Answer:"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc_norm}]
"""
ROWS = [
    {"question": " Of Italy? ", "choices": ["Rome", "Oslo"], "answer": 0},
    {"question": "Of Norway?", "choices": ["Rome", "Oslo"], "answer": "Oslo"},
]


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.yaml").write_text(MINE)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path / "mine.yaml"


def test_instructlab_s_task_file_is_read_as_it_is_and_scored(shared_data):
    task = load_task(shared_data("instructlab/tasks/tonsil_task.yaml"))
    found = items(task, seed=0)
    assert (
        task.name == "tonsils" and task.kind == "multiple_choice" and task.metric == "accuracy" and task.random == 0.25
    )
    first = found[0].record
    assert first["query"].startswith("What is the structure of Waldeyer's tonsillar ring") and first["query"].endswith(
        "\nAnswer:"
    )
    assert "\nD. It is a collection of lymphatic tissue" in first["query"] and first["choices"] == ["A", "B", "C", "D"]
    lines = (shared_data("instructlab/tasks/tonsil_data.jsonl")).read_text().splitlines()
    assert [one.record["gold"] for one in found] == [json.loads(line)["answer"] for line in lines]
    tiny = load("garzone")
    score = evaluate(tiny.model, tiny.tokenizer, [task], limit=3).scores[0]
    assert score.n == 3 and 0 <= score.value <= 1


def test_templates_render_in_the_sandbox_and_targets_may_be_places_or_texts(mine):
    task = load_task(mine)
    assert task.metric == "accuracy_per_character"
    assert [one.record for one in items(task, seed=0)] == [
        {"query": "Of Italy?\n1. Rome\n2. Oslo\nAnswer:", "choices": ["Rome", "Oslo"], "gold": 0, "answer": "Rome"},
        {"query": "Of Norway?\n1. Rome\n2. Oslo\nAnswer:", "choices": ["Rome", "Oslo"], "gold": 1, "answer": "Oslo"},
    ]


def test_generation_and_perplexity_tasks_are_read_too(mine, tmp_path):
    theirs = MINE.replace("multiple_choice", "generate_until").replace("acc_norm", "exact_match")
    mine.write_text(theirs + "generation_kwargs: {until: [';'], max_gen_toks: 9}\n")
    task = load_task(mine)
    assert (task.kind, task.metric, task.stop, task.max_tokens, task.rows[1]["answer"]) == (
        "generation",
        {"name": "exact", "normal": False},
        (";",),
        9,
        "Oslo",
    )
    mine.write_text(
        "task: p\noutput_type: loglikelihood_rolling\ndoc_to_target: '{{question}}'\nmetric_list: [bits_per_byte]\n"
    )
    task = load_task(f"{mine}={tmp_path / 'rows.jsonl'}")
    assert (task.kind, task.metric, task.prompt, task.rows[1]["answer"]) == (
        "perplexity",
        "bits_per_byte",
        "",
        "Of Norway?",
    )


def test_worked_examples_and_a_description_stand_in_front(mine):
    mine.write_text(MINE + "num_fewshot: 1\n")
    task = load_task(mine)
    first = items(task, seed=0)[0]
    assert task.shots == 1 and first.shots[0]["answer"] == "Oslo"
    score = evaluate(*parts(), [task]).scores[0]
    assert score.n == 2
    mine.write_text(MINE + "description: 'Capitals.\\n'\n")
    assert items(load_task(mine), seed=0)[0].record["query"].startswith("Capitals.")
    mine.write_text(MINE + "description: Capitals\nnum_fewshot: 2\n")
    with pytest.raises(UserError, match="a description is not read in front of worked examples"):
        load_task(mine)


def parts():
    tiny = load("garzone")
    return tiny.model, tiny.tokenizer


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("multiple_choice", "loglikelihoods", "output_type is 'loglikelihoods'; this version reads multiple_choice"),
        ("doc_to_target: answer", "doc_to_target: right", "names the column 'right', which record 1 does not have"),
        ("doc_to_target: answer", "doc_to_target: question", "the target .* of record 1 is none of its 2 choices"),
        ("doc_to_choice: choices\n", "", "doc_to_choice is missing"),
        ("acc_norm", "mcc", "of the metrics mcc this version knows none; it knows acc,"),
        ("question.strip()", "question.__class__", "the template reaches for"),
        ("dataset_kwargs: {data_files: {test: elsewhere/rows.jsonl}}\n", "", "its data is json, not a local file"),
        ("task: capitals", "include: ../other.yaml", "is no file beside it"),
        ("task: capitals", "include: mine.yaml", "includes go round"),
        ("task: capitals", "task: capitals\nfilter_list: [{name: last}]", "filter_list would change the score"),
        (
            "task: capitals",
            "task: capitals\ngeneration_kwargs: {best_of: 3}",
            "generation_kwargs.best_of would change the score",
        ),
        ("task: capitals", "task: capitals\ngeneration_kwargs: {do_sample: true}", "ask for drawn replies"),
        ("{metric: acc_norm}", "{metric: acc, ignore_case: true}", "the metric acc has ignore_case"),
        ("doc_to_choice: choices", "doc_to_choice: !function utils.choices", "function"),
    ],
)
def test_a_mistake_in_such_a_file_is_one_sentence(mine, old, new, said):
    mine.write_text(MINE.replace(old, new))
    with pytest.raises(UserError, match=said):
        load_task(mine)
