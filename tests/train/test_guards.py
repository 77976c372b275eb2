"""What the loop notices: nothing learned, frozen weights that move, numbers that are not finite, early stops (T5, T7, T12)."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from bottega.core import devices, rundir
from bottega.core.errors import Diverged, UserError
from bottega.core.types import Row, Tokens
from bottega.models.layout import lay
from bottega.train import fit, parts
from bottega.train.guards import SelfCheck, fingerprint, heaviest
from bottega.train.metrics import attention_flops, flops
from bottega.train.scoring import num_supervised
from bottega.train.source import Dataset
from tests.models.tiny import tiny_model
from tests.train.clients import VOCABULARY, make_loop, rows, weights


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_model("llama", tmp_path_factory.mktemp("llama"), vocab=VOCABULARY)


def test_the_self_check_says_what_moved_and_what_did_not(llama, tmp_path):
    loop = make_loop(llama, tmp_path, tune="lora", steps=6, lr=1e-3, optimizer="adamw", self_check=3)
    notes: list[str] = []
    loop.progress.note = notes.append  # type: ignore[method-assign]
    loop.run()
    frozen = sum(not p.requires_grad for p in loop.parts.scorer.parameters())
    assert any(line.startswith("self-check:") and f"{frozen} frozen ones did not" in line for line in notes)


def test_a_frozen_weight_that_moves_stops_the_run(llama, tmp_path):
    loop = make_loop(llama, tmp_path, tune="lora", steps=6, lr=1e-3, optimizer="adamw", self_check=2)
    frozen = next(p for p in loop.parts.scorer.parameters() if not p.requires_grad)
    step = loop.parts.optimizer.step

    def meddling() -> None:
        step()
        with torch.no_grad():
            frozen.add_(1e-3)

    loop.parts.optimizer.step = meddling  # type: ignore[method-assign]
    with pytest.raises(UserError, match="frozen parameters changed"):
        loop.run()


def test_only_what_is_taught_between_steps_may_move_whatever_it_is_called():
    """A frozen reward model is no exception; one that people's ratings refresh is named to the check."""
    module = torch.nn.ModuleDict(
        {"policy": torch.nn.Linear(2, 1), "reward": torch.nn.Linear(2, 1).requires_grad_(False)}
    )
    for taught, said in ((frozenset(), "reward.weight first"), (frozenset({"reward.weight"}), None)):
        check, notes = SelfCheck(module, steps=1, taught=taught), []
        module["policy"](torch.ones(1, 2)).sum().backward()
        check.after_backward(module)
        with torch.no_grad():
            module["reward"].weight.add_(1.0)
            for p in module["policy"].parameters():
                p.add_(1.0)
        if said is None:
            check.finish(module, notes.append)
            assert notes
        else:
            with pytest.raises(UserError, match=said):
                check.finish(module, notes.append)


def test_a_learning_rate_of_zero_is_noticed(llama, tmp_path):
    loop = make_loop(llama, tmp_path, steps=6, lr=0.0, self_check=2)
    with pytest.raises(UserError, match="did not move in 2 steps.*raise lr"):
        loop.run()


def test_a_parameter_that_the_loss_does_not_reach_is_named():
    module = torch.nn.ModuleDict({"used": torch.nn.Linear(2, 1), "unused": torch.nn.Linear(2, 1)})
    check = SelfCheck(module, steps=1)
    module["used"](torch.ones(1, 2)).sum().backward()
    with pytest.raises(UserError, match="unused.weight"):
        check.after_backward(module)


def test_a_single_changed_bit_changes_the_fingerprint():
    tensor = torch.randn(1000)
    before = fingerprint(tensor)
    tensor.view(torch.int32)[617] ^= 1
    assert fingerprint(tensor) != before
    assert fingerprint(tensor.to(torch.bfloat16)[:7]) != fingerprint(tensor.to(torch.bfloat16)[1:8])


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(llama, tmp_path):
    loop = make_loop(llama, tmp_path, steps=6, lr=1e-3)
    loop.one_step()
    before = weights(loop)
    objective = loop.parts.spec.objective

    def poisoned(scores, targets, **options):
        terms, sums = objective(scores, targets, **options)
        return {"nll": terms["nll"]._replace(total=terms["nll"].total * float("nan"))}, {
            "loss/tokens": sums["loss/tokens"] * float("nan")
        }

    loop.parts.spec = replace(loop.parts.spec, objective=poisoned)
    with pytest.raises(Diverged, match=r"step 2: loss nan.*rows 0, 1, 2.*weights are as before"):
        loop.one_step()
    assert all(torch.equal(value, before[name]) for name, value in weights(loop).items())
    assert Diverged.exit_code == 5


def test_rows_with_nothing_to_learn_end_in_one_sentence(llama, tmp_path):
    loop = make_loop(llama, tmp_path, steps=2)
    mute = [Row(index=i, branches=(Tokens([5, 6, 7], [0.0, 0.0, 0.0]),)) for i in range(8)]
    loop.parts.source.rows = mute  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="none of the 8 rows has a token to learn"):
        loop.one_step()


def test_the_heaviest_step_is_found_among_those_that_will_come_and_none_is_taken():
    """Two epochs of two steps of four rows, in their order: the sums of both halves of the rows decide."""
    batch = rows("branches")
    source = Dataset(batch, batch=4, seed=0, shuffle=False)
    step, tokens = heaviest(source.ahead(4))
    halves = [sum(row.num_tokens for row in half) for half in (batch[:4], batch[4:])]
    assert sum(row.num_tokens for row in step) == max(halves) and tokens == 2 * sum(halves)
    assert [row.index for row in source.next()[0]] == [0, 1, 2, 3]
    assert heaviest(iter(())) == ((), 0)


def test_the_heaviest_batch_leaves_no_trace_and_is_left_out_where_it_costs_much(llama, tmp_path, monkeypatch):
    """With and without the trial: the same weights after a step (optimizer, random state and gradients are put back)."""
    results, laid = [], []
    for share in (0.02, 1.0):
        monkeypatch.setattr(fit, "PRELUDE_SHARE", share)
        loop = make_loop(llama, tmp_path / str(share), steps=1)
        monkeypatch.setattr(parts, "lay", lambda *a, share=share, **k: laid.append(share) or lay(*a, **k))
        loop.run()
        results.append(weights(loop))
    assert laid == [0.02, 1.0, 1.0]
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def test_early_stopping_keeps_the_best_checkpoint_and_evaluation_changes_no_step(llama, tmp_path):
    """The watched metric gets worse after the second evaluation, whatever the weights: two more, and the run ends."""
    values = iter([3.0, 2.0, 2.5, 2.6, 2.7, 2.8])
    plain = make_loop(llama, tmp_path / "plain", steps=8, lr=1e-2, schedule="constant")
    plain.run()
    stopped = make_loop(
        llama, tmp_path / "stop", steps=8, lr=1e-2, eval_every=1, early_stop="loss", patience=2, keep=1, save_every=1
    )

    def validate(step: int) -> dict[str, float]:
        torch.rand(5)
        return {"loss": next(values)}

    stopped.parts.validate = validate
    outcome = stopped.run()
    assert (outcome.step, outcome.best, outcome.best_step) == (4, 2.0, 2)
    assert outcome.reason.startswith("no better loss in 2 evaluations")
    assert sorted(p.name for p in (tmp_path / "stop" / "checkpoints").iterdir()) == ["step-0000002", "step-0000004"]
    logged = [[json.loads(line)["loss"] for line in (tmp_path / d / "metrics.jsonl").open()] for d in ("plain", "stop")]
    assert logged[1] == logged[0][:4]


def test_a_metric_that_nobody_measures_is_named(llama, tmp_path):
    loop = make_loop(llama, tmp_path, steps=2, eval_every=1, early_stop="acuracy")
    loop.parts.validate = lambda step: {"accuracy": 1.0}
    with pytest.raises(UserError, match="early_stop watches 'acuracy', but the evaluation gives accuracy"):
        loop.run()


@pytest.mark.parametrize(("tune", "options"), [("lisa", {"active": 1, "every": 1}), ("prefix", {"length": 4})])
def test_the_self_check_holds_for_methods_that_take_turns_or_put_positions_before(llama, tmp_path, tune, options):
    loop = make_loop(
        llama, tmp_path, tune=tune, method_options=options, steps=5, lr=1e-2, optimizer="adamw", self_check=5
    )
    notes: list[str] = []
    loop.progress.note = notes.append  # type: ignore[method-assign]
    loop.run()
    (line,) = [note for note in notes if note.startswith("self-check")]
    learned = {"prefix": "1 trainable", "lisa": f"{sum(1 for _ in loop.parts.scorer.parameters())} trainable"}
    assert learned[tune] in line and "no gradient" not in line


def test_an_expert_without_tokens_is_said_and_is_no_error():
    """Two experts, all tokens go to the first; the router is not among them, so that its missing gradient would be one."""
    module = torch.nn.ModuleDict({"experts": torch.nn.ModuleList([torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)])})
    check, notes = SelfCheck(module, steps=1), []
    module["experts"][0](torch.ones(1, 2)).sum().backward()
    check.after_backward(module)
    torch.optim.SGD(module.parameters(), lr=1.0).step()
    check.finish(module, notes.append)
    assert "2 trainable tensors moved" in notes[0] and "2 of them are experts that no token was sent to" in notes[0]


def test_a_mixture_of_experts_passes_its_self_check(tmp_path):
    model = tiny_model("mixtral", tmp_path / "model", vocab=VOCABULARY)
    loop = make_loop(model, tmp_path, steps=3, lr=1e-2, optimizer="adamw", self_check=3)
    notes: list[str] = []
    loop.progress.note = notes.append  # type: ignore[method-assign]
    loop.run()
    assert any(note.startswith("self-check") for note in notes)


def test_a_run_that_goes_on_within_the_first_steps_is_checked_too(llama, tmp_path):
    loop = make_loop(llama, tmp_path, steps=2, lr=1e-3, self_check=5)
    loop.run()
    again = make_loop(llama, tmp_path, steps=6, lr=1e-3, self_check=5)
    notes: list[str] = []
    again.progress.note = notes.append  # type: ignore[method-assign]
    again.run()
    assert any(note.startswith("self-check") for note in notes)


def test_utilisation_counts_the_products_that_a_step_needs(llama, tmp_path):
    """Per layer 32 x 32 (q, o), 32 x 16 (k, v) and 3 of 32 x 48: 7680 weights; two layers and a head of 32 x 320. All learn: 6
    operations a weight. LoRA of rank 2 on q: frozen ones 4, and 6 for A (2 x 32) and B (32 x 2) in each layer."""
    assert flops(make_loop(llama, tmp_path).parts.scorer) == (6 * 15360, 6 * 10240)
    assert attention_flops(make_loop(llama, tmp_path).parts.scorer) == 12 * 2 * 32  # L = 2, D = 32
    lora = make_loop(llama, tmp_path, tune="lora", method_options={"rank": 2, "targets": ["q_proj"]})
    assert flops(lora.parts.scorer) == (4 * 15360 + 6 * 2 * 128, 4 * 10240)
    shown: dict[str, float] = {}
    lora.progress.update = lambda step, metrics: shown.update(metrics)
    lora.run()
    tokens, labels = (sum(f(row) for row in rows("single")) for f in (lambda r: r.num_tokens, num_supervised))
    attention = 768 * sum(row.num_tokens**2 for row in rows("single"))
    done = tokens * (4 * 15360 + 6 * 256) + labels * 4 * 10240 + attention
    assert shown["mfu"] == pytest.approx(done * shown["tokens/s"] / tokens / devices.peak_flops("cpu"), rel=1e-6)
    assert shown["lr"] == 1.0 and shown["GB"] > 0 and shown["loss"] == lora.outcome.last["loss"]


@pytest.mark.parametrize("at", [2, 4])
def test_a_stop_in_the_middle_of_an_evaluation_ends_it_and_the_end_is_the_same(llama, tmp_path, at):
    """Asked in the second of three calls of the evaluation after step 2, or after the last step: the step is saved, and what goes on
    begins with its evaluation; logs and checkpoints are those of a run that nobody stopped."""
    settings = {
        "steps": 4,
        "lr": 1e-3,
        "optimizer": "adamw",
        "eval_every": 2,
        "save_every": 2,
        "early_stop": "loss",
        "keep": 9,
    }
    calls = []

    def looped(folder, stops):
        made = make_loop(llama, tmp_path / folder, **settings)
        ids = torch.arange(3, 9)[None]

        def validate(step):
            calls.clear()
            for _ in range(3):
                calls.append(step)
                logits = made.parts.attached.model(input_ids=ids).logits
            return {"loss": float(logits.float().logsumexp(-1).mean())}

        made.parts.validate = validate
        made.parts.stopping = lambda: stops and calls == [at, at]
        return made

    whole = looped("whole", False)
    whole.run()
    stopped = looped("stopped", True)
    assert stopped.run().reason == "interrupted" and stopped.step == at
    assert not any(line["step"] == at for line in rundir.read_jsonl(tmp_path / "stopped" / "metrics.jsonl"))
    again = looped("stopped", False)
    assert again.run().reason == "steps"
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(again).items())
    names = [
        "metrics.jsonl",
        *(f"checkpoints/step-000000{n}/{name}" for n in (2, 4) for name in ("state/loop.json", "MANIFEST.json")),
    ]
    for name in names:
        one, other = ((tmp_path / d / name) for d in ("whole", "stopped"))
        assert one.read_bytes() == other.read_bytes(), name


def test_a_stop_in_the_middle_of_a_batch_takes_it_back_and_the_end_is_the_same(llama, tmp_path):
    """Asked between the micro-batches of step 3: two steps are saved, and the run goes on to the same weights and log."""
    settings = {"steps": 4, "lr": 1e-3, "optimizer": "adamw", "micro_tokens": 30}
    whole = make_loop(llama, tmp_path / "whole", **settings)
    whole.run()
    stopped = make_loop(llama, tmp_path / "stopped", **settings)
    stopped.parts.stopping = lambda: stopped.step == 2
    assert stopped.run().reason == "interrupted" and stopped.step == 2
    assert all(p.grad is None for p in stopped.parts.scorer.parameters())
    again = make_loop(llama, tmp_path / "stopped", **settings)
    again.run()
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(again).items())
    logs = [(tmp_path / d / "metrics.jsonl").read_bytes() for d in ("whole", "stopped")]
    assert logs[0] == logs[1]
