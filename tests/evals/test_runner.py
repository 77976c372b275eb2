"""Scores against plain formulas on tiny models; comparison of two models; evaluation while a model trains."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bottega.core.errors import Mismatch, UserError
from bottega.core.types import Attached, Turn
from bottega.data.chat import Template, encode_prompt, tokenize
from bottega.evals.compare import compare
from bottega.evals.hook import make_hook, make_samples, undisturbed
from bottega.evals.runner import Scorecard, evaluate
from bottega.evals.tasks import Task, load_task
from bottega.models import attention
from bottega.models.generate import Generator
from bottega.workshop.comparing import compare_text
from tests.models.tiny import tiny_model

QUESTIONS = ("who keeps the keys?", "a saw and 12 chisels", "open at eight", "il legno", "please answer")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tiny_model("llama", tmp_path_factory.mktemp("model"))
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    folder = tiny_model("llama", tmp_path_factory.mktemp("other"), seed=9)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def ids_of(tokenizer, text):
    """Ids as training and evaluation see a plain text."""
    return tokenize([text], tokenizer)[0][0]


@torch.no_grad()
def logp(model, ids, start):
    """Sum of log-probabilities of ids[start:], by the model's own logits."""
    logits = model(input_ids=torch.tensor([ids])).logits[0].float()
    table = torch.log_softmax(logits, -1)
    return sum(table[at - 1, ids[at]].item() for at in range(start, len(ids)))


def choice_task(**more):
    rows = tuple(
        {"query": f"Question: {q} Answer:", "choices": ["Anna keeps", "the bench", "12"], "gold": i % 3}
        for i, q in enumerate(QUESTIONS)
    )
    return Task(name="choice", kind="multiple_choice", prompt="{{ query }}", rows=rows, **more)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("metric", ["accuracy", "accuracy_per_byte"])
def test_multiple_choice_takes_the_likeliest_choice_by_the_models_own_logits(made, packed, metric, tmp_path):
    model, tokenizer = made
    if packed:
        model = AutoModelForCausalLM.from_pretrained(tiny_model("llama", tmp_path)).eval()
        attention.install(model)
    task = choice_task(metric=metric)
    score = evaluate(model, tokenizer, [task], seed=1).scores[0]
    for row, item in zip(task.rows, score.items):
        start = len(ids_of(tokenizer, row["query"]))
        marks = []
        for choice in row["choices"]:
            mark = logp(made[0], ids_of(tokenizer, f"{row['query']} {choice}"), start)
            marks.append(mark / len(choice.encode()) if metric == "accuracy_per_byte" else mark)
        best = max(range(3), key=marks.__getitem__)
        assert item.reply == row["choices"][best] and item.value == float(best == row["gold"])
    assert (
        score.n == 5
        and score.value == sum(item.value for item in score.items) / 5
        and score.low < score.value < score.high
    )


def test_a_choice_between_contexts_scores_the_same_ending_after_each(made):
    model, tokenizer = made
    row = {
        "context_options": ["The saw is sharp because the saw", "The saw is sharp because Anna"],
        "continuation": "is new.",
        "gold": 1,
    }
    task = Task(
        name="wsc", kind="multiple_choice", prompt="", contexts="context_options", answer="continuation", rows=(row,)
    )
    item = evaluate(model, tokenizer, [task]).scores[0].items[0]
    marks = []
    for context in row["context_options"]:
        start = len(ids_of(tokenizer, context))
        marks.append(logp(model, ids_of(tokenizer, f"{context} is new."), start))
    assert item.reply == row["context_options"][int(marks[1] > marks[0])]


def test_perplexity_is_exp_of_the_mean_loss_over_tokens_and_bits_are_per_byte(made):
    model, tokenizer = made
    texts = ["The workshop opens at eight.", "Anna keeps the keys of the bench and the saw."]
    rows = tuple({"text": text} for text in texts)
    cards = {
        metric: evaluate(
            model, tokenizer, [Task(name="p", kind="perplexity", prompt="", answer="text", metric=metric, rows=rows)]
        )
        for metric in ("perplexity", "loss", "bits_per_byte")
    }
    encoded = [ids_of(tokenizer, text) for text in texts]
    loss, count = -sum(logp(model, ids, 1) for ids in encoded), sum(len(ids) - 1 for ids in encoded)
    score = {metric: card.scores[0] for metric, card in cards.items()}
    assert score["perplexity"].value == pytest.approx(math.exp(loss / count), rel=1e-5)
    assert score["loss"].value == pytest.approx(loss / count, rel=1e-5)
    assert score["bits_per_byte"].value == pytest.approx(
        loss / math.log(2) / sum(len(t.encode()) for t in texts), rel=1e-5
    )
    assert (
        not score["loss"].higher_is_better
        and score["perplexity"].low < score["perplexity"].value < score["perplexity"].high
    )


def test_a_text_longer_than_the_model_is_scored_in_windows_that_cover_it_once(made):
    model, tokenizer = made
    text = "Anna keeps the keys. " * 60
    ids = ids_of(tokenizer, text)
    assert len(ids) > 128
    score = evaluate(
        model, tokenizer, [Task(name="p", kind="perplexity", prompt="", answer="text", rows=({"text": text},))]
    ).scores[0]
    assert score.items[0].weight == len(ids) - 1


def test_generation_scores_replies_and_counts_those_that_stop(made):
    model, tokenizer = made
    generator = Generator(model, tokenizer)
    rows = []
    for question in QUESTIONS:
        reply = generator.sample([ids_of(tokenizer, question)], max_tokens=6)[0]
        rows.append({"prompt": question, "answer": reply.text.strip(), "ended": reply.finish == "stop"})
    rows[0]["answer"] = "something else"
    rows[1]["answer"] = ["no", rows[1]["answer"]]
    task = Task(name="g", kind="generation", rows=tuple(rows), metric={"name": "exact", "normal": False}, max_tokens=6)
    score = evaluate(model, tokenizer, [task], seed=0).scores[0]
    assert [item.value for item in score.items] == [0, 1, 1, 1, 1]
    assert score.stops == sum(row["ended"] for row in rows) / 5


def test_a_continuation_is_right_when_every_greedy_token_is_its_own(made):
    model, tokenizer = made
    prompt = "Question: who keeps the keys? Answer:"
    ids = ids_of(tokenizer, prompt)
    said = tokenizer.decode(Generator(model, tokenizer).sample([ids], max_tokens=2, stop_ids=())[0].ids)
    whole = ids_of(tokenizer, prompt + said)
    rows = ({"context": prompt, "continuation": said}, {"context": prompt, "continuation": " Zebra"})
    task = Task(name="c", kind="continuation", prompt="{{ context }}", answer="continuation", delimiter="", rows=rows)
    score = evaluate(model, tokenizer, [task]).scores[0]
    assert [item.value for item in score.items] == [float(whole[: len(ids)] == ids and len(whole) == len(ids) + 2), 0.0]


def test_a_chat_task_asks_through_the_template_and_ends_with_the_turn(made):
    model, tokenizer = made
    task = Task(
        name="chat",
        kind="generation",
        chat=True,
        system="Be short.",
        rows=({"prompt": "hello", "answer": "x"},),
        max_tokens=4,
    )
    item = evaluate(model, tokenizer, [task]).scores[0].items[0]
    turns = [Turn(role="system", content="Be short."), Turn(role="user", content="hello")]
    ids = encode_prompt(turns, tokenizer, Template.of(tokenizer))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert item.reply == Generator(model, tokenizer).sample([ids], max_tokens=4, stop_ids=(2, end))[0].text


def test_a_chat_task_asks_in_several_turns(made):
    model, tokenizer = made
    said = [("user", "I am Anna."), ("assistant", "Hello."), ("user", "who am I?")]
    rows = ({"messages": [{"role": role, "content": text} for role, text in said], "answer": "x"},)
    task = Task(name="talk", kind="generation", chat=True, messages="messages", rows=rows, max_tokens=4)
    item = evaluate(model, tokenizer, [task]).scores[0].items[0]
    ids = encode_prompt([Turn(role=role, content=text) for role, text in said], tokenizer, Template.of(tokenizer))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert item.reply == Generator(model, tokenizer).sample([ids], max_tokens=4, stop_ids=(2, end))[0].text
    assert item.prompt == "user: I am Anna.\nassistant: Hello.\nuser: who am I?"
    with pytest.raises(UserError, match="set chat: true"):
        evaluate(model, tokenizer, [replace(task, chat=False)])
    with pytest.raises(UserError, match="task talk.*expected a list"):
        evaluate(model, tokenizer, [replace(task, rows=({"messages": [], "answer": "x"},))])


def test_a_scorecard_repeats_and_survives_its_file(made):
    model, tokenizer = made
    tasks = [choice_task(), Task(name="p", kind="perplexity", prompt="", answer="text", rows=({"text": "Anna keeps"},))]
    card = evaluate(model, tokenizer, tasks, seed=3, name="tiny")
    text = json.dumps(card.to_json(), allow_nan=False)
    assert text == json.dumps(evaluate(model, tokenizer, tasks, seed=3, name="tiny").to_json())
    assert Scorecard.from_json(json.loads(text)) == card and card.score("p").low is None
    with pytest.raises(UserError, match="schema 2"):
        Scorecard.from_json({"schema": 2})
    with pytest.raises(UserError, match="task 'q' is not in the scorecard of tiny; it has choice, p"):
        card.score("q")


def test_two_models_are_compared_item_by_item(made, other):
    model, tokenizer = made
    rows = tuple({"text": f"Anna keeps {n} keys and the saw."} for n in range(30))
    tasks = [choice_task(), Task(name="p", kind="perplexity", prompt="", answer="text", rows=rows)]
    one, two = (evaluate(m, tokenizer, tasks, seed=1, name=n) for m, n in ((model, "one"), (other, "two")))
    report = compare(one, two)
    both = {task.task: task for task in report.tasks}
    by_loss = one.score("p").value - two.score("p").value
    assert both["p"].difference.value * by_loss > 0, "positive is better, also for a loss"
    assert both["p"].verdict == ("better" if by_loss > 0 else "worse")
    assert both["choice"].difference.n == 5 and len(both["choice"].improved) == both["choice"].difference.improved
    same = compare(one, one)
    assert all(task.verdict == "no difference" and task.difference.value == 0 for task in same.tasks)
    json.dumps(report.to_json(), allow_nan=False)
    assert compare(one, evaluate(other, tokenizer, tasks[:1], seed=1)).missing == ("p",)


def test_a_comparison_tells_groups_apart(made):
    """Leaf a gains on all 40 items, b loses on all 40, c keeps its 20 right and 20 wrong: by hand, as replies are given."""
    model, tokenizer = made
    rows = tuple({"prompt": f"q{n}", "answer": "x", "leaf": "abc"[n // 40]} for n in range(120))
    task = Task(name="leaves", kind="generation", rows=rows, group="leaf", max_tokens=1)
    card = evaluate(model, tokenizer, [task], seed=1)
    assert [item.group for item in card.scores[0].items].count("b") == 40
    values = {"a": (0.0, 1.0), "b": (1.0, 0.0)}

    def scored(side: int) -> Scorecard:
        score, at = card.scores[0], 0
        kept = []
        for item in score.items:
            at += item.group == "c"
            kept.append(replace(item, value=values[item.group][side] if item.group in values else float(at % 2)))
        return replace(card, scores=(replace(score, items=tuple(kept)),))

    (task_report,) = compare(scored(0), scored(1)).tasks
    assert [(g.name, g.before, g.after, g.verdict) for g in task_report.groups] == [
        ("a", 0.0, 1.0, "improved"), ("b", 1.0, 0.0, "regressed"), ("c", 0.5, 0.5, "unchanged"),
    ]  # fmt: skip
    text = compare_text(compare(scored(0), scored(1)))
    assert "told apart: 1 improved, 1 regressed, 1 unchanged" in text and text.index("| b |") < text.index("| a |")
    assert Scorecard.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_scorecards_of_other_items_or_versions_are_not_compared(made):
    model, tokenizer = made
    card = evaluate(model, tokenizer, [choice_task()], seed=1)
    with pytest.raises(Mismatch, match="not the same"):
        compare(card, evaluate(model, tokenizer, [choice_task()], seed=1, limit=3))
    with pytest.raises(Mismatch, match="version 1 in one scorecard and 2"):
        compare(card, evaluate(model, tokenizer, [choice_task(version=2)], seed=1))


def attach(model):
    return Attached(name="full", model=model, groups=[], save=lambda folder: None, merge=None)


def test_evaluating_while_training_leaves_no_trace(made):
    model, tokenizer = made
    model.train()
    model.model.layers[1].eval()
    model.lm_head.weight.requires_grad_(False)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    hook = make_hook(attach(model), tokenizer, [choice_task()], seed=2)
    first = hook(10)
    assert first == hook(20) and set(first) == {"choice"}
    rows = make_samples(attach(model), tokenizer, ["hello"], max_tokens=3)(5)
    assert rows[0]["step"] == 5 and rows[0]["prompt"] == "hello"
    assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert model.training and not model.model.layers[1].training and not model.lm_head.weight.requires_grad
    model.lm_head.weight.requires_grad_(True)
    model.eval()


def test_what_an_evaluation_switches_is_switched_back(made):
    model, _ = made
    with pytest.raises(RuntimeError), undisturbed(model):
        model.train().requires_grad_(False)
        torch.rand(3), random.random()
        raise RuntimeError
    assert not model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_llm_foundry_tasks_run_on_a_tiny_model(made, shared_data):
    model, tokenizer = made
    files = ("copa", "winograd_wsc", "simple_arithmetic_withspaces", "triviaqa_small")
    tasks = [load_task(shared_data(f"icl_tasks/{file}.jsonl")) for file in files]
    tasks = [Task(**{**{f: getattr(t, f) for f in t.__dataclass_fields__}, "max_tokens": 4}) for t in tasks]
    card = evaluate(model, tokenizer, tasks, limit=6)
    assert [score.n for score in card.scores] == [6] * 4 and all(0 <= score.value <= 1 for score in card.scores)
