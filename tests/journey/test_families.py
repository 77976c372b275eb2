"""Each family through its whole life: trained, stopped, resumed to the same bits, merged, reloaded, generating.

Left out: what is learnt (tests of the demo); the models are tiny and random, and only have to get better at eight rows.
"""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from bottega.models import merge as merging
from bottega.models.generate import Generator
from bottega.models.load import load
from bottega.train.scoring import with_reference
from tests.models.conftest import saved  # noqa: F401
from tests.models.test_lora import logits
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
    """Train to the end; then once more from the checkpoint in the middle, in a folder of its own. Both loops."""
    whole = build(model, folder / "whole", objective, tune, options)
    whole.run()
    shutil.copytree(folder / "whole", folder / "resumed")
    for step in range(3, STEPS + 1):
        shutil.rmtree(folder / "resumed" / "checkpoints" / f"step-{step:07d}", ignore_errors=True)
    assert (folder / "resumed" / "checkpoints" / "step-0000002").is_dir()
    torch.manual_seed(12345)  # nothing of it may be seen
    resumed = build(model, folder / "resumed", objective, tune, options)
    resumed.run()
    return whole, resumed


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("objective", "tune", "options"), LIVES)
@pytest.mark.parametrize("family", SHAPES)
def test_a_family_trains_resumes_merges_reloads_and_generates(saved, tmp_path, family, objective, tune, options):  # noqa: F811
    folder = saved(family)
    whole, resumed = live(folder, tmp_path, objective, tune, options)
    history = losses(tmp_path / "whole")
    assert len(history) == STEPS and history[-1] < history[0]
    assert losses(tmp_path / "resumed") == history
    mine, theirs = weights(whole), weights(resumed)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)

    attached, tokenizer = resumed.parts.attached, load(folder).tokenizer
    trained = logits(attached.model)
    merged, _ = merging.merge(attached)
    merging.save_model(merged, tokenizer, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32, local_files_only=True)
    scale = max(1.0, float(trained.abs().max()))
    assert torch.allclose(logits(plain), trained, atol=1e-5 * scale)
    kept = tmp_path / "whole" / "checkpoints" / f"step-{STEPS:07d}"
    tokenizer.save_pretrained(kept / "model")  # the workshop's saver does this
    newest = load(kept)
    assert torch.allclose(logits(newest.model), trained, atol=1e-5 * scale)
    replies = Generator(newest.model, tokenizer).sample([[1, 44, 70], [1, 80]], max_tokens=4)
    assert [len(reply.ids) <= 4 for reply in replies] == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "tune", "options"), (LIVES[0], LIVES[-1]))
@pytest.mark.parametrize("family", OTHERS)
def test_the_other_families_live_too(saved, tmp_path, family, objective, tune, options):  # noqa: F811
    test_a_family_trains_resumes_merges_reloads_and_generates(saved, tmp_path, family, objective, tune, options)


@pytest.mark.parametrize(("tune", "options"), [("lisa", {"active": 1, "every": 2}), ("prefix", {"length": 4})])
def test_lisa_and_prefix_tuning_resume_to_the_same_bits(saved, tmp_path, tune, options):  # noqa: F811
    whole, resumed = live(saved("llama", num_hidden_layers=4), tmp_path, "sft", tune, options)
    assert losses(tmp_path / "resumed") == losses(tmp_path / "whole")
    mine, theirs = weights(whole), weights(resumed)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
