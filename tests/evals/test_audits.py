"""The audits: verdicts by the interval, forgetting by hand, and privacy of a model that learned rows by heart and of one that did not.

Left out: the verbs (tests/workshop/test_auditing.py).
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bottega.core.errors import Mismatch, UserError
from bottega.evals import forgetting, privacy
from bottega.evals.audit import Audit, Finding
from bottega.evals.engine import Engine
from bottega.evals.runner import ItemScore, Score, Scorecard
from tests.models.tiny import tiny_model


def found(value, low, high, bound=0.1):
    return Finding(what="x", value=value, low=low, high=high, n=10, bound=bound)


def test_a_finding_passes_when_its_whole_interval_keeps_the_bound_and_fails_when_none_of_it_does():
    assert found(0.05, 0.0, 0.1).verdict == "passed" and found(0.2, 0.11, 0.3).verdict == "failed"
    assert found(0.05, 0.0, 0.2).verdict == "unclear" and found(0.05, None, None).verdict == "unclear"
    assert found(9.0, 8, 10, bound=None).verdict == "measured"


def audit_of(*findings):
    return Audit(risk="r", model="m", base="b", seed=0, findings=tuple(findings))


def test_an_audit_s_verdict_is_its_worst_and_only_passed_ends_well():
    good, bad, open_ = found(0, 0, 0.1), found(1, 1, 1), found(0, 0, 0.2)
    assert audit_of(good, bad, open_).verdict == "failed" and audit_of(good, open_).verdict == "unclear"
    assert [audit_of(*some).exit_code for some in ((good,), (good, open_), (bad,), ())] == [0, 1, 1, 0]
    audit = audit_of(good, bad)
    assert Audit.from_json(json.loads(json.dumps(audit.to_json()))) == audit
    with pytest.raises(UserError, match="update bottega"):
        Audit.from_json(audit.to_json() | {"schema": 9})


def card(name, **tasks):
    scores = []
    for task, (metric, values, weights) in tasks.items():
        items = tuple(
            ItemScore(key=str(at), value=value, weight=weight, prompt=f"q{at}", reply=str(value))
            for at, (value, weight) in enumerate(zip(values, weights or [1.0] * len(values)))
        )
        value = sum(values) / len(values)
        scores.append(
            Score(
                task=task,
                version=1,
                kind="generation",
                metric=metric,
                value=value,
                low=None,
                high=None,
                n=len(items),
                items=items,
            )
        )
    return Scorecard(model=name, seed=0, scores=tuple(scores))


def test_forgetting_is_the_paired_drop_and_the_rise_of_the_loss():
    right = [1.0] * 1000
    wrong = [0.0] * 100 + [1.0] * 900
    before = card("base", questions=("exact", right, None), text=("perplexity", [-2.0, -1.0, -3.0], [10, 20, 30]))
    after = card("tuned", questions=("exact", wrong, None), text=("perplexity", [-2.2, -1.1, -3.3], [10, 20, 30]))
    audit = forgetting.judge(before, after)
    drop, rise = audit.findings
    assert drop.value == pytest.approx(0.1) and drop.verdict == "failed" and drop.n == 1000
    assert rise.value == pytest.approx(0.1) and rise.verdict == "failed"  # every loss is a tenth larger
    assert audit.exit_code == 1 and audit.examples[0]["prompt"] == "q0" and len(audit.examples) == 5
    clean = forgetting.judge(before, before, kl=(0.0, 5))
    assert clean.verdict == "passed" and clean.findings[-1].verdict == "measured" and not clean.examples


def test_what_cannot_be_compared_is_a_mismatch():
    one = card("a", questions=("exact", [1.0, 0.0], None))
    with pytest.raises(Mismatch, match="no task in common"):
        forgetting.judge(one, card("b", others=("exact", [1.0], None)))
    with pytest.raises(Mismatch, match="same items"):
        forgetting.judge(one, card("b", questions=("exact", [1.0], None)))
    losses = [card("a", text=("loss", [-1.0, -2.0], weights)) for weights in ([5, 5], [5, 6])]
    with pytest.raises(Mismatch, match="bits_per_byte"):
        forgetting.judge(*losses)


def test_auc_counts_pairs_and_ties_by_half():
    assert privacy.auc(np.array([3.0, 2.0]), np.array([1.0, 2.0])).value == pytest.approx(0.875)
    draws = np.random.default_rng(0)
    members, others = draws.normal(0.5, 1, 400), draws.normal(0, 1, 300)
    got = privacy.auc(members, others)
    pairs = (members[:, None] > others[None]).mean()
    assert got.value == pytest.approx(pairs) and got.low < 0.638 < got.high  # Phi(0.5 / sqrt 2) = 0.638
    again = [
        privacy.auc(draws.choice(members, 400), draws.choice(others, 300)).value for _ in range(300)
    ]  # the bootstrap's spread is DeLong's
    assert (got.high - got.low) / 3.92 == pytest.approx(np.std(again), rel=0.2)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A base, the same after it learned 24 rows of random tokens by heart, those rows, and 24 others."""
    folder = tiny_model("llama", tmp_path_factory.mktemp("heart"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base, model = (AutoModelForCausalLM.from_pretrained(folder).eval() for _ in range(2))
    draws = np.random.default_rng(3)
    rows, others = (draws.integers(5, 300, (24, 16)).tolist() for _ in range(2))
    ids = torch.tensor(rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Engine(base, tokenizer), Engine(model, tokenizer), rows, others


def probed(engine, rows, others=()):
    return privacy.probe(engine, rows, others, prefix=6, length=8, tokens=64)


def judged(model, base, rows):
    return privacy.judge("m", model, base, base_name="b", rows=rows, prefix=6, length=8)


def test_a_model_that_learned_its_rows_by_heart_is_found_and_a_clean_one_is_not(learned):
    base, model, rows, others = learned
    clean = probed(base, rows, others)
    audit = judged(probed(model, rows, others), clean, rows)
    share, longest, *ways = audit.findings
    assert share.value > 0.9 and share.verdict == "failed" and longest.value > 7
    assert len(ways) == 3 and all(way.value > 0.95 and way.verdict == "failed" for way in ways)
    assert audit.verdict == "failed" and audit.examples and audit.examples[0]["came out"]
    quiet = judged(clean, clean, rows)
    assert quiet.findings[0].value == 0 and quiet.verdict != "failed" and not quiet.examples
    assert "few" in " ".join(quiet.notes)


def test_what_the_base_writes_too_is_not_counted_and_short_rows_are_named(learned):
    base, model, rows, _ = learned
    known = probed(model, rows)
    same = judged(known, known, rows)
    assert same.findings[0].value == 0 and len(same.findings) == 2
    assert any("--held-out" in note for note in same.notes)
    with_short = privacy.judge("m", known, None, base_name="", rows=[*rows, [1, 2]], prefix=6, length=8)
    assert with_short.base == "" and any("shorter than 14" in note for note in with_short.notes)
    with pytest.raises(UserError, match="no row has the 14 tokens"):
        judged(probed(base, [[1, 2]]), None, [[1, 2]])
