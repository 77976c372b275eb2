"""Prepacked linear layers: the same numbers, the same model afterwards, newer weights at the next entry."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bottega.models import prepack
from bottega.models.generate import Generator
from tests.models.tiny import tiny_model

PROMPTS = [[1, 9, 40, 77, 200, 31, 8], [1, 50], [1, 300, 12, 13], [1, 9, 40, 77, 5], [250], [1, 60, 61]]
pytestmark = pytest.mark.skipif(not prepack.usable(), reason="this build of torch has no prepacked products")


@pytest.fixture
def any_size(monkeypatch):
    monkeypatch.setattr(prepack, "MIN_BYTES", 0)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi"])
def test_prepacked_layers_give_the_same_logits_and_leave_the_model_as_it_was(family, tmp_path, any_size):
    model = AutoModelForCausalLM.from_pretrained(tiny_model(family, tmp_path)).eval()
    before = dict(model.named_modules())
    ids = torch.randint(0, 320, (5, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        with prepack.prepacked(model, 5) as count:
            assert count >= 9, "all linear layers, the head too"
            assert torch.allclose(model(input_ids=ids).logits, plain, atol=1e-5)
    assert dict(model.named_modules()) == before and torch.equal(model(input_ids=ids).logits, plain)


def test_newer_weights_count_at_the_next_call(tmp_path, any_size):
    model = AutoModelForCausalLM.from_pretrained(tiny_model("llama", tmp_path)).eval()
    generator = Generator(model, AutoTokenizer.from_pretrained(tmp_path))
    first = generator.sample(PROMPTS, max_tokens=8, stop_ids=())
    donor = AutoModelForCausalLM.from_pretrained(tiny_model("llama", tmp_path / "donor", seed=3)).eval()
    model.load_state_dict(donor.state_dict())
    second = generator.sample(PROMPTS, max_tokens=8, stop_ids=())
    assert [r.ids for r in second] == [r.ids for r in Generator(donor).sample(PROMPTS, max_tokens=8, stop_ids=())]
    assert [r.ids for r in first] != [r.ids for r in second]


def test_single_rows_small_models_hooked_layers_and_other_dtypes_stay_as_they_are(tmp_path, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(tiny_model("llama", tmp_path)).eval()
    with prepack.prepacked(model, 8) as count:
        assert count == 0, "smaller than the cache"
    monkeypatch.setattr(prepack, "MIN_BYTES", 0)
    with prepack.prepacked(model, 1) as count:
        assert count == 0
    with prepack.prepacked(model, 8) as whole:
        pass
    handle = model.lm_head.register_forward_hook(lambda *_: None)
    with prepack.prepacked(model, 8) as count:
        assert count == whole - 1
    handle.remove()
    with prepack.prepacked(model.bfloat16(), 8) as count:
        assert count == 0
