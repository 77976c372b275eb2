"""Batches that are not learned from: not finite, or a spike; skipped, counted, rolled back, and the same after a resume (row T7)."""

from __future__ import annotations

import doctest
import json
import shutil
from dataclasses import replace

import pytest
import torch

from bottega.core.errors import Diverged, UserError
from bottega.train import checkpoint, watch
from bottega.train.settings import LoopSettings
from bottega.train.watch import Watch
from tests.models.tiny import tiny_model
from tests.train.clients import VOCABULARY, make_loop, on_ranks, poison, rows, weights


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_model("llama", tmp_path_factory.mktemp("llama"), vocab=VOCABULARY)


def small(llama, folder, batch=2, **settings):
    """Eight rows in batches of two, in order: four steps an epoch, AdamW."""
    defaults = {"steps": 6, "lr": 1e-3, "optimizer": "adamw", "beta1": 0.9, "clip": 1.0}
    loop = make_loop(llama, folder, **defaults | settings)
    loop.parts.source.batch = batch
    return loop


def lines(folder, name="metrics.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_the_worked_examples_hold():
    assert doctest.testmod(watch).failed == 0


def test_the_limit_is_mean_plus_six_sigma_of_the_last_128_losses():
    """127 losses say nothing; 64 of 1 and 64 of 3: mean 2, sigma 1, limit 8; a 129th pushes the first out."""
    seen, settings = Watch(), LoopSettings(steps=1)
    for number in range(127):
        seen.take(1.0 if number % 2 == 0 else 3.0)
    assert seen.judge(1e9, 1.0, settings) is None
    seen.take(3.0)
    assert seen.limit == 8.0
    assert seen.judge(8.1, 1.0, settings) == "spike" and seen.judge(8.0, 1.0, settings) is None
    for policy in ("warn", "off"):
        assert seen.judge(8.1, 1.0, LoopSettings(steps=1, spikes=policy)) is None
    assert seen.take(8.1) and len(seen.losses) == 128 and seen.losses[0] == 3.0
    assert seen.judge(float("nan"), 1.0, settings) == seen.judge(1.0, float("inf"), settings) == "non-finite"


def test_a_skipped_batch_leaves_weights_and_optimizer_and_is_written_down(llama, tmp_path):
    """Row 3 lies in the second batch: step 2 is skipped, all others are taken."""
    loop = small(llama, tmp_path, on_nonfinite="skip", steps=4)
    poison(loop, 3)
    notes: list[str] = []
    loop.progress.note = notes.append
    loop.one_step()
    before = weights(loop), {k: v.clone() for k, v in optimizer_state(loop).items()}
    line = loop.one_step()
    assert all(torch.equal(v, before[0][n]) for n, v in weights(loop).items())
    assert all(torch.equal(v, before[1][n]) for n, v in optimizer_state(loop).items())
    assert all(p.grad is None for p in loop.parts.scorer.parameters())
    assert line["step"] == 2 and line["skipped"] == 1 and "loss" not in line and "gradient_norm" not in line
    (entry,) = lines(tmp_path, "skipped.jsonl")
    assert entry["rows"] == [3] and entry["why"] == "non-finite" and entry["batch"] == entry["step"] == 2
    assert any("step 2: loss nan" in note and "rows 3: left out (1 so far)" in note for note in notes)
    line = loop.one_step()
    assert line["step"] == 3 and line["loss"] > 0 and line["skipped"] == 1
    assert any(not torch.equal(v, before[0][n]) for n, v in weights(loop).items())


def optimizer_state(loop):
    named = {id(p): n for n, p in loop.parts.scorer.named_parameters()}
    state = loop.parts.optimizer.state
    return {f"{named[id(p)]}|{k}": v for p, entry in state.items() for k, v in entry.items()}


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_the_layer_where_it_began_is_named_with_the_rows(llama, tmp_path, packed):
    """One weight of layer 1 is infinite: every row sees it, and the first module to give it on is that one."""
    loop = small(llama, tmp_path, packed=packed)
    weight = dict(loop.parts.scorer.named_parameters())["model.model.layers.1.mlp.down_proj.weight"]
    with torch.no_grad():
        weight[0, 0] = float("inf")
    with pytest.raises(Diverged, match=r"step 1: .*first seen in model\.model\.layers\.1\.mlp\.down_proj, rows 0, 1:"):
        loop.one_step()


def test_a_gradient_alone_that_is_not_finite_names_the_parameter_nearest_to_the_loss(llama, tmp_path):
    """The square root's slope at zero is infinite while its value is finite: only the backward pass shows it."""
    loop = small(llama, tmp_path)
    objective = loop.parts.spec.objective

    def steep(scores, targets, **options):
        terms, sums = objective(scores, targets, **options)
        total = terms["nll"].total
        return {"nll": terms["nll"]._replace(total=total + (total - total.detach()).sqrt())}, sums

    loop.parts.spec = replace(loop.parts.spec, objective=steep)
    with pytest.raises(
        Diverged, match=r"loss \d.*gradient norm (nan|inf), first seen in model\.lm_head\.weight, rows 0, 1:"
    ):
        loop.one_step()


def test_rolling_back_takes_the_last_good_checkpoint_and_passes_over_the_batch(llama, tmp_path):
    """Saved after steps 2 and 4; batch 6 (rows 2, 3 of the second epoch, poisoned then) fails: the weights of step 4 meet batch 7."""
    loop = small(llama, tmp_path / "back", on_nonfinite="rollback", save_every=2, steps=6, spikes="off")
    plain_step = loop.parts.source.next
    taken: list[list[int]] = []

    def next_batch():
        if len(taken) == 5:
            poison(loop, 3)
        batch, state = plain_step()
        taken.append([row.index for row in batch])
        return batch, state

    loop.parts.source.next = next_batch
    loop.run()
    assert taken == [[0, 1], [2, 3], [4, 5], [6, 7], [0, 1], [2, 3], [4, 5], [6, 7]]
    logged = lines(tmp_path / "back")
    assert [line["step"] for line in logged] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines(tmp_path / "back", "timing.jsonl")] == [1, 2, 3, 4, 5, 6]
    (entry,) = lines(tmp_path / "back", "skipped.jsonl")
    assert (entry["step"], entry["batch"], entry["rows"]) == (6, 6, [3])
    straight = small(llama, tmp_path / "straight", steps=6, spikes="off")
    batches = [straight.parts.source.next()[0] for _ in range(8)]
    order = iter([*batches[:4], *batches[6:]])  # what a run that never met batches 5 and 6 would have learned
    straight.parts.source.next = lambda: (next(order), {"epoch": 0, "at": 0})
    for _ in range(6):
        straight.one_step()
    assert all(torch.equal(v, weights(straight)[n]) for n, v in weights(loop).items())


def test_a_failure_before_the_first_checkpoint_goes_back_to_the_start(llama, tmp_path):
    loop = small(llama, tmp_path, on_nonfinite="rollback", steps=3, keep=1)
    poison(loop, 1)
    start = weights(loop)
    loop.run()
    assert loop.step == 3 and [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    assert any(not torch.equal(v, start[n]) for n, v in weights(loop).items())


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_too_many_batches_left_out_end_the_run_with_exit_5(llama, tmp_path, policy):
    loop = small(llama, tmp_path, on_nonfinite=policy, steps=50, max_skips=3)
    for index in range(8):
        poison(loop, index)
    with pytest.raises(Diverged, match=r"4 of the last 4 batches could not be learned from \(max_skips 3\)") as caught:
        loop.run()
    assert caught.value.exit_code == 5


def spiky(llama, folder, monkeypatch, **settings):
    """Windows of four losses; row 5's loss (batch 3, 7, 11) is a hundred times itself."""
    monkeypatch.setattr(watch, "WINDOW", 4)
    loop = small(llama, folder, steps=12, save_every=3, on_nonfinite="skip", **settings)
    marker = rows("single")[5].branches[0].ids[-1]
    objective = loop.parts.spec.objective

    def jumpy(scores, targets, **options):
        terms, sums = objective(scores, targets, **options)
        factor = 100.0 if bool((targets.labels_S == marker).any()) and loop.step >= 4 else 1.0
        return {"nll": terms["nll"]._replace(total=terms["nll"].total * factor)}, {
            n: v * factor for n, v in sums.items()
        }

    loop.parts.spec = replace(loop.parts.spec, objective=jumpy)
    return loop


def test_spikes_are_skipped_and_counted_and_a_resumed_run_skips_the_same(llama, tmp_path, monkeypatch):
    whole = spiky(llama, tmp_path / "whole", monkeypatch)
    whole.run()
    entries = lines(tmp_path / "whole", "skipped.jsonl")
    assert [(e["step"], e["why"], e["rows"]) for e in entries] == [(7, "spike", [4, 5]), (11, "spike", [4, 5])]
    assert all(e["loss"] > e["limit"] for e in entries)
    logged = lines(tmp_path / "whole")
    assert logged[6]["loss"] > 100 and [line.get("skipped", 0) for line in logged] == [0] * 6 + [1] * 4 + [2] * 2
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    for step in (9, 12):
        shutil.rmtree(checkpoint.path_of(tmp_path / "again" / "checkpoints", step), ignore_errors=True)
    shutil.copytree(
        saved_at(llama, tmp_path / "short", monkeypatch), checkpoint.path_of(tmp_path / "again" / "checkpoints", 6)
    )
    again = spiky(llama, tmp_path / "again", monkeypatch)
    again.run()
    for name in ("metrics.jsonl", "skipped.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert all(torch.equal(v, weights(whole)[n]) for n, v in weights(again).items())
    state = json.loads((checkpoint.path_of(tmp_path / "again" / "checkpoints", 12) / "state" / "loop.json").read_text())
    assert state["watch"]["taken"] == 12 and len(state["watch"]["losses"]) == 4


def saved_at(llama, folder, monkeypatch):
    """The checkpoint of step 6 of a run that stopped there, before the first spike."""
    loop = spiky(llama, folder, monkeypatch, keep=9)
    loop.run()
    return checkpoint.path_of(folder / "checkpoints", 6)


def test_a_spike_that_is_only_noted_is_learned_from(llama, tmp_path, monkeypatch):
    loop = spiky(llama, tmp_path, monkeypatch, spikes="warn")
    notes: list[str] = []
    loop.progress.note = notes.append
    loop.run()
    assert [note for note in notes if "is a spike; it was learned from" in note]
    assert not (tmp_path / "skipped.jsonl").exists()


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_ranks_agree_to_skip_and_name_the_row_of_the_other(llama, tmp_path, strategy):
    """Row 3 is rank 1's. The one batch is skipped on both, so that the weights are those at the start; then both stop."""
    start = weights(make_loop(llama, tmp_path / "start"))
    settings = json.dumps({"on_nonfinite": "skip", "max_skips": 1, "steps": 2})
    found = on_ranks(2, llama, tmp_path, "sft", "full", "single", strategy, "2", settings, "3")
    assert all(torch.equal(value, start[name]) for name, value in found.items())
    assert [entry["rows"] for entry in lines(tmp_path, "skipped.jsonl")] == [[3]]
    said = [(tmp_path / f"error-{rank}.txt").read_text() for rank in (0, 1)]
    assert said[0] == said[1] and "2 of the last 2 batches" in said[0]


@pytest.mark.parametrize("name", ["lr", "weight_decay", "clip"])
def test_settings_that_are_not_numbers_are_refused(name):
    with pytest.raises(UserError, match=f"{name} is nan, but needs a finite number"):
        LoopSettings(**{"steps": 1, name: float("nan")})
