"""Each family through its whole life: trained, stopped, resumed to the same bits, merged, reloaded, generating.

Left out: what is learnt (tests of the demo); the models are tiny and random, and only have to get better at eight rows.
"""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from bottega.core.errors import UserError
from bottega.core.types import Attached
from bottega.models import merge as merging
from bottega.models.generate import Generator
from bottega.models.load import load
from bottega.models.methods import method
from bottega.train.scoring import validation, with_reference
from tests.models.conftest import saved  # noqa: F401
from tests.models.test_lora import logits, stir
from tests.train.clients import make_loop, rows, weights

SHAPES = ("llama", "qwen3", "mistral", "granite", "gpt2", "gpt_neox")
LIVES = (
    ("pretrain", "full", {}),
    ("sft", "lora", {"rank": 4}),
    ("dpo", "full", {}),
    ("dpo", "lora", {"rank": 4}),
)
OTHERS = (
    *("bloom", "gptj", "mpt", "falcon", "stablelm"),  # length-bucketed
    *("qwen2", "opt", "gemma2", "gemma3_text", "mixtral", "qwen2_moe", "phi", "phi3", "olmo2", "cohere"),
)
STEPS = 6


def build(model, folder, objective, tune, options):
    loop = make_loop(
        model,
        folder,
        objective=objective,
        tune=tune,
        method_options=options,
        kind="branches" if objective == "dpo" else "single",
        steps=STEPS,
        save_every=2,
        keep=3,
        lr=1e-2,
        optimizer="adamw",
        beta1=0.9,
        micro_tokens=40,
    )
    if objective == "dpo":
        loop.parts.source.rows = with_reference(
            loop.parts, rows("branches"), micro_tokens=4096, cache=None, key="", note=lambda line: None
        )
    return loop


def live(model, folder, objective, tune, options):
    """Train to the end, and better; then again from the checkpoint in the middle, in a folder of its own. Both loops."""
    whole = build(model, folder / "whole", objective, tune, options)
    before = without_dropout(whole)
    whole.run()
    assert without_dropout(whole) < before
    shutil.copytree(folder / "whole", folder / "resumed")
    for step in range(3, STEPS + 1):
        shutil.rmtree(folder / "resumed" / "checkpoints" / f"step-{step:07d}", ignore_errors=True)
    assert (folder / "resumed" / "checkpoints" / "step-0000002").is_dir()
    torch.manual_seed(12345)  # nothing of it may be seen
    resumed = build(model, folder / "resumed", objective, tune, options)
    resumed.run()
    return whole, resumed


def without_dropout(loop):
    """The loss over the rows that are trained on."""
    loop.parts.attached.model.eval()
    with torch.no_grad():
        loss = validation(loop.parts, loop.parts.source.rows, micro_tokens=40)(0)["loss"]
    loop.parts.attached.model.train()
    return loss


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("objective", "tune", "options"), LIVES)
@pytest.mark.parametrize("family", SHAPES)
def test_a_family_trains_resumes_merges_reloads_and_generates(saved, tmp_path, family, objective, tune, options):  # noqa: F811
    walk(saved(family), tmp_path, objective, tune, options)


def walk(folder, place, objective, tune, options):
    """Train, stop and resume to the same bits, merge where it can, reload from the checkpoint, generate."""
    whole, resumed = live(folder, place, objective, tune, options)
    history = losses(place / "whole")
    assert len(history) == STEPS
    assert losses(place / "resumed") == history
    mine, theirs = weights(whole), weights(resumed)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)

    attached, tokenizer = resumed.parts.attached, load(folder).tokenizer
    trained = replies(attached, tokenizer)
    if attached.merge is None:
        with pytest.raises(UserError, match="cannot be merged"):
            merging.merge(attached)
    else:
        merged, _ = merging.merge(attached)
        merging.save_model(merged, tokenizer, place / "merged")
        plain = AutoModelForCausalLM.from_pretrained(place / "merged", dtype=torch.float32, local_files_only=True)
        wanted = logits(attached.model)
        assert torch.allclose(logits(plain), wanted, atol=1e-5 * max(1.0, float(wanted.abs().max())))
    kept = place / "whole" / "checkpoints" / f"step-{STEPS:07d}"
    tokenizer.save_pretrained(kept / "model")  # the workshop's saver does this
    newest = load(kept)
    found = newest.attached or Attached(name="plain", model=newest.model, groups=[], save=str, merge=None)
    for ours, theirs in zip(trained, replies(found, tokenizer), strict=True):
        assert ours.ids == theirs.ids and ours.logps == pytest.approx(theirs.logps, abs=1e-4)


def replies(attached, tokenizer):
    """Two greedy replies with their log-probabilities."""
    generator = Generator(attached.model.eval(), tokenizer, inputs=attached.inputs)
    return generator.sample([[1, 44, 70], [1, 80]], max_tokens=4, logps=True)


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "tune", "options"), (LIVES[0], LIVES[-1]))
@pytest.mark.parametrize("family", OTHERS)
def test_the_other_families_live_too(saved, tmp_path, family, objective, tune, options):  # noqa: F811
    walk(saved(family), tmp_path, objective, tune, options)


METHODS = {
    "freeze": {"last": 1},
    "bitfit": {"norms": True},
    "ia3": {},
    "oft": {"block": 8},
    "vera": {"rank": 8},
    "adapter": {"width": 8, "kind": "houlsby"},
}
CANNOT = {("gpt2", "oft")}
"""PEFT rotates no transposed layers."""


@pytest.mark.parametrize("tune", METHODS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_method_trains_resumes_merges_reloads_and_generates(saved, tmp_path, family, tune):  # noqa: F811
    if (family, tune) in CANNOT:
        with pytest.raises(UserError, match="is a Conv1D"):
            build(saved(family), tmp_path, "sft", tune, METHODS[tune])
        return
    walk(saved(family), tmp_path, "sft", tune, METHODS[tune])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_gate_over_adapters_trains_resumes_reloads_and_generates(saved, tmp_path, family):  # noqa: F811
    places = [str(tmp_path / name) for name in ("a", "b")]
    for place in places:
        stir(method("lora", rank=4).attach(load(saved(family)).model)).save(place)
    walk(saved(family), tmp_path, "sft", "gate", {"adapters": places})


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sft", "dpo"])
@pytest.mark.parametrize("tune", METHODS)
@pytest.mark.parametrize(
    "family", ["qwen3", "mistral", "granite", "gpt_neox", "opt", "gemma3_text", "bloom", "mixtral"]
)
def test_methods_live_on_other_families_too(saved, tmp_path, family, tune, objective):  # noqa: F811
    walk(saved(family), tmp_path, objective, tune, METHODS[tune])


@pytest.mark.parametrize(("tune", "options"), [("lisa", {"active": 1, "every": 2}), ("prefix", {"length": 4})])
def test_lisa_and_prefix_tuning_resume_to_the_same_bits(saved, tmp_path, tune, options):  # noqa: F811
    whole, resumed = live(saved("llama", num_hidden_layers=4), tmp_path, "sft", tune, options)
    assert losses(tmp_path / "resumed") == losses(tmp_path / "whole")
    mine, theirs = weights(whole), weights(resumed)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
