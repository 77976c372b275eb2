"""What we save is what others read: plain transformers and plain PEFT give the logits that we trained."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from bottega.core.types import Row, Tokens
from bottega.models import layout
from bottega.models import merge as merging
from bottega.models.load import load
from bottega.models.methods import method
from tests.models.test_lora import IDS, logits, stir
from tests.models.tiny import CHATML

SHAPES = ("llama", "qwen3", "mistral", "granite", "gpt2", "gpt_neox")


def plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


@pytest.mark.parametrize("family", SHAPES)
def test_a_loaded_model_has_the_logits_of_plain_transformers(saved, family):
    wanted = logits(plain(saved(family)))
    assert torch.allclose(logits(load(saved(family)).model), wanted, atol=1e-5)


@pytest.mark.parametrize("family", SHAPES)
def test_a_fully_tuned_model_reloads_in_plain_transformers(saved, tmp_path, family):
    loaded = load(saved(family))
    attached = stir(method("full").attach(loaded.model))
    attached.save(tmp_path)
    assert torch.allclose(logits(plain(tmp_path)), logits(attached.model), atol=1e-5)
    assert "bottega" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("family", SHAPES)
def test_an_adapter_reloads_in_plain_peft_and_merged_in_plain_transformers(saved, tmp_path, family):
    loaded = load(saved(family))
    attached = stir(method("lora", rank=4).attach(loaded.model))
    wanted = logits(attached.model)
    attached.save(tmp_path / "adapter")
    reloaded = PeftModel.from_pretrained(plain(saved(family)), tmp_path / "adapter")
    assert torch.allclose(logits(reloaded), wanted, atol=1e-5)
    merged, _ = merging.merge(attached)
    merging.save_model(merged, loaded.tokenizer, tmp_path / "merged")
    assert torch.allclose(logits(plain(tmp_path / "merged")), wanted, atol=1e-5 * max(1.0, float(wanted.abs().max())))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged", local_files_only=True)
    assert tokenizer.chat_template == CHATML
    assert tokenizer("Anna keeps 12 keys").input_ids == loaded.tokenizer("Anna keeps 12 keys").input_ids


@pytest.mark.parametrize(
    "options",
    [
        {"rslora": True},
        {"dora": True},
        {"init": "pissa"},
        {"init": "olora"},
        {"init": "pissa", "rslora": True},
        {"init": "orthogonal"},
        {"targets": ["q_proj", "down_proj"], "alpha": 5.0},
        {"targets": r".*layers\.1\..*(up|gate)_proj"},
        {"targets": "q_proj", "new_tokens": [5, 300]},
    ],
)
def test_every_kind_of_lora_reloads_in_plain_peft_on_the_untouched_base(saved, tmp_path, options):
    attached = stir(method("lora", rank=4, **options).attach(load(saved("llama")).model), 0.02)
    attached.save(tmp_path)
    reloaded = PeftModel.from_pretrained(plain(saved("llama")), tmp_path)
    assert torch.allclose(logits(reloaded), logits(attached.model), atol=2e-5)
    assert torch.allclose(logits(load(tmp_path).model), logits(attached.model), atol=2e-5)


def test_an_adapter_made_by_plain_peft_loads_here(saved, tmp_path):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=7, target_modules=["q_proj", "k_proj"], init_lora_weights=False)
    theirs = get_peft_model(plain(saved("llama")), config)
    theirs.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert torch.allclose(logits(load(tmp_path).model), logits(theirs), atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gpt_neox", "granite"])
def test_prefixes_reload_in_plain_peft(saved, tmp_path, family):
    model = load(saved(family)).model
    attached = method("prefix", length=5).attach(model)
    attached.save(tmp_path)
    rows = [Row(index=0, branches=(Tokens(IDS[0].tolist(), [0.0] * IDS.shape[1]),))]
    laid, _ = layout.lay(rows, packed=True, num_prefix=5)
    laid.geometry.prefix_kv = attached.inputs.prefix_kv
    with torch.no_grad():
        ours = model(laid.ids_BT, position_ids=laid.positions_BT, layout=laid.geometry, use_cache=False).logits
    theirs = logits(PeftModel.from_pretrained(plain(saved(family)), tmp_path))
    assert torch.allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("family", SHAPES)
def test_padded_generation_and_cached_decoding_stay_those_of_plain_transformers(saved, family):
    ours, theirs = load(saved(family)).model, plain(saved(family))
    ids = torch.tensor([[0, 0, 1, 44, 70], [1, 44, 70, 80, 90]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(ours.generate(ids, **options), theirs.generate(ids, **options))
