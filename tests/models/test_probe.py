"""The numeric probe: which way a family goes, and that trying leaves no trace."""

import pytest
import torch

from bottega.models import attention
from bottega.models.heads import undisturbed
from bottega.models.load import load, load_weights
from bottega.models.probe import probe

PACKED = ("llama", "qwen3", "mistral", "granite", "gpt2", "gpt_neox", "gemma2", "gemma3_text", "mixtral", "phi3")
BUCKETED = ("bloom", "mpt", "gptj", "falcon", "stablelm")


@pytest.mark.parametrize("family", PACKED)
def test_families_whose_packed_rows_equal_separate_ones_are_packed(saved, family):
    model = load_weights(saved(family))
    found = probe(model)
    assert found.packs and found.difference < 1e-5, found.why
    assert model.config._attn_implementation == attention.NAME


@pytest.mark.parametrize("family", BUCKETED)
def test_families_that_refuse_ignore_or_drop_the_layout_are_bucketed_and_left_as_they_were(saved, family):
    model = load_weights(saved(family))
    before = model.config._attn_implementation
    ids = torch.tensor([[1, 44, 70, 80]])
    logits = model(ids).logits
    found = probe(model)
    assert not found.packs and found.notes()[0].startswith("length-bucketed: ")
    assert model.config._attn_implementation == before
    assert torch.equal(model(ids).logits, logits)


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text"])
def test_a_window_longer_than_the_probe_is_tried_on_a_small_twin(saved, family):
    found = probe(load_weights(saved(family, sliding_window=64)))
    assert found.packs and "window of 64 tried on a twin" in found.why


def test_half_precision_hides_small_leaks_so_a_float32_twin_is_tried(saved):
    loaded = load(saved("llama"), dtype="bfloat16")
    assert loaded.packs and "float32 twin" in loaded.notes[0]


def test_a_head_with_scale_or_cap_is_found_by_its_numbers(saved):
    assert probe(load_weights(saved("granite"))).head == "linear head in chunks with scale 0.25"
    assert "soft cap 30" in probe(load_weights(saved("gemma2"))).head
    assert probe(load_weights(saved("phi"))).head == "linear head in chunks"  # with its bias


def test_modes_and_random_state_are_put_back(saved):
    model = load_weights(saved("llama")).train()
    model.model.layers[1].eval()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    probe(model)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training and not model.model.layers[1].training and model.model.layers[0].mlp.training
    with undisturbed(model):
        assert not model.training and not torch.is_grad_enabled()
        torch.rand(3)
    assert torch.equal(before, torch.get_rng_state()) and torch.is_grad_enabled()


def test_a_config_shared_by_two_models_is_not_changed_for_the_other(saved):
    from transformers import AutoModelForCausalLM

    first = load_weights(saved("llama"))
    second = AutoModelForCausalLM.from_config(first.config)
    assert probe(first).packs
    assert second.config._attn_implementation != attention.NAME
