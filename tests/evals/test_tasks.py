"""Tasks: YAML and jsonl read as written, mistakes named."""

from __future__ import annotations

import json
import math

import pytest

from bottega.core.errors import UserError
from bottega.evals.tasks import Task, builtin, column, fill, icl_task, items, load_task


def test_every_task_of_the_folder_parses_and_asks_for_its_data(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"a": 1}\n')
    assert {"gsm8k", "perplexity"} <= set(builtin())
    for name in builtin():
        with pytest.raises(UserError, match=f"task {name} has 0 items: give its data as {name}=FILE"):
            load_task(name)
        assert load_task(f"{name}={rows}").name == name


def test_a_task_file_finds_its_data_beside_it(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"q": "2+2", "a": "4"}\n')
    path = tmp_path / "mine.yaml"
    path.write_text(
        'name: mine\nkind: generation\ndata: q.jsonl\nprompt: "{{ q }} ="\nanswer: a\n'
        "metric: {name: number, tolerance: 0.5}\n"
    )
    task = load_task(path)
    (item,) = items(task, seed=0)
    assert fill(task.prompt, item.record) == "2+2 =" and task.metric == {"name": "number", "tolerance": 0.5}


def test_a_mistake_in_a_task_is_named_with_its_line(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("name: bad\nkind: generation\npromt: x\nrows: [{a: 1}]\n")
    with pytest.raises(UserError, match=r"bad.yaml:3.*promt.*did you mean prompt"):
        load_task(path)
    with pytest.raises(UserError, match="there is no task 'gsm8'; did you mean gsm8k"):
        load_task("gsm8")
    path.write_text("name: bad\nkind: generation\nrows: [{a: 1}]\nmax_tokens: 0\n")
    with pytest.raises(UserError, match="max_tokens"):
        load_task(path)


def test_templates_take_columns_and_nothing_else():
    record = {"name": "Anna", "x.y": 3}
    assert fill("Hi {{ name }}, {{name}} {{ x.y }} {% if %}", record) == "Hi Anna, Anna 3 {% if %}"
    assert (
        fill("{{ name.__class__ | upper }} {{ 'a' * 9 | x }}", {"name": "q"})
        == "{{ name.__class__ | upper }} {{ 'a' * 9 | x }}"
    )
    with pytest.raises(UserError, match="asks for 'nam', which the record does not have; did you mean name"):
        fill("{{ nam }}", record)
    assert column("name", record) == "Anna" and column("<{{ name }}>", record) == "<Anna>"


def test_items_drawn_by_seed_are_the_same_ones_each_time_and_keep_their_keys():
    task = Task(name="t", kind="generation", rows=tuple({"prompt": str(i), "answer": "x"} for i in range(50)))
    all_, some, again, other = (items(task, seed=s, limit=n) for s, n in ((1, None), (1, 10), (1, 10), (2, 10)))
    assert len(all_) == 50 and [i.key for i in some] == [i.key for i in again] != [i.key for i in other]
    assert {i.key for i in some} < {i.key for i in all_}
    same = Task(name="t", kind="generation", rows=({"prompt": "a"}, {"prompt": "a"}))
    assert len({i.key for i in items(same, seed=0)}) == 2, "equal records are two items"


def test_an_item_is_never_its_own_example():
    task = Task(name="t", kind="generation", shots=3, rows=tuple({"prompt": str(i), "answer": "x"} for i in range(4)))
    for item in items(task, seed=5):
        assert item.record not in item.shots and len(item.shots) == 3
    with pytest.raises(UserError, match="wants 4 shots of 4 items"):
        items(Task(name="t", kind="generation", shots=4, rows=task.rows), seed=0)


def test_a_broken_row_stops_a_benchmark(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n{broken\n')
    with pytest.raises(UserError, match=r"x.jsonl:2"):
        items(Task(name="x", kind="generation", data=str(path)), seed=0)


@pytest.mark.parametrize(
    ("file", "kind", "n", "guess"),
    [
        ("copa", "multiple_choice", 100, 0.5),
        ("openbook_qa", "multiple_choice", 500, 0.25),
        ("winograd_wsc", "multiple_choice", 273, 0.5),
        ("lambada_openai_small", "continuation", 8, None),
        ("simple_arithmetic_withspaces", "continuation", 1000, None),
        ("triviaqa_small", "generation", 32, 0.0),
        ("svamp", "generation", 300, 0.0),
    ],
)
def test_llm_foundrys_jsonl_is_read_as_it_is(file, kind, n, guess, shared_data):
    task = load_task(shared_data(f"icl_tasks/{file}.jsonl"))
    assert (task.name, task.kind, task.random) == (file, kind, guess)
    assert len(items(task, seed=0)) == n and not math.isnan(n)


def test_a_jsonl_of_unknown_columns_says_what_was_expected(tmp_path):
    path = tmp_path / "odd.jsonl"
    path.write_text(json.dumps({"foo": 1}) + "\n")
    with pytest.raises(UserError, match="odd.jsonl has the columns foo; expected query"):
        icl_task(path)
