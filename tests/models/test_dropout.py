"""Dropout off in training mode: every family that has some becomes the function it is in evaluation, and its config stays."""

import pytest
import torch

from bottega.models.dropout import still
from bottega.models.load import load
from bottega.models.methods import method

WITH = {
    "llama": {"attention_dropout": 0.3},
    "gpt2": {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3},
    "gpt_neox": {"hidden_dropout": 0.3, "attention_dropout": 0.3},
    "opt": {"dropout": 0.3, "attention_dropout": 0.3},
    "bloom": {"hidden_dropout": 0.3, "attention_dropout": 0.3},
    "mpt": {"resid_pdrop": 0.3, "emb_pdrop": 0.3},
    "gptj": {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3},
    "falcon": {"hidden_dropout": 0.3, "attention_dropout": 0.3},
    "phi": {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attention_dropout": 0.3},
    "stablelm": {"hidden_dropout": 0.3, "attention_dropout": 0.3},
    "t5": {"dropout_rate": 0.3},
    "bart": {"dropout": 0.3, "attention_dropout": 0.3, "activation_dropout": 0.3},
}


@pytest.mark.parametrize("family", WITH)
def test_a_model_without_its_dropout_says_in_training_what_it_says_in_evaluation(saved, family):
    model = load(saved(family, **WITH[family])).model
    attached = method("lora", rank=2, dropout=0.3).attach(model).model
    for name, parameter in attached.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    ids = torch.arange(3, 15).view(2, 6)
    more = {"decoder_input_ids": ids.flip(1)} if family in ("t5", "bart") else {}
    torch.manual_seed(0)

    def said():
        with torch.no_grad():
            return attached(input_ids=ids, **more).logits

    attached.eval()
    wanted = said()
    attached.train()
    assert not torch.allclose(said(), wanted, atol=1e-3)
    assert still(attached) > 0 and attached.training
    assert torch.allclose(said(), wanted, atol=1e-5)
    assert still(attached) == 0, "none is left"
    assert all(getattr(model.config, name) == rate for name, rate in WITH[family].items())
