"""Loading: what a user may call a model, what is refused, and what a loaded model carries."""

import json
import shutil

import pytest
import torch

from bottega.core import rundir
from bottega.core.errors import Unsafe, UserError
from bottega.models import safety
from bottega.models.load import load, load_tokenizer
from bottega.models.locate import locate, newest_result
from bottega.models.methods import method

SHAPES = ("llama", "qwen3", "mistral", "granite", "gpt2", "gpt_neox")
IDS = torch.tensor([[1, 44, 70, 80, 90, 100]])


@pytest.fixture
def own(saved, tmp_path):
    """A copy of the tiny llama that a test may spoil."""
    shutil.copytree(saved("llama"), tmp_path / "own")
    return tmp_path / "own"


def change(path, **keys):
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@pytest.mark.parametrize("family", SHAPES)
def test_each_shape_loads_in_the_dtype_asked_for_and_says_how_it_is_packed(saved, family):
    loaded = load(saved(family), dtype="bfloat16")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.packs and loaded.adapter is None and not loaded.model.training
    assert loaded.notes[0].startswith("packed: ") and loaded.notes[1].startswith("head: ")
    assert len(loaded.tokenizer) <= loaded.model.config.vocab_size


def test_a_tokenizer_of_the_generic_class_gets_no_tokens_of_its_family(saved):
    assert len(load_tokenizer(saved("qwen2"))) == 320


def test_the_identity_changes_with_one_byte_of_the_weights(own):
    before = load(own).identity
    assert load(own).identity == before
    data = bytearray((own / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (own / "model.safetensors").write_bytes(data)
    assert load(own).identity != before


def test_a_folder_with_only_a_pickle_is_refused_with_exit_code_4(own):
    (own / "model.safetensors").unlink()
    torch.save({"w": torch.zeros(1)}, own / "pytorch_model.bin")
    with pytest.raises(Unsafe, match="pytorch_model.bin") as caught:
        load(own)
    assert caught.value.exit_code == 4


def test_a_config_with_auto_map_is_refused_before_its_code_runs(own):
    (own / "evil.py").write_text("raise SystemExit('ran')\n")
    change(own / "config.json", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    with pytest.raises(Unsafe, match="auto_map"):
        load(own)
    with pytest.raises(Unsafe, match="hash"):
        load(own, trust=True)


def test_code_that_comes_with_a_model_runs_only_with_trust_and_its_hash(own, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (own / "modeling.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n\n"
        "class Config(LlamaConfig):\n    model_type = 'own'\n\n\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
    )
    change(
        own / "config.json",
        model_type="own",
        auto_map={"AutoConfig": "modeling.Config", "AutoModelForCausalLM": "modeling.Model"},
    )
    loaded = load(own, trust=True, revision=safety.code_hash(own))
    assert type(loaded.model).__module__.endswith("modeling") and loaded.packs
    (own / "modeling.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(Unsafe, match="hash"):
        load(own, trust=True, revision=safety.code_hash(tmp_path / "nowhere"))


def test_trust_in_an_adapter_is_no_trust_in_the_base_that_it_names(own, tmp_path):
    method("lora", rank=2).attach(load(own).model).save(tmp_path / "adapter")
    change(own / "config.json", auto_map={"AutoConfig": "evil.Config"})
    with pytest.raises(Unsafe, match="auto_map"):
        load(tmp_path / "adapter", trust=True, revision=safety.code_hash(tmp_path / "adapter"))


def test_the_tokenizer_of_a_published_model_loads(shared_data):
    folder = shared_data("tokenizers/granite-7b-lab")
    tokenizer = load_tokenizer(folder)
    ids = tokenizer("Anna keeps 12 keys").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Anna keeps 12 keys" and tokenizer.chat_template


def test_an_unknown_underscore_key_is_refused(own):
    change(own / "config.json", _attn_implementation_internal="someone/kernel")
    with pytest.raises(Unsafe, match="_attn_implementation_internal"):
        load(own)


def test_a_flipped_header_bit_is_refused(own):
    data = bytearray((own / "model.safetensors").read_bytes())
    data[3] ^= 4
    (own / "model.safetensors").write_bytes(data)
    with pytest.raises(Unsafe, match="damaged"):
        load(own)


def test_weights_that_lack_a_tensor_are_refused_not_filled_with_noise(own):
    from safetensors.torch import load_file, save_file

    tensors = load_file(own / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, own / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 of the tensors.*up_proj"):
        load(own)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"model_type": "no_such_family"}, "does not load"),
        ({"hidden_size": 64}, "does not load"),
        ({"hidden_size": "wide"}, "does not load"),
        ({"num_hidden_layers": None}, "does not load"),
        ({"rope_parameters": {"rope_type": "nonsense"}}, "does not load"),
        ({"vocab_size": -1}, "does not load"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
    ],
)
def test_a_config_that_does_not_load_is_one_sentence(own, keys, said):
    change(own / "config.json", **keys)
    with pytest.raises(UserError, match=said) as caught:
        load(own)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"model": {"type": "BPE", "vocab": 3}}'])
def test_a_broken_tokenizer_is_one_sentence(own, content):
    (own / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="does not load") as caught:
        load(own)
    assert "\n" not in str(caught.value)


def test_a_folder_that_calls_itself_another_kind_of_model_lacks_its_tensors(tmp_path, own):
    change(own / "config.json", model_type="t5", is_encoder_decoder=True)
    with pytest.raises(UserError, match="lacks .* tensors of T5ForConditionalGeneration"):
        load(own)


def test_a_tokenizer_larger_than_the_model_is_refused(own):
    tokenizer = load_tokenizer(own)
    tokenizer.add_tokens(["<|new|>"])
    tokenizer.save_pretrained(own)
    with pytest.raises(UserError, match="321 tokens but the model only 320"):
        load(own)


def test_a_name_that_is_nothing_names_the_remedy_and_offline_opens_no_connection(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        load("./not/here")
    with pytest.raises(UserError, match="offline is set"):
        load("somebody/some-model", offline=True)
    with pytest.raises(UserError, match="neither config.json"):
        load(tmp_path)
    with pytest.raises(UserError, match="dtype 'float31'"):
        load(tmp_path, dtype="float31")


def test_a_hub_model_in_the_cache_loads_offline_and_is_known_by_its_commit(saved, tmp_path, monkeypatch):
    commit = "c" * 40
    cache = tmp_path / "models--owner--tiny"
    shutil.copytree(saved("llama"), cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    loaded = load("owner/tiny", offline=True)
    assert loaded.identity == f"owner/tiny@{commit}"
    method("lora", rank=2).attach(loaded.model).save(tmp_path / "adapter")
    assert (
        json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "owner/tiny"
    )
    assert load(tmp_path / "adapter", offline=True).adapter == str(tmp_path / "adapter")


def test_garzone_is_found_beside_the_code_and_adapters_on_it_can_move(saved, tmp_path, monkeypatch):
    monkeypatch.setattr("bottega.models.locate.GARZONE", tmp_path)
    with pytest.raises(UserError, match="not in this copy"):
        load("garzone")
    monkeypatch.setattr("bottega.models.locate.GARZONE", saved("llama"))
    method("lora", rank=2).attach(load("garzone").model).save(tmp_path / "adapter")
    assert "garzone" in (tmp_path / "adapter" / "adapter_config.json").read_text()
    assert locate(str(tmp_path / "adapter")).base == saved("llama")


def test_an_adapter_folder_brings_its_base_in_the_dtype_asked_for(saved, tmp_path):
    base = load(saved("llama"))
    attached = method("lora", rank=2).attach(base.model)
    with torch.no_grad():
        for name, parameter in attached.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
        wanted = attached.model.eval()(IDS).logits
    attached.save(tmp_path / "adapter")
    loaded = load(tmp_path / "adapter")
    assert torch.equal(loaded.model(IDS).logits, wanted)
    assert loaded.identity.count("sha256:") == 2 and loaded.attached.merge is not None
    again = load(tmp_path / "adapter", trainable=True)
    assert again.packs and again.model.config._attn_implementation == "bottega_packed"
    assert (
        sum(len(group["params"]) for group in again.attached.groups) == 2 * 7 * 2
    )  # A and B of 7 matrices in 2 layers
    half = load(tmp_path / "adapter", dtype="bfloat16").model
    assert half.model.embed_tokens.weight.dtype == torch.bfloat16


def stirred(attached):
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in attached.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return attached


def test_an_adapter_on_an_adapter_is_loaded_on_the_inner_one_merged_wherever_both_are_moved(saved, tmp_path):
    stirred(method("lora", rank=2).attach(load(saved("llama")).model)).save(tmp_path / "run" / "first")
    inner = load(tmp_path / "run" / "first")
    outer = stirred(method("lora", rank=3, targets="q_proj").attach(inner.attached.merge()))
    wanted = outer.model.eval()(IDS).logits
    outer.save(tmp_path / "run" / "second")
    change(tmp_path / "run" / "second" / "adapter_config.json", base_model_name_or_path="../first")
    (tmp_path / "run").rename(tmp_path / "moved")
    loaded = load(tmp_path / "moved" / "second")
    assert torch.allclose(loaded.model(IDS).logits, wanted, atol=1e-5)
    assert loaded.packs and loaded.identity.count("sha256:") == 3
    change(tmp_path / "moved" / "second" / "adapter_config.json", base_model_name_or_path=".")
    with pytest.raises(UserError, match="more than 3 adapters"):
        load(tmp_path / "moved" / "second")


def test_an_adapter_whose_base_is_gone_names_both(saved, tmp_path):
    shutil.copytree(saved("llama"), tmp_path / "base")
    method("lora", rank=2).attach(load(tmp_path / "base").model).save(tmp_path / "adapter")
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(UserError, match=r"the base of the adapter .*adapter: there is no folder"):
        load(tmp_path / "adapter", offline=True)


def test_an_adapter_pickle_is_refused(saved, tmp_path):
    method("lora", rank=2).attach(load(saved("llama")).model).save(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(Unsafe, match="adapter_model.bin"):
        load(tmp_path)


@pytest.mark.parametrize(
    "keys",
    [
        {"r": 0},
        {"r": "many"},
        {"target_modules": 5},
        {"target_modules": ["nothing"]},
        {"peft_type": "NEW"},
        {"peft_type": 3},
    ],
)
def test_an_adapter_config_that_makes_no_sense_is_one_sentence(saved, tmp_path, keys):
    method("lora", rank=2).attach(load(saved("llama")).model).save(tmp_path)
    change(tmp_path / "adapter_config.json", **keys)
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_an_adapter_of_another_shape_is_refused_in_one_sentence(saved, tmp_path):
    method("lora", rank=2).attach(load(saved("gpt2")).model).save(tmp_path)
    change(tmp_path / "adapter_config.json", base_model_name_or_path=str(saved("llama")))
    with pytest.raises(UserError, match="its base lacks"):
        load(tmp_path)


def test_a_run_folder_gives_its_newest_sound_result_and_names_the_damaged_one(saved, tmp_path):
    stages = tmp_path / "run" / "stages"
    for name in ("01-adapt/result", "02-tune/checkpoints/step-0000010/model", "02-tune/checkpoints/step-0000020/model"):
        shutil.copytree(saved("llama"), stages / name)
    for name in ("01-adapt/result", "02-tune/checkpoints/step-0000010", "02-tune/checkpoints/step-0000020"):
        rundir.write_manifest(stages / name)
    newest = stages / "02-tune" / "checkpoints" / "step-0000020"
    assert locate(str(tmp_path / "run")).base == newest / "model"
    weights = newest / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-9] ^= 16
    weights.write_bytes(data)
    loaded = load(tmp_path / "run")
    assert loaded.folder == stages / "02-tune" / "checkpoints" / "step-0000010" / "model"
    assert any("step-0000020" in note and "sha256" in note for note in loaded.notes)
    assert locate(str(newest)).base == newest / "model"


def test_a_run_with_nothing_saved_or_nothing_sound_says_so(saved, tmp_path):
    result = tmp_path / "run" / "stages" / "01-adapt" / "result"
    result.parent.mkdir(parents=True)
    with pytest.raises(UserError, match="saved no model"):
        newest_result(tmp_path / "run")
    shutil.copytree(saved("llama"), result)
    rundir.write_manifest(result)
    (result / "config.json").write_text("{}")
    with pytest.raises(Unsafe, match="no sound result") as caught:
        newest_result(tmp_path / "run")
    assert caught.value.exit_code == 4
