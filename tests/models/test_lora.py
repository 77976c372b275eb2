"""LoRA: what it trains, counted by hand; what it says to a wrong target; and what it saves."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bottega.core.errors import UserError
from bottega.models.load import load, load_tokenizer, load_weights
from bottega.models.methods import METHODS, attach_saved, method, options_of
from bottega.models.tokenizer import extend_model

IDS = torch.tensor([[1, 44, 70, 80, 90, 100, 200, 300]])


def stir(attached, std=0.05):
    """Pretend that training moved every adapter tensor."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in attached.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * std)
    return attached


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def test_the_table_names_every_method_and_an_unknown_option_gets_the_nearest():
    assert {"full", "lora", "lisa", "prefix"} < set(METHODS)
    assert options_of("lora")["rank"].default == 16
    with pytest.raises(UserError, match="did you mean 'rank'"):
        method("lora", rnak=4)
    with pytest.raises(UserError, match="did you mean 'lora'"):
        method("loar")
    with pytest.raises(UserError, match="no option 'rank'"):
        method("full", rank=4)
    for wrong in ({"rank": 0}, {"dropout": 1.0}, {"init": "magic"}, {"lr_ratio": 0.0}, {"init": "pissa", "dora": True}):
        with pytest.raises(UserError, match="lora"):
            method("lora", **wrong)


def test_a_method_and_its_options_are_checked_without_importing_torch_or_peft():
    code = (
        "import sys; from bottega.models.methods import METHODS, method, options_of; "
        "[(method(n), options_of(n)) for n in METHODS]; "
        "assert not {'torch', 'peft', 'transformers'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("options", "trainable"),
    [
        # width 32, key/value width 16, feed-forward 48, 2 layers; rank r trains r * (in + out) numbers a layer
        ({"rank": 4}, 2 * 4 * ((32 + 32) + 2 * (32 + 16) + (32 + 32) + 2 * (32 + 48) + (48 + 32))),  # 3,712
        ({"rank": 8, "targets": ["q_proj", "v_proj"]}, 2 * 8 * ((32 + 32) + (32 + 16))),  # 1,792
        ({"rank": 8, "targets": "q_proj"}, 2 * 8 * (32 + 32)),
        ({"rank": 2, "targets": r"model\.layers\.1\..*proj"}, 2 * (64 + 2 * 48 + 64 + 2 * 80 + 80)),
        ({"rank": 2, "targets": "q_proj", "dora": True}, 2 * (2 * (32 + 32) + 32)),  # a magnitude for each output
        (
            {"rank": 2, "targets": "q_proj", "new_tokens": [300, 301, 301]},
            2 * 2 * 64 + 2 * 32 * 2,
        ),  # embedding and head rows
    ],
)
def test_the_number_of_trainable_numbers_is_the_formula(saved, options, trainable):
    attached = method("lora", **options).attach(load_weights(saved("llama")))
    assert attached.facts["trainable"] == trainable
    assert trainable == sum(p.numel() for p in attached.model.parameters() if p.requires_grad)
    assert trainable == sum(p.numel() for group in attached.groups for p in group["params"])


def test_gpt2s_transposed_layers_are_linear_layers_too(saved):
    attached = method("lora", rank=4).attach(load_weights(saved("gpt2")))
    assert attached.facts["targets"] == ["c_attn", "c_proj", "c_fc"]
    assert attached.facts["trainable"] == 2 * 4 * ((32 + 96) + (32 + 32) + (32 + 128) + (128 + 32))  # 4,096


@pytest.mark.parametrize("targets", ["q_porj", ["q_proj", "nope"], r"model\.layers\.9\..*", "("])
def test_a_target_that_matches_nothing_lists_the_names_that_exist(saved, targets):
    with pytest.raises(UserError) as caught:
        method("lora", targets=targets).attach(load_weights(saved("llama")))
    said = str(caught.value)
    assert caught.value.exit_code == 2
    assert "q_proj, k_proj, v_proj" in said or "neither a layer nor a regular expression" in said


def test_a_name_that_also_fits_other_layers_is_kept_to_the_layers_matched(saved, tmp_path):
    attached = method("lora", rank=2, targets=r".*layers\.0\.mlp\.up_proj").attach(load_weights(saved("llama")))
    assert attached.facts["trainable"] == 2 * (32 + 48)
    attached.save(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == [
        "model.layers.0.mlp.up_proj"
    ]


def test_lora_plus_gives_b_a_learning_rate_of_its_own(saved):
    groups = method("lora", rank=2, lr_ratio=16.0).attach(load_weights(saved("llama"))).groups
    by_scale = {group["lr_scale"]: group for group in groups}
    assert set(by_scale) == {1.0, 16.0}
    assert all("lora_B" in name for name in by_scale[16.0]["names"])


@pytest.mark.parametrize("init", ["zero", "gaussian", "orthogonal", "pissa", "olora"])
def test_every_start_begins_at_the_base_and_says_what_its_reference_is(saved, init):
    model = load_weights(saved("llama"))
    before = logits(model)
    attached = method("lora", rank=4, init=init).attach(model)
    assert torch.allclose(logits(attached.model), before, atol=2e-5)
    with attached.model.disable_adapter():
        off_is_base = torch.allclose(logits(attached.model), before, atol=2e-5)
    assert (attached.reference_kind == "off") == off_is_base


def test_a_second_adapter_on_a_first_is_refused(saved):
    attached = method("lora", rank=2).attach(load_weights(saved("llama")))
    with pytest.raises(UserError, match="already carries an adapter"):
        method("lora", rank=2).attach(attached.model.get_base_model())


def test_a_saved_adapter_goes_on_training_in_float32_on_a_half_precision_base(saved, tmp_path):
    stir(method("lora", rank=2).attach(load_weights(saved("llama")))).save(tmp_path)
    attached = attach_saved(load_weights(saved("llama"), dtype="bfloat16"), tmp_path, trainable=True)
    learning = [p for p in attached.model.parameters() if p.requires_grad]
    assert {p.dtype for p in learning} == {torch.float32}
    assert sum(p.numel() for p in learning) == attached.facts["trainable"] == 2 * 2 * (64 + 96 + 64 + 160 + 80)
    assert attached.reference_kind == "copy"


@pytest.mark.parametrize("tied", [False, True])
def test_new_token_embeddings_are_saved_and_reloaded_and_tied_models_stay_tied(saved, tmp_path, tied):
    folder = saved("llama", tie_word_embeddings=tied)
    model, tokenizer = load_weights(folder), load_tokenizer(folder)
    before = logits(model)
    tokenizer.add_tokens(["<|new|>", "<|newer|>"])
    fresh = extend_model(model, tokenizer)
    assert fresh == [320, 321] and model.get_input_embeddings().weight.shape[0] == 384
    assert torch.equal(logits(model)[..., :320], before)
    attached = stir(method("lora", rank=2, targets="q_proj", new_tokens=fresh).attach(model))
    assert attached.facts["trainable"] == 2 * 2 * 64 + 2 * 32 * (1 if tied else 2)
    with attached.model.disable_adapter():
        assert torch.equal(logits(attached.model)[..., :320], before)
    ids = torch.tensor([[1, 320, 321, 44]])
    wanted = attached.model.eval()(ids).logits
    inner = attached.model.get_base_model()
    assert inner.config.tie_word_embeddings == tied
    attached.save(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert loaded.tokenizer.convert_tokens_to_ids("<|newer|>") == 321
    assert torch.allclose(loaded.model(ids).logits, wanted, atol=1e-6)
    merged = loaded.attached.merge()
    assert torch.allclose(merged(ids).logits, wanted, atol=2e-5)
    assert (merged.get_output_embeddings().weight is merged.get_input_embeddings().weight) == tied
