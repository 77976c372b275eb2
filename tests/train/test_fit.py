"""Micro-batches that fit: halved when memory runs out, with the same gradient; counted before; chosen by `auto` (row T6)."""

from __future__ import annotations

import json

import pytest
import torch

from bottega.core import devices
from bottega.core.errors import DoesNotFit, UserError
from bottega.train import budget, checkpoint, fit
from bottega.train.settings import most_tokens
from bottega.train.step import lay_down, micro_loss, size_of
from tests.models.tiny import tiny_model
from tests.train.clients import VOCABULARY, make_loop, on_ranks, out_of_memory_above, rows, weights


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_model("llama", tmp_path_factory.mktemp("llama"), vocab=VOCABULARY)


def assert_same(found, wanted, tolerance=1e-6):
    for name, value in weights(wanted).items():
        assert (weights(found)[name] - value).abs().max() <= tolerance * max(1.0, float(value.abs().max())), name


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_a_batch_that_does_not_fit_is_tried_again_in_halves_with_the_same_gradient(llama, tmp_path, where, packed):
    """MemoryError above 40 tokens, in the backward pass when half of the gradients are there already."""
    whole = make_loop(llama, tmp_path, packed=packed)
    whole.one_step()
    notes: list[str] = []
    halved = make_loop(llama, tmp_path, packed=packed)
    halved.progress.note = notes.append
    out_of_memory_above(halved, 40, where)
    line = halved.one_step()
    assert_same(halved, whole)
    assert notes and "tried again with micro_tokens" in notes[0] and halved.state.fit.tokens <= 80
    assert line["tokens"] == sum(row.num_tokens for row in rows("single"))
    halved.one_step()
    assert len(notes) == (len([n for n in notes if "step 1:" in n])), (
        "what was learned is kept: step 2 is not tried too large"
    )


@pytest.mark.parametrize("objective", ["dpo", "contrastive"])
def test_pairs_and_coupled_losses_are_halved_the_same_way(llama, tmp_path, objective):
    kind = {"dpo": "branches", "contrastive": "pairs"}[objective]
    loops = []
    for limit in (10_000, 60):
        loop = make_loop(llama, tmp_path, objective=objective, kind=kind, tune="lora" if objective == "dpo" else "full")
        out_of_memory_above(loop, limit, "forward")
        loop.one_step()
        loops.append(loop)
    assert_same(loops[1], loops[0], tolerance=1e-5)
    assert loops[1].state.fit.tokens <= 120


def test_one_row_that_does_not_fit_ends_with_exit_6_and_three_settings(llama, tmp_path):
    loop = make_loop(llama, tmp_path)
    before = weights(loop)
    out_of_memory_above(loop, 5, "forward")
    with pytest.raises(DoesNotFit, match=r"max_tokens.*checkpointing: true.*method: lora") as caught:
        loop.one_step()
    assert caught.value.exit_code == 6
    assert all(torch.equal(value, before[name]) for name, value in weights(loop).items())
    assert all(p.grad is None for p in loop.parts.scorer.parameters())


def test_other_errors_are_not_taken_for_memory(llama, tmp_path):
    loop = make_loop(llama, tmp_path)
    loop.parts.wrapped.register_forward_pre_hook(lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        loop.one_step()


def test_the_heaviest_micro_batch_is_halved_before_the_first_step(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "PRELUDE_SHARE", 1.0)
    loop = make_loop(llama, tmp_path, steps=2, lr=1e-3)
    notes: list[str] = []
    loop.progress.note = notes.append
    out_of_memory_above(loop, 40, "backward")
    loop.run()
    assert any("from the start" in note for note in notes) and not any("step 1" in note for note in notes)
    state = json.loads((checkpoint.path_of(tmp_path / "checkpoints", 2) / "state" / "loop.json").read_text())
    assert state["fit"]["tokens"] == loop.state.fit.tokens <= 80
    again = make_loop(llama, tmp_path, steps=3, lr=1e-3)
    again.run()
    assert again.state.fit.tokens == loop.state.fit.tokens, "a resumed run cuts its batches as the first one did"


def test_live_bytes_are_counted_exactly():
    """4 KB live, 8 KB made and gone, then 4 + 4: the most at once is 12 KB."""
    with budget.Live() as live:
        a = torch.ones(1024)
        b = torch.ones(2048)
        del b
        c = a * 2
    assert (live.peak, live.bytes) == (12 * 1024, 8 * 1024)
    del c
    assert live.bytes == 4 * 1024


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_what_is_counted_to_fit_needs_no_more_than_the_budget(llama, tmp_path, tune):
    """The most tokens for 3 MB, laid down and counted in full: below 3 MB and, for it is a straight line, above half of it."""
    loop = make_loop(llama, tmp_path, tune=tune, optimizer="sgd")
    learn = sum(p.numel() for p in loop.parts.scorer.parameters() if p.requires_grad)
    tokens = budget.tokens_that_fit(loop.parts, rows("single"), 3e6 + 8 * learn)
    batch = rows("single", count=400)
    while size_of(loop.parts, batch) > tokens:
        batch.pop()
    layout, targets = lay_down(loop.parts, batch)
    with budget.Live() as live:
        micro_loss(loop.parts, layout, targets, {"tokens": 1.0}).backward()
    assert 1.5e6 < live.peak <= 3e6


def budgeted(llama, folder, extra_bytes: float, monkeypatch, **settings):
    """A loop that may hold `extra_bytes` more than the process does (1 GB, for the test)."""
    monkeypatch.setattr(devices, "resident_bytes", lambda: 1_000_000_000)
    loop = make_loop(llama, folder, steps=2, lr=1e-3, memory_gb=1.0 + extra_bytes / 1e9, **settings)
    loop.run()
    return loop


def test_a_budget_lowers_the_limit_before_anything_is_tried_and_changes_no_gradient(llama, tmp_path, monkeypatch):
    plain = make_loop(llama, tmp_path / "plain", steps=2, lr=1e-3)
    plain.run()
    loop = budgeted(llama, tmp_path / "small", 0.9e6, monkeypatch)
    total = sum(row.num_tokens for row in rows("single"))
    assert loop.state.fit.most == loop.state.fit.tokens < total == 114
    assert_same(loop, plain)


def test_a_row_above_the_budget_ends_with_exit_6_before_it_is_tried(llama, tmp_path, monkeypatch):
    with pytest.raises(DoesNotFit, match=r"a row of \d+ tokens, where memory is left for \d+"):
        budgeted(llama, tmp_path, 0.65e6, monkeypatch)


def test_auto_takes_the_largest_power_of_two_that_the_budget_allows(llama, tmp_path, monkeypatch):
    loop = budgeted(llama, tmp_path / "a", 0.9e6, monkeypatch, micro_tokens="auto")
    most = loop.state.fit.most
    assert loop.state.fit.tokens == max(2**k for k in range(12) if 2**k <= most) < 114
    whole = make_loop(llama, tmp_path / "b", steps=1, micro_tokens="auto")
    whole.run()
    assert whole.state.fit.tokens == 128, "114 tokens are all there is: the next power of two takes them at once"


def test_auto_by_trial_stops_at_what_went_through(llama, tmp_path):
    """What a GPU does, with memory that runs out above 300 tokens: 64, 128 and 256 go through, 512 does not."""
    loop = make_loop(llama, tmp_path)
    out_of_memory_above(loop, 300, "backward")
    before = torch.get_rng_state()
    assert fit.by_trial(loop.parts, rows("single"), most=10_000) == 256
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in loop.parts.scorer.parameters())


def test_two_ranks_agree_on_smaller_micro_batches_when_one_runs_out(llama, tmp_path):
    """Rank 1 alone has memory for 30 tokens; both take the smaller limit, and the gradient is that of one process."""
    alone = make_loop(llama, tmp_path / "alone")
    alone.one_step()
    settings = json.dumps({"micro_tokens": 10_000})
    found = on_ranks(2, llama, tmp_path, "sft", "full", "single", "ddp", "1", settings, "--memory", "30")
    for name, value in weights(alone).items():
        assert (found[name] - value).abs().max() <= 1e-5 * max(1.0, float(value.abs().max())), name
    kept = [json.loads((tmp_path / f"fit-{rank}.json").read_text())["tokens"] for rank in (0, 1)]
    assert kept[0] == kept[1] <= 60


def test_memory_limits_of_the_process_are_seen():
    free = devices.free_memory_bytes()
    assert 0 < free <= devices.host_memory()["available_bytes"] + 2e9


def test_a_word_in_the_place_of_micro_tokens_must_be_auto(tmp_path):
    from bottega.workshop import recipe

    (tmp_path / "d.txt").write_text("text")

    def load(value):
        stage = {"objective": "pretrain", "data": str(tmp_path / "d.txt"), "micro_tokens": value}
        return recipe.load({"schema": 1, "name": "x", "model": "garzone", "stages": [{"a": stage}]})

    assert load("auto").stages[0].loop["micro_tokens"] == "auto"
    for wrong in ("most", 0, -5, 1.5):
        with pytest.raises(UserError, match="micro_tokens"):
            load(wrong)


def test_the_usual_micro_batch_is_small_on_a_cpu_and_large_on_a_gpu_and_a_number_is_taken_as_it_is(llama, tmp_path):
    assert (most_tokens("usual", "cpu"), most_tokens("usual", "cuda")) == (1024, 8192)
    assert (most_tokens(77, "cpu"), most_tokens(77, "cuda")) == (77, 77)
    loop = make_loop(llama, tmp_path, steps=1)
    loop.run()
    assert loop.settings.micro_tokens == "usual" and loop.state.fit.tokens == 1024
