"""Generation with what training does to a model: our attention function, LoRA, prefixes; numbers equal the Scorer's.

Left out: plain models (test_generate.py).
"""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from bottega.core.types import Attached, Row, Tokens
from bottega.models import attention
from bottega.models.generate import Generator, evaluating
from bottega.models.layout import lay
from bottega.models.methods.lora import Lora
from bottega.models.methods.prefix import Prefix
from bottega.models.score import Scorer
from tests.models.tiny import tiny_model

PROMPTS = [[1, 9, 40, 77, 200, 31, 8], [1, 50], [1, 300, 12, 13], [1, 9, 40, 77, 5]]
NEW = 10


def load(family, folder, packed=True):
    model = AutoModelForCausalLM.from_pretrained(tiny_model(family, folder)).eval()
    if packed:
        attention.install(model)
    return model


def scored(attached: Attached, prompt, ids):
    """Log-probabilities of a reply by the Scorer, packed: what training would compute for it."""
    num_prefix = attached.inputs.num_prefix if attached.inputs else 0
    row = Row(index=0, prefix=Tokens(prompt, [0.0] * len(prompt)), branches=(Tokens(list(ids), [1.0] * len(ids)),))
    layout, targets = lay([row], packed=True, num_prefix=num_prefix)
    with evaluating(attached.model):
        return Scorer(attached, vocabulary=320)(layout, targets, ("logp",))["logp"]


def plain(model):
    return Attached(name="full", model=model, groups=[], save=lambda folder: None, merge=None)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2"])
def test_with_our_attention_function_a_padded_batch_samples_at_the_scorers_log_probabilities(family, tmp_path):
    model = load(family, tmp_path)
    generator = Generator(model)
    replies = generator.sample(PROMPTS, max_tokens=NEW, temperature=1.0, seed=3, stop_ids=())
    assert generator.chosen_way() == "masks"
    for prompt, reply in zip(PROMPTS, replies):
        assert torch.allclose(torch.tensor(reply.logps), scored(plain(model), prompt, reply.ids), atol=2e-4)


def test_a_lora_adapter_changes_the_reply_and_switched_off_does_not(tmp_path):
    bare = load("llama", tmp_path)
    before = Generator(bare).sample(PROMPTS, max_tokens=NEW, stop_ids=())
    attached = Lora(rank=4).attach(load("llama", tmp_path))
    generator = Generator(attached.model)
    assert [r.ids for r in generator.sample(PROMPTS, max_tokens=NEW, stop_ids=())] == [r.ids for r in before]
    with torch.no_grad():
        for name, parameter in attached.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    after = generator.sample(PROMPTS, max_tokens=NEW, stop_ids=())
    assert [r.ids for r in after] != [r.ids for r in before]
    for prompt, reply in zip(PROMPTS, after):
        assert torch.allclose(torch.tensor(reply.logps), scored(attached, prompt, reply.ids), atol=2e-4)


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_a_tuned_prefix_is_seen_by_decoding_as_by_training(family, tmp_path):
    """Under a sliding window of 4 too: prefix positions are seen by every query, however far it is."""
    attached = Prefix(length=3, seed=2).attach(load(family, tmp_path))
    generator = Generator(attached.model, inputs=attached.inputs)
    replies = generator.sample(PROMPTS, max_tokens=NEW, stop_ids=())
    for prompt, reply in zip(PROMPTS, replies):
        assert torch.allclose(torch.tensor(reply.logps), scored(attached, prompt, reply.ids), atol=2e-4)
    without = Generator(attached.model).sample(PROMPTS, max_tokens=NEW, stop_ids=())
    assert [r.ids for r in without] != [r.ids for r in replies]
