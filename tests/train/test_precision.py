"""bf16, bf16 weights and fp16 against fp32, checkpointing in part, activations elsewhere, and when to compile (row T3)."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from bottega.core.errors import Diverged, UserError
from bottega.models.load import load
from bottega.train import checkpoint, compiled, offload
from bottega.train.precision import GROW_AFTER, LossScale
from tests.models.tiny import tiny_model
from tests.train.clients import VOCABULARY, make_loop, weights


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_model("llama", tmp_path_factory.mktemp("llama"), vocab=VOCABULARY, num_hidden_layers=4)


def gradient(loop) -> tuple[float, torch.Tensor]:
    """The loss of a step of plain gradient descent at learning rate 1, and the gradient: what the weights lost."""
    before = weights(loop)
    line = loop.one_step()
    after = weights(loop)
    return line["loss"], torch.cat([(before[name] - after[name]).flatten().float() for name in before])


@pytest.mark.parametrize("tune", ["full", "lora"])
@pytest.mark.parametrize(("precision", "loss_off", "off"), [("bf16", 4e-3, 4e-2), ("fp16", 5e-4, 5e-3)])
def test_16_bit_products_give_the_loss_and_gradient_of_fp32(llama, tmp_path, tune, precision, loss_off, off):
    """Within what 8 (bf16) or 11 (fp16) bits of mantissa lose: the loss by `loss_off`, the gradient's direction and length by `off`."""
    torch.manual_seed(0)
    loss, exact = gradient(make_loop(llama, tmp_path, tune=tune))
    torch.manual_seed(0)
    loop = make_loop(llama, tmp_path, tune=tune, precision=precision, loss_scale=1024.0)
    found, rough = gradient(loop)
    assert found == pytest.approx(loss, rel=loss_off)
    assert float((rough - exact).norm() / exact.norm()) < off
    learning = [p for p in loop.parts.scorer.parameters() if p.requires_grad]
    assert {p.dtype for p in learning} == {torch.float32}


def test_bf16_weights_follow_fp32_copies_and_lose_no_small_step(llama, tmp_path, monkeypatch):
    """At lr 1e-5 one step is far below the last bit of most weights (2^-9 of 0.15 is 3e-4): without the copies nothing would move.
    The self-check of the first steps looks at the copies."""
    monkeypatch.setattr("tests.train.clients.load", lambda path, **asked: load(path, dtype="bfloat16", **asked))
    options = {"steps": 40, "lr": 1e-5, "optimizer": "adamw", "beta1": 0.9, "clip": 1.0, "self_check": 5}
    loop = make_loop(llama, tmp_path / "low", precision="bf16-true", **options)
    start = weights(loop)
    assert {p.dtype for p in loop.parts.scorer.parameters()} == {torch.bfloat16}
    loop.run()
    state = loop.parts.optimizer.state
    for name, p in loop.parts.scorer.named_parameters():
        moved = (state[p]["master"] - start[name].float()).abs()
        assert 0 < float(moved.max()) <= 40 * 1e-5 * 1.5
        assert torch.equal(p, state[p]["master"].bfloat16()), name
    held = checkpoint.path_of(tmp_path / "low" / "checkpoints", 40)
    assert (held / "model" / "model.safetensors").stat().st_size < 2.2 * sum(p.numel() for p in state)


def test_weights_that_are_not_bf16_are_named(llama, tmp_path):
    with pytest.raises(UserError, match="bf16-true trains a model loaded in bfloat16, and this one is torch.float32"):
        make_loop(llama, tmp_path, precision="bf16-true")


def test_fp16_skips_what_overflows_counts_it_and_finds_its_scale(llama, tmp_path):
    """From 2^40 the scale halves at each overflow, the weights stay; the first step that is taken is that of fp32."""
    loop = make_loop(llama, tmp_path, steps=60, precision="fp16", loss_scale=2.0**40, lr=1e-3, save_every=1, keep=100)
    before = weights(loop)
    first = loop.one_step()
    assert all(torch.equal(value, before[name]) for name, value in weights(loop).items())
    assert first["overflows"] == 1 and first["loss_scale"] == 2.0**39 and "gradient_norm" not in first
    assert math.isfinite(first["loss"])
    loop.run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    count = lines[-1]["overflows"]
    assert 10 < count < 40 and lines[-1]["loss_scale"] == 2.0 ** (40 - count)
    assert lines[-1]["loss"] < lines[0]["loss"]
    held = checkpoint.path_of(tmp_path / "checkpoints", 60) / "state" / "loop.json"
    assert json.loads(held.read_text())["loss_scale"] == {
        "value": 2.0 ** (40 - count), "good": 61 - count, "skipped": count
    }  # fmt: skip


def test_the_scale_grows_after_good_steps_and_gives_up_where_only_the_model_can_be_the_reason():
    scale = LossScale(value=4.0)
    assert all(scale.judge(1.0, step) for step in range(GROW_AFTER)) and scale.value == 8.0
    assert not scale.judge(math.inf, 1) and scale.value == 4.0 and scale.skipped == 1
    scale.value = 2.0**-10
    with pytest.raises(Diverged, match="step 7: fp16 overflows even with the loss scaled by 0.000488281"):
        scale.judge(math.nan, 7)


def test_a_schedule_free_checkpoint_holds_the_average_for_others_and_the_weights_for_itself(llama, tmp_path):
    options = {"optimizer": "schedule_free", "beta1": 0.9, "lr": 1e-2, "steps": 6, "eval_every": 3}
    loop = make_loop(llama, tmp_path, **options)
    seen = []
    name, parameter = next(iter(loop.parts.scorer.named_parameters()))
    loop.parts.validate = lambda step: seen.append(parameter.detach().clone()) or {"loss": 1.0}
    loop.run()
    held = checkpoint.path_of(tmp_path / "checkpoints", 6)
    model, own = (load_file(held / part) for part in ("model/model.safetensors", "state/weights.safetensors"))
    state = loop.parts.optimizer.state[parameter]
    average = (parameter.detach() - 0.1 * state["z"]) / 0.9
    assert torch.equal(own[name], parameter) and not torch.equal(own[name], model[name.removeprefix("model.")])
    torch.testing.assert_close(model[name.removeprefix("model.")], average)
    assert torch.equal(seen[-1], model[name.removeprefix("model.")])


class Counting(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"
PARTLY = [
    {"checkpointing": True},
    {"checkpointing": True, "recompute_every": 2},
    {"checkpointing": True, "recompute_keep": "attention"},
    {"checkpointing": True, "recompute_keep": "products"},
    {"saved_activations": "file"},
    {"saved_activations": "file", "checkpointing": True},
]


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_what_is_computed_again_or_kept_elsewhere_changes_no_bit_of_the_gradient(llama, tmp_path, tune):
    """And the counts of operations say what was done: 4 layers, of which all, two or none compute again."""
    counts, results = [], []
    for options in [{}, *PARTLY]:
        torch.manual_seed(0)
        loop = make_loop(llama, tmp_path, tune=tune, lr=0.5, **options)
        loop.parts.wrapped.train()  # in evaluation mode nothing is checkpointed
        with Counting() as mode:
            loop.one_step()
        counts.append(mode.counts)
        results.append(weights(loop))
    for options, found in zip(PARTLY, results[1:], strict=True):
        assert all(torch.equal(found[name], value) for name, value in results[0].items()), options
    calls = [c[ATTENTION] for c in counts]
    once = calls[0]
    assert calls == [once, 2 * once, once * 3 // 2, once, once, once, 2 * once]
    products = [c["mm"] for c in counts]
    whole, half, attention, kept, inside = (products[i] - products[0] for i in (1, 2, 3, 4, 5))
    assert inside == 0 and kept < half < whole <= products[6] - products[0]
    assert kept < whole / 4 and attention == whole and abs(half - whole / 2) <= 4


def test_a_layer_policy_without_checkpointing_is_refused(llama, tmp_path):
    with pytest.raises(UserError, match="recompute_every says what checkpointing computes again, and it is off"):
        make_loop(llama, tmp_path, recompute_every=2)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"step_in_backward": True, "clip": 1.0}, "clip 1 does not go with step_in_backward"),
        ({"step_in_backward": True, "precision": "fp16"}, "fp16 does not go with step_in_backward"),
        ({"step_in_backward": True}, "spikes skip does not go with step_in_backward"),
        ({"step_in_backward": True, "spikes": "off", "on_nonfinite": "rollback"}, "on_nonfinite rollback does not go"),
        ({"optimizer": "schedule_free", "schedule": "cosine", "beta1": 0.9}, "takes no schedule"),
        ({"optimizer": "schedule_free", "beta1": 0.0}, "must be above 0"),
        ({"optimizer": "schedule_free", "beta1": 0.9, "tune": "lisa"}, "those of lisa take turns"),
        ({"optimizer_states": "host"}, "the model lies in host memory already: write file or device"),
        ({"saved_activations": "host"}, "the model lies in host memory already: write file or device"),
        ({"precision": "fp8"}, "precision 'fp8' is not known: use one of usual, fp32, bf16, bf16-true, fp16"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(llama, tmp_path, settings, reason):
    with pytest.raises(UserError, match=reason):
        make_loop(llama, tmp_path, **settings)


def test_a_step_in_the_backward_pass_trains_as_the_ordinary_one_does(llama, tmp_path):
    """The whole loop, self-check included; micro-batches of one row add up exactly before the last one steps."""
    results = []
    for inside in (False, True):
        torch.manual_seed(0)
        loop = make_loop(llama, tmp_path / str(inside), optimizer="adamw", beta1=0.9, lr=1e-3, steps=4, self_check=2,
                         micro_tokens=40, spikes="off", step_in_backward=inside)  # fmt: skip
        loop.run()
        lines = [json.loads(line) for line in (tmp_path / str(inside) / "metrics.jsonl").open()]
        results.append((weights(loop), lines))
    (plain, lines), (found, others) = results
    assert all(torch.equal(found[name], value) for name, value in plain.items())
    for a, b in zip(lines, others, strict=True):
        assert b.pop("gradient_norm") == pytest.approx(a.pop("gradient_norm"), rel=1e-5)
        assert a == b


def test_what_steps_in_the_backward_pass_and_is_not_finite_says_that_weights_have_moved(llama, tmp_path):
    loop = make_loop(llama, tmp_path, steps=2, spikes="off", step_in_backward=True)
    with torch.no_grad():
        next(loop.parts.scorer.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="step 1: the gradient of a tensor of shape .* is not finite, and step_in_back"):
        loop.one_step()


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({}, "on, a long run over rows of one length"),
        ({"wanted": False}, "off, as the recipe says"),
        ({"wanted": True, "grid": False}, "on, as the recipe says; it serves only batches of one length"),
        ({"grid": False}, "off, rows differ in length"),
        ({"precision": "fp32"}, "off, compiled fp32 is not faster on a CPU"),
        ({"flops": 1e12}, "off, the run is too short"),
        ({"device": "cuda", "precision": "fp32", "flops": 1e13}, "off, the run is too short"),
    ],
)
def test_compiling_is_decided_by_a_rule_that_says_why(changed, word, monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: name)
    case = {"wanted": "auto", "device": "cpu", "precision": "bf16", "grid": True, "flops": 1e14} | changed
    decision, why = compiled.decide(case.pop("wanted"), **case)
    assert why.startswith(f"compile: {word}") and decision == word.startswith("on")


def test_without_a_compiler_nothing_is_compiled_and_the_run_says_so(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    why = compiled.decide("auto", device="cpu", precision="bf16", grid=True, flops=1e14)
    assert why == (False, "compile: off, there is no C++ compiler")
    loop = make_loop(llama, tmp_path, steps=1)
    notes: list[str] = []
    loop.progress.note = notes.append  # type: ignore[method-assign]
    loop.run()
    assert "compile: off, rows differ in length, and every new shape would be compiled anew" in notes


def test_scratch_is_used_again_once_what_lay_in_it_is_gone(tmp_path):
    """Two tensors of 6 MB fit in a piece of 16 MiB, a third needs another; when all are gone, the same two pieces serve again."""
    scratch = offload.Scratch(tmp_path)
    for _ in range(3):
        held = [scratch.take(torch.Size((1500, 1000)), torch.float32).fill_(i) for i in range(3)]
        assert [float(t.sum()) for t in held] == [0.0, 1.5e6, 3e6]
        assert [segment.live for segment in scratch.segments] == [2, 1]
        del held
        assert [segment.used for segment in scratch.segments] == [0, 0]
    assert scratch.take(torch.Size((3, 2)), torch.bfloat16).shape == (3, 2)
    assert not list(tmp_path.iterdir())
