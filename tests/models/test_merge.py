"""Merging and references: equal to what was trained, and refused where it cannot be."""

import dataclasses

import pytest
import torch

from bottega.core.errors import CheckFailed, UserError
from bottega.models import merge as merging
from bottega.models.load import load, load_weights
from bottega.models.methods import attach_saved, method
from bottega.models.reference import frozen_copy
from tests.models.test_lora import IDS, logits, stir


@pytest.mark.parametrize(
    "family", ["llama", "qwen3", "mistral", "granite", "gpt2", "gpt_neox", "bloom", "gptj", "mixtral"]
)
def test_the_merged_model_equals_the_adapter_and_the_adapter_stays(saved, family):
    attached = stir(method("lora", rank=4).attach(load_weights(saved(family))))
    wanted = logits(attached.model)
    merged, facts = merging.merge(attached)
    assert facts["merge_difference"] <= 1e-5
    assert torch.allclose(logits(merged), wanted, atol=1e-5 * max(1.0, float(wanted.abs().max())))
    assert torch.equal(logits(attached.model), wanted)
    assert not any("lora" in name for name, _ in merged.named_parameters())


@pytest.mark.parametrize(
    "options", [{"rslora": True}, {"dora": True}, {"init": "pissa"}, {"init": "olora"}, {"alpha": 3.0}]
)
def test_every_kind_of_lora_merges(saved, options):
    attached = stir(method("lora", rank=4, **options).attach(load_weights(saved("llama"))), 0.01)
    assert merging.merge(attached)[1]["merge_difference"] <= 1e-5


def test_a_half_precision_base_is_merged_in_float32_and_its_cast_is_measured(saved):
    attached = stir(method("lora", rank=4).attach(load_weights(saved("llama"), dtype="bfloat16")), 0.01)
    merged, _ = merging.merge(attached)
    assert {p.dtype for p in merged.parameters()} == {torch.float32}
    assert attached.model.get_base_model().dtype == torch.bfloat16
    facts = merging.cast(merged, torch.bfloat16)
    assert 0 <= facts["merge_kl"] <= 1e-3 and facts["merge_equal"] >= 0.95
    assert merged.dtype == torch.bfloat16


def test_a_merge_that_changes_the_logits_is_not_kept(saved):
    attached = stir(method("lora", rank=4).attach(load_weights(saved("llama"))))
    broken = dataclasses.replace(attached, merge=lambda: load_weights(saved("llama")))
    with pytest.raises(CheckFailed, match="limit 1e-05"):
        merging.merge(broken)


def test_a_method_that_cannot_merge_ends_with_exit_code_2(saved):
    with pytest.raises(UserError, match="prefix cannot be merged") as caught:
        merging.merge(method("prefix").attach(load(saved("llama")).model))
    assert caught.value.exit_code == 2


def test_full_tuning_merges_to_a_copy_of_its_own(saved):
    attached = method("full").attach(load_weights(saved("gpt2")))
    merged, _ = merging.merge(attached)
    wanted = logits(merged)
    stir(attached)
    assert torch.equal(logits(merged), wanted) and not torch.equal(logits(attached.model), wanted)
    assert attached.facts["trainable"] == attached.facts["total"] == sum(p.numel() for p in attached.model.parameters())


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("full", {}, "copy"),
        ("lisa", {"active": 1}, "copy"),
        ("lora", {"rank": 2, "init": "pissa"}, "copy"),
        ("lora", {"rank": 2, "init": "olora"}, "copy"),
        ("lora", {"rank": 2}, "off"),
    ],
)
def test_the_reference_stays_the_model_at_the_stages_start(saved, name, options, kind):
    attached = method(name, **options).attach(load_weights(saved("llama")))
    assert attached.reference_kind == kind
    start = logits(attached.model)
    reference = frozen_copy(attached)
    stir(attached)
    assert not torch.allclose(logits(attached.model), start, atol=1e-3)
    if kind == "off":
        assert reference is None
        with attached.model.disable_adapter():
            assert torch.equal(logits(attached.model), start)
    else:
        assert torch.equal(logits(reference), start)
        assert not any(p.requires_grad for p in reference.parameters())


def test_an_adapter_that_goes_on_training_has_its_own_start_as_reference_and_shares_the_base(saved, tmp_path):
    stir(method("lora", rank=2).attach(load_weights(saved("llama")))).save(tmp_path)
    attached = attach_saved(load_weights(saved("llama")), tmp_path, trainable=True)
    start = logits(attached.model)
    reference = frozen_copy(attached)
    stir(attached)
    assert torch.equal(logits(reference), start)
    pairs = zip(attached.model.named_parameters(), reference.parameters(), strict=True)
    shared = [name for (name, mine), theirs in pairs if mine is theirs]
    assert shared and not any("lora_" in name for name in shared)
    assert IDS.shape == (1, 8)
